"""From a line of the declarations to random instances of a layer: Hypothesis strategies over a small notation.

A declaration is a Lua constructor and its input. Names in angle brackets are drawn once for both: ``<i>`` is a number
from 1 to 4, ``<k:1-3>`` one from a range, ``<b:bool>`` true or false, ``<x:-2,0.5>`` one of these values,
``<p:real>`` a fraction, ``<x:any>`` some number.

    "nn.Linear(<i>, <o>)"  with  "n,i"

Inputs are sizes, separated by commas, which may compute with the names; sizes that no name in the constructor gives
are drawn as well. ``[a; b]`` is a list of inputs, ``a | b`` one or the other. In front of the sizes ``+`` makes values
positive, ``01`` puts them between 0 and 1, ``-1+1`` makes them -1 or 1, ``#k:`` makes them whole numbers from 1 to k,
and ``@k:`` the same in a ``torch.LongTensor``.

An input that begins with ``=`` is an expression in Lua, with the helpers of ``runner.lua`` (``R``, ``U``, ``long`` …),
for what this notation lacks: sparse, masked, of another type.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

KINDS = ("normal", "ties", "tiny")
#: a drawn name and what it is drawn from
NAME = r"<(\w+):?([^<>]*)>"


@dataclass(frozen=True)
class Layer:
    """One declaration.

    Attributes:
        lua: the constructor.
        input: what it takes.
        target: what a criterion compares with; empty for modules.
        reward: an expression in Lua: the reward given between forward and backward.
        era: of the Torch7 that has the class: "" for the last one, "2015".
    """

    lua: str
    input: str
    target: str = ""
    reward: str = ""
    era: str = ""


@dataclass
class Instance:
    """One layer with its input. Everything follows from what Hypothesis drew."""

    lua: str
    input: Any
    target: Any = None
    dtype: str = "double"
    mode: str = "train"
    strided: str = ""
    seed: int = 0
    reward: str = ""
    era: str = ""
    prepared: str = ""
    module: Any = None

    def __repr__(self) -> str:
        return (
            f"{self.lua} on {shapes(self.input)}, {self.dtype}, {self.mode}, strided '{self.strided}', seed {self.seed}"
            f"{', ' if self.prepared else ''}{self.prepared}"
        )


def shapes(value: Any) -> Any:
    """The sizes of nested tensors; an expression as it is."""
    if isinstance(value, str):
        return value
    return [shapes(v) for v in value] if isinstance(value, list) else "x".join(map(str, value.shape))


def _values_of(kind: str) -> st.SearchStrategy[Any]:
    if kind == "bool":
        return st.sampled_from(["false", "true"])
    if kind == "real":
        return st.sampled_from([0.5, 0.25, 0.75, 0.1, 0.9])
    if kind == "any":
        return st.sampled_from([1.5, -0.5, 2.0, 0.0, -3.0])
    if match := re.fullmatch(r"(\d+)-(\d+)", kind):
        return st.integers(int(match[1]), int(match[2]))
    if kind:
        return st.sampled_from(kind.split(","))
    return st.integers(1, 4)


@st.composite
def instances(draw: st.DrawFn, layers: tuple[Layer, ...]) -> Instance:
    """Random instances of one class."""
    layer = draw(st.sampled_from(layers))
    chosen = layer.input if layer.input.startswith("=") else draw(st.sampled_from(_alternatives(layer.input)))
    values: dict[str, Any] = {}
    for name, kind in re.findall(NAME, " ".join([layer.lua, chosen, layer.target, layer.reward])):
        if name not in values:
            values[name] = draw(_values_of(kind), label=name)
    lua, chosen, target, reward = (
        re.sub(NAME, lambda m: str(values[m[1]]), text) for text in (layer.lua, chosen, layer.target, layer.reward)
    )
    for text in (chosen, target):
        for name in [] if text.startswith("=") else re.findall(r"[a-z]\w*", text):
            if name not in values:
                values[name] = draw(st.integers(1, 5), label=name)
    seed = draw(st.integers(0, 999))
    generator = torch.Generator().manual_seed(seed)
    kind = draw(st.sampled_from(KINDS))
    numbers = {k: int(v) for k, v in values.items() if re.fullmatch(r"-?\d+", str(v))}
    return Instance(
        lua,
        _make(chosen, numbers, kind, generator),
        _make(target, numbers, "normal", generator) if target else None,
        draw(st.sampled_from(["double", "double", "float"])),
        draw(st.sampled_from(["train", "eval"])) if not layer.target else "train",
        draw(st.sampled_from(["", "", "input", "gradient", "both"])),
        seed,
        reward,
        layer.era,
    )


def _alternatives(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


def _make(text: str, names: dict[str, Any], kind: str, generator: torch.Generator) -> Any:
    text = text.strip()
    if text.startswith("="):
        return text
    if text.startswith("["):
        parts = re.findall(r"\[[^\]]*\]|[^;\[\]]+", text[1:-1])
        return [_make(part, names, kind, generator) for part in parts if part.strip()]
    return _tensor(text, names, kind, generator)


def _tensor(text: str, names: dict[str, Any], kind: str, generator: torch.Generator) -> Tensor:
    rule, limit = "", 1
    if match := re.match(r"(\+|01|-1\+1)(?=[a-z\d])", text):
        rule, text = match[1], text[match.end() :]
    elif match := re.match(r"([#@])([^:]+):", text):
        rule, limit, text = match[1], int(eval(match[2], {}, dict(names))), text[match.end() :]
    sizes = [int(eval(size, {}, dict(names))) for size in text.split(",")]
    x = torch.randn(sizes, generator=generator, dtype=torch.float64)
    if rule in ("#", "@"):
        return torch.randint(1, limit + 1, sizes, generator=generator).to(torch.float64 if rule == "#" else torch.long)
    if rule == "01":
        return torch.rand(sizes, generator=generator, dtype=torch.float64) * 0.9 + 0.05
    if rule == "-1+1":
        return x.sign()
    if kind == "ties":
        x = (x * 2).round() / 2
    if kind == "tiny":
        x = x * 1e-3
    return x.abs() + 0.1 if rule == "+" else x
