"""Torch7 files of n elements, in thirty shapes, for :mod:`growth`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from dpnn_bridge.objects import LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

Obj, Table = LuaObject, LuaTable


def storage(n: int) -> LuaStorage:
    return LuaStorage("torch.DoubleStorage", n, np.zeros(n))


def view(of: LuaStorage, offset: int, *shape: int) -> LuaTensor:
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return LuaTensor("torch.DoubleTensor", shape, strides, offset, of)


def tensor(*shape: int) -> LuaTensor:
    shape = shape or (1,)
    return view(storage(math.prod(shape)), 0, *shape)


def linear(weight: LuaTensor | None = None, inputs: int = 1, **fields: Any) -> LuaObject:
    given = {"weight": weight or tensor(1, inputs), "bias": tensor(1), "gradWeight": tensor(1, inputs)}
    return Obj("nn.Linear", Table({**given, "gradBias": tensor(1), "train": True, **fields}))


def tanh() -> LuaObject:
    return Obj("nn.Tanh", Table({"train": True}))


def container(modules: list[LuaObject], name: str = "nn.Sequential") -> LuaObject:
    return Obj(name, Table({"modules": Table.from_list(modules), "train": True}))


def graph(
    n: int,
    sources: Callable[[int], Any],
    label: str = "",
    module: Callable[[int], LuaObject] = lambda i: tanh(),
) -> LuaObject:
    """Return an ``nn.gModule`` of n modules: node i takes what the nodes of ``sources(i)`` give, 0 is the input."""
    notes = {"name": label} if label else {}
    data = [Table({"annotations": Table(notes), "mapindex": Table(), "reverseMap": Table()}) for _ in range(n + 2)]
    rest = {"visited": False, "marked": False}
    nodes = [
        Obj("nngraph.Node", Table({"id": i + 1, "children": Table(), "data": d, **rest})) for i, d in enumerate(data)
    ]
    for i in range(1, n + 2):
        if i <= n:
            data[i]["module"] = module(i)
        for k, source in enumerate(sources(i), 1):
            data[i]["mapindex"][k], data[i]["mapindex"][data[source]] = data[source], k
            children = nodes[source]["children"]
            children[len(children) + 1] = nodes[i]
    whole = Obj("graph.Graph", Table({"nodes": Table.from_list(nodes), "edges": Table()}))
    modules = Table.from_list([d["module"] for d in data[1:-1]])
    ends = {"innode": nodes[0], "outnode": nodes[-1], "forwardnodes": Table.from_list(nodes), "backwardnodes": Table()}
    return Obj("nn.gModule", Table({"fg": whole, "bg": whole, **ends, "nInputs": 1, "modules": modules, "train": True}))


def nested(n: int) -> LuaObject:
    model = linear()
    for _ in range(60):
        model = container([model, *(tanh() for _ in range(max(1, n // 60)))])
    return model


def deep(n: int) -> LuaTable:
    table: Any = linear()
    for _ in range(n):
        table = Table({"a": table})
    return table


def one_storage(n: int) -> LuaObject:
    whole = storage(n)
    return container([linear(view(whole, i, 1, 1)) for i in range(n)])


def overlapping(n: int) -> LuaObject:
    whole = storage(n + 1)
    return container([linear(view(whole, i, 1, 2), 2) for i in range(n)], "nn.ConcatTable")


def views(n: int) -> LuaTable:
    whole = storage(n)
    return Table({f"k{i}": view(whole, i, 1) for i in range(n)})


def function(i: int) -> LuaFunction:
    return LuaFunction(b"\x1bLJ\x02\x02" + b"x" * 30, Table())


def same(n: int, value: Any) -> list[Any]:
    return [value] * n


def join(i: int) -> LuaObject:
    return Obj("nn.JoinTable", Table({"train": True, "dimension": 1, "size": Table()}))


#: name -> what it makes of n
SHAPES: dict[str, Callable[[int], Any]] = {
    "modules: linear": lambda n: container([linear() for _ in range(n)]),
    "modules: one linear n times": lambda n: container(same(n, linear())),
    "modules: tanh": lambda n: container([tanh() for _ in range(n)]),
    "modules: parallel": lambda n: container([tanh() for _ in range(n)], "nn.ConcatTable"),
    "modules: 60 levels": nested,
    "modules: views of one storage": one_storage,
    "modules: one weight": lambda n: container([linear(w) for w in same(n, tensor(1, 1))]),
    "modules: overlapping weights": overlapping,
    "modules: unknown classes": lambda n: container([Obj(f"my.C{i}", Table({"train": True})) for i in range(n)]),
    "modules: one unknown class": lambda n: container([Obj("my.C", Table({"x": i})) for i in range(n)]),
    "modules: a long class name": lambda n: container([Obj("nn." + "x" * 16 * n, Table({"train": True}))]),
    "modules: fields of numbers": lambda n: container([linear(**{f"f{i}": float(i) for i in range(n)})]),
    "modules: fields of tensors": lambda n: container([linear(**{f"f{i}": tensor() for i in range(n)})]),
    "graphs: a chain": lambda n: graph(n, lambda i: [i - 1]),
    "graphs: a chain of linear": lambda n: graph(n, lambda i: [i - 1], module=lambda i: linear()),
    "graphs: one name": lambda n: graph(n, lambda i: [i - 1], label="same"),
    "graphs: all from the input": lambda n: graph(n, lambda i: [0] if i <= n else range(1, n + 1)),
    "graphs: all into one": lambda n: graph(
        n,
        lambda i: [0] if i < n else range(1, n) if i == n else [n],
        module=lambda i: tanh() if i < n else join(i),
    ),
    "graphs: 30 sources each": lambda n: graph(
        n, lambda i: range(max(0, i - 30), i), module=lambda i: Obj("nn.CAddTable", Table({"train": True}))
    ),
    "tables: tensors": lambda n: Table({f"k{i}": tensor() for i in range(n)}),
    "tables: views of one storage": views,
    "tables: one tensor n times": lambda n: Table({f"k{i}": t for i, t in enumerate(same(n, tensor()))}),
    "tables: models": lambda n: Table({f"m{i}": container([linear()]) for i in range(n)}),
    "tables: n levels": deep,
    "tables: a list": lambda n: Table.from_list([float(i) for i in range(n)]),
    "tables: functions": lambda n: Table.from_list([function(i) for i in range(n)]),
    "text: strings": lambda n: Table({f"s{i}": "x" * 50 for i in range(n)}),
    "text: a long string": lambda n: Table({"a": "x" * 50 * n, "m": linear()}),
    "text: a long key": lambda n: Table({"k" * 16 * n: container([linear()])}),
    "text: long keys": lambda n: Table({f"{i:08}" * 25: float(i) for i in range(n)}),
}
