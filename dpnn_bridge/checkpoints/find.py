"""Finds the models inside a checkpoint, whatever table they are wrapped in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from dpnn_bridge.checkpoints import onmt
from dpnn_bridge.errors import ModelNotFoundError, T7Error
from dpnn_bridge.graph import MAX_DEPTH, format_path, is_module
from dpnn_bridge.loaders import loads
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

#: keys under which training scripts keep the model, best first
PREFERRED = (
    *("model", "net", "network", "netG", "modelG", "G", "best_model", "protos", "rnn", "cnn", "lm"),
    *("encoder", "decoder"),
)


@dataclass
class Candidate:
    """A module inside a checkpoint.

    Attributes:
        key: its path, as ``load(key=…)`` takes it; empty when the file is the module.
        obj: the Lua object.
        is_criterion: its class is a criterion.
    """

    key: str
    obj: LuaObject
    is_criterion: bool


def candidates(root: Any, is_known: Callable[[LuaObject], bool] | None = None) -> list[Candidate]:
    """Every outermost module in ``root``, those under usual names first, criterions last.

    Args:
        root: what a file holds.
        is_known: whether an object's class is a known module class; default: ask the registry (which needs PyTorch).

    An object of a project's own class (``neuralconvo.Seq2Seq``) counts only when no known module is inside it. Strings
    and byte buffers that hold a serialized object are opened.
    """
    is_known = is_known or _is_known
    found: list[Candidate] = []
    seen: set[int] = set()
    stack: list[tuple[Any, tuple[Any, ...]]] = [(root, ())]
    while stack:
        value, path = stack.pop()
        value = opened(value)
        if not isinstance(value, (LuaTable, LuaObject)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, LuaObject) and is_module(value):
            inside = [] if is_known(value) else _inside(value, path)
            if not inside:
                key = format_path(list(path))
                found.append(Candidate(key, value, value.class_name.endswith("Criterion")))
            stack.extend(inside)
            continue
        stack.extend(_steps(value, path))
    return sorted(found, key=lambda c: (c.is_criterion, _rank(c.key)))


def _steps(value: LuaTable | LuaObject, path: tuple[Any, ...]) -> list[tuple[Any, tuple[Any, ...]]]:
    items = value.items() if isinstance(value, LuaTable) else value.fields.items()
    return [(v, (*path, k)) for k, v in reversed(list(items)) if isinstance(k, (str, int, float))]


def _is_known(obj: LuaObject) -> bool:
    """Whether a class is registered, or at least in the namespace of a package that is."""
    from dpnn_bridge.conversion import registry

    namespaces = {name.partition(".")[0] for name in registry.known_names() if "." in name}
    return registry.find(obj) is not None or obj.class_name.partition(".")[0] in namespaces


def _inside(obj: LuaObject, path: tuple[Any, ...]) -> list[tuple[Any, tuple[Any, ...]]]:
    """The fields of an unknown object when there is a known module among them, however deep."""
    from dpnn_bridge.conversion import registry

    seen: set[int] = {id(obj)}
    stack: list[Any] = list(obj.fields.values())
    while stack:
        value = opened(stack.pop())
        if not isinstance(value, (LuaTable, LuaObject)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, LuaObject) and is_module(value) and registry.find(value):
            return _steps(obj, path)
        stack.extend(value.values())
    return []


#: how a binary .t7 of a table, a torch object or a function begins
_SERIALIZED = tuple(code.to_bytes(4, "little") for code in (3, 4, 6, 7, 8))


def opened(value: Any) -> Any:
    """The object that a string or byte buffer holds in serialized form, or OpenNMT's tables; else ``value`` itself."""
    if isinstance(value, LuaTable):
        return onmt.to_object(value) or value
    if isinstance(value, str):
        if not value.startswith(("\x03\0\0\0", "\x04\0\0\0")) and not value.startswith("4\n1\n3\n"):
            return value
        data = value.encode("utf-8", "surrogateescape")
    elif isinstance(value, (LuaTensor, LuaStorage)) and value.dtype.itemsize == 1 and value.size > 8:
        data = value.numpy().tobytes()
        if not data.startswith(_SERIALIZED):
            return value
    else:
        return value
    try:
        return loads(data)
    except T7Error:
        return value


