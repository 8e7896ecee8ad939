"""Finds the models inside a checkpoint, whatever table they are wrapped in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dpnn_bridge.conversion import MAX_DEPTH, format_path, is_module
from dpnn_bridge.errors import ModelNotFoundError
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: keys under which training scripts keep the model, best first
PREFERRED = ("model", "net", "netG", "modelG", "G", "best_model", "protos", "rnn", "cnn", "lm", "encoder", "decoder")


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


def candidates(root: Any) -> list[Candidate]:
    """Every outermost module in ``root``, those under usual names first, criterions last."""
    found: list[Candidate] = []
    seen: set[int] = set()
    stack: list[tuple[Any, tuple[Any, ...]]] = [(root, ())]
    while stack:
        value, path = stack.pop()
        if not isinstance(value, (LuaTable, LuaObject)) or id(value) in seen:
            continue
        seen.add(id(value))
        if is_module(value):
            assert isinstance(value, LuaObject)
            found.append(Candidate(format_path(list(path)), value, value.class_name.endswith("Criterion")))
            continue
        items = value.items() if isinstance(value, LuaTable) else value.fields.items()
        stack.extend((v, (*path, k)) for k, v in reversed(list(items)) if isinstance(k, (str, int, float)))
    return sorted(found, key=lambda c: (c.is_criterion, _rank(c.key)))


def _rank(key: str) -> tuple[int, ...]:
    parts = re.findall(r"[^.\[\]'\"]+", key)
    return tuple(PREFERRED.index(p) if p in PREFERRED else len(PREFERRED) for p in parts)


def select(root: Any, key: str | None = None, source: str = "") -> tuple[LuaObject, str]:
    """The module at ``key``, or the one the file is about, with its key.

    Raises:
        ModelNotFoundError: there is none, or ``key`` leads nowhere; the message lists the candidates.
    """
    found = candidates(root)
    if key:
        value = follow(root, key)
        if not isinstance(value, LuaObject):
            what = "nothing" if value is None else f"a {type(value).__name__}"
            raise ModelNotFoundError(f"{source}: key {key!r} leads to {what}. {_listing(found)}")
        return value, key
    models = [c for c in found if not c.is_criterion] or found
    if not models:
        raise ModelNotFoundError(
            f"{source}: the file holds no module. If it holds a flat parameter vector, build the module and fill it "
            f"with dpnn_bridge.load_flat(module, vector)."
        )
    if len(models) > 1 and _rank(models[0].key) == _rank(models[1].key):
        raise ModelNotFoundError(f"{source}: the file holds several modules; choose one with key=. {_listing(found)}")
    return models[0].obj, models[0].key


def follow(root: Any, key: str) -> Any:
    """The value at a path such as ``protos.rnn`` or ``[1][2].model``; None when it leads nowhere."""
    value = root
    for name, number, quoted in re.findall(r"([^.\[\]]+)(?=[.\[]|$)|\[(-?\d+)\]|\[['\"](.*?)['\"]\]", key):
        if not isinstance(value, (LuaTable, LuaObject)):
            return None
        step: Any = int(number) if number else quoted or name
        if step not in value and isinstance(step, str) and step.isdigit():
            step = int(step)
        value = value.get(step)
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
