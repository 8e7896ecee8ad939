"""Pairs of a model made by original Lua code and a PyTorch implementation of it, written as users write them.

Each file of ``pairs/`` is one pair. It defines:

- ``model``: the Torch7 file, below ``fixtures/``;
- ``target``: makes the user's module;
- ``example(seed)``: an input of the user's module;
- ``run_source(model, x)`` and ``run_target(module, x)``, where inputs or outputs have another form there;
- ``expect``: :data:`EQUAL`, or the :class:`Bug` that was planted;
- ``notes``: words that the report's notes must contain; ``allow_unset``: parameters that no weight of the source fills.
- ``tolerance``: of proofs, where Torch7 computes in single precision.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from conftest import FIXTURES
from torch import nn

import dpnn_bridge

PAIRS = Path(__file__).parent / "pairs"
EQUAL = "equal"


class Bug(NamedTuple):
    """A planted bug: where the report has to find it, and what its reason has to say.

    Attributes:
        words: What the reason must contain; of a tuple, one of its words.
        layer: Names of the user's layers that may be blamed.
        line: A part of the line of the user's code that may be blamed instead.
        twin: The pair without the bug.
    """

    twin: str
    words: tuple[str | tuple[str, ...], ...]
    layer: tuple[str, ...] = ()
    line: str = ""


def names() -> list[str]:
    """Names of all pairs."""
    return sorted(path.stem for path in PAIRS.glob("*.py"))


@cache
def pair(name: str) -> ModuleType:
    """The file of a pair."""
    return importlib.import_module(f"pairs.{name}")


def randn(*shape: int, seed: int) -> torch.Tensor:
    """Normal random numbers in double precision."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def indices(count: int, *shape: int, seed: int) -> torch.Tensor:
    """Random indices from 0 to ``count - 1``."""
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(seed))


def source_of(name: str) -> nn.Module:
    """The converted Torch7 model of a pair, in double precision and evaluation mode."""
    return dpnn_bridge.load(FIXTURES / pair(name).model, dtype="float64").eval()


def target_of(name: str) -> nn.Module:
    """The user's module of a pair, with random weights."""
    torch.manual_seed(len(name))
    return pair(name).target().double().eval()


def run_source(name: str, model: nn.Module, example: Any) -> Any:
    """What the Torch7 model of a pair computes."""
    return getattr(pair(name), "run_source", call)(model, example)


def run_target(name: str, module: nn.Module, example: Any) -> Any:
    """What the user's module of a pair computes."""
    return getattr(pair(name), "run_target", call)(module, example)


def call(module: nn.Module, example: Any) -> Any:
    """Calls a module; the parts of a tuple are its arguments."""
    return module(*example) if isinstance(example, tuple) else module(example)


def forget(model: nn.Module) -> None:
    """Sets the states that recurrent layers remember to zero."""
    for layer in model.modules():
        for name in ("forget", "reset_states"):
            if callable(reset := getattr(layer, name, None)):
                reset()


def flat(output: Any) -> torch.Tensor:
    """All numbers of an output, in order."""
    if isinstance(output, torch.Tensor):
        return output.reshape(-1)
    return torch.cat([flat(part) for part in (output.values() if isinstance(output, dict) else output)])


def difference(a: Any, b: Any) -> float:
    """Largest difference of two outputs, relative to the largest value."""
    a, b = flat(a), flat(b)
    return float((a - b).abs().max() / b.abs().max()) if a.shape == b.shape else float("inf")