def _rank(key: str) -> tuple[int, ...]:
    parts = re.findall(r"[^.\[\]'\"]+", key)
    return tuple(PREFERRED.index(p) if p in PREFERRED else len(PREFERRED) for p in parts)


class Selected(NamedTuple):
    """The module that a file is about.

    Attributes:
        obj: the Lua object.
        key: its path.
        others: the other models in the file; none when the key was given.
    """

    obj: LuaObject
    key: str
    others: list[Candidate]


def select(root: Any, key: str | None = None, source: str = "") -> Selected:
    """The module at ``key``, or the one the file is about.

    Raises:
        ModelNotFoundError: there is none, or ``key`` leads nowhere; the message lists the candidates.
    """
    if key:
        value = follow(root, key)
        if not isinstance(value, LuaObject):
            what = "nothing" if value is None else f"a {type(value).__name__}"
            raise ModelNotFoundError(f"{source}: key {key!r} leads to {what}. {_listing(candidates(root))}")
        return Selected(value, key, [])
    found = candidates(root)
    models = [c for c in found if not c.is_criterion] or found
    if not models:
        raise ModelNotFoundError(
            f"{source}: the file holds no module. If it holds a flat parameter vector, build the module and fill it "
            f"with dpnn_bridge.load_flat(module, vector)."
        )
    if len(models) > 1 and _rank(models[0].key) == _rank(models[1].key):
        raise ModelNotFoundError(f"{source}: the file holds several modules; choose one with key=. {_listing(found)}")
    first, *others = models
    return Selected(first.obj, first.key, [c for c in others if not c.is_criterion])


def follow(root: Any, key: str) -> Any:
    """The value at a path such as ``protos.rnn`` or ``[1][2].model``; None when it leads nowhere."""
    value = opened(root)
    for name, number, quoted in re.findall(r"([^.\[\]]+)(?=[.\[]|$)|\[(-?\d+)\]|\[['\"](.*?)['\"]\]", key):
        if not isinstance(value, (LuaTable, LuaObject)):
            return None
        step: Any = int(number) if number else quoted or name
        if step not in value and isinstance(step, str) and step.isdigit():
            step = int(step)
        value = opened(value.get(step))
    return value


def surroundings(root: Any) -> Any:
    """What a checkpoint table holds beside modules, as plain data: options, vocabulary, mean, losses.

    Tables become lists or dicts and tensors torch tensors. Objects, functions and tensors of more than
    :data:`LARGEST_KEPT` elements (optimizer states) are left out. None when the file is a module alone.
    """
    if not isinstance(root, LuaTable):
        return None
    return _plain(root, set())


#: elements of a tensor that is still kept beside the model
LARGEST_KEPT = 100_000


def _plain(value: Any, open_tables: set[int]) -> Any:
    if isinstance(value, LuaTensor):
        return value.torch().clone() if value.size <= LARGEST_KEPT else None
    if not isinstance(value, LuaTable):
        return value if isinstance(value, (bool, int, float, str)) else None
    if id(value) in open_tables or len(open_tables) >= MAX_DEPTH:
        return None
    open_tables.add(id(value))
    items = {k: _plain(v, open_tables) for k, v in value.items() if isinstance(k, (bool, int, float, str))}
    open_tables.discard(id(value))
    items = {k: v for k, v in items.items() if v is not None}
    return list(items.values()) if items and list(items) == list(range(1, len(items) + 1)) else items


def _listing(found: list[Candidate]) -> str:
    if not found:
        return "The file holds no module."
    return "Modules in the file: " + ", ".join(f"{c.key or '(the file itself)'} ({c.obj.class_name})" for c in found)
