"""Finds the models inside a checkpoint, whatever table they are wrapped in."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from dpnn_bridge.checkpoints import contents, onmt
from dpnn_bridge.errors import ModelNotFoundError, T7Error
from dpnn_bridge.graph import format_path, is_module
from dpnn_bridge.loaders import loads
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

#: keys under which training scripts keep the model, best first; parts of one model are of equal rank
PREFERRED = (
    *(("model",), ("net",), ("network",), ("netG",), ("modelG",), ("G",), ("best_model",), ("protos",)),
    ("rnn", "cnn", "lm", "encoder", "decoder", "generator"),
)


#: namespaces of modules: an object of one of them is a module, whatever its class
NAMESPACES = frozenset(
    ("nn", "cudnn", "onmt", "w2nn", "fbnn", "inn", "autograd", "bnn", "nnx", "neuralconvo", "treelstm", "tfluids")
)

#: class of the object that stands for several models in one table (dpnn_bridge.modules.several)
SEVERAL = "dpnn_bridge.Models"


@dataclass
class Candidate:
    """A module inside a checkpoint.

    Attributes:
        key: its path, as ``load(key=…)`` takes it; empty when the file is the module.
        obj: the Lua object.
        is_criterion: its class is a criterion.
        path: the keys that lead to it.
    """

    key: str
    obj: LuaObject
    is_criterion: bool
    path: tuple[Any, ...] = ()


def candidates(root: Any, is_known: Callable[[LuaObject], bool] | None = None) -> list[Candidate]:
    """Every outermost module in ``root``, those under usual names first, criterions last.

    Args:
        root: what a file holds.
        is_known: whether an object's class is a known module class; default: ask the registry (which needs PyTorch).

    Data is never taken for a module. An object is one when its class is known, its namespace is one of modules, or it
    holds what modules hold. Any other object (``chatbot.Seq2Seq``, a data loader) is looked into. Strings
    and byte buffers that hold a serialized object are opened.
    """
    is_known = is_known or _is_registered
    found: list[Candidate] = []
    seen: set[int] = set()
    stack: list[tuple[Any, tuple[Any, ...]]] = [(root, ())]
    while stack:
        value, path = stack.pop()
        value = opened(value)
        if not isinstance(value, (LuaTable, LuaObject)) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, LuaObject) and is_module(value) and (looks_like_module(value) or is_known(value)):
            found.append(Candidate(format_path(list(path)), value, value.class_name.endswith("Criterion"), path))
        else:
            stack.extend(_steps(value, path))
    return sorted(found, key=lambda c: (c.is_criterion, _rank(c.key)))


def looks_like_module(obj: LuaObject) -> bool:
    """Whether an object is a module by its namespace or by its fields. Needs no PyTorch."""
    if obj.class_name.partition(".")[0] in NAMESPACES or "gradInput" in obj or isinstance(obj.get("weight"), LuaTensor):
        return True
    modules = obj.get("modules")
    return isinstance(modules, LuaTable) and any(isinstance(m, LuaObject) for m in modules.values())


def _steps(value: LuaTable | LuaObject, path: tuple[Any, ...]) -> list[tuple[Any, tuple[Any, ...]]]:
    items = value.items() if isinstance(value, LuaTable) else value.fields.items()
    return [(v, (*path, k)) for k, v in reversed(list(items)) if isinstance(k, (str, int, float))]


def _is_registered(obj: LuaObject) -> bool:
    from dpnn_bridge.conversion import registry

    return registry.find(obj) is not None


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
    return tuple(next((i for i, names in enumerate(PREFERRED) if p in names), len(PREFERRED)) for p in parts)


class Selected(NamedTuple):
    """The module that a file is about.

    Attributes:
        obj: the Lua object; of class :data:`SEVERAL` for models of equal rank.
        key: its path.
        others: the other models in the file; none when the key was given.
    """

    obj: LuaObject
    key: str
    others: list[Candidate]


def select(
    root: Any,
    key: str | None = None,
    source: str = "",
    *,
    together: bool = False,
    knows: Callable[[str], bool] | None = None,
) -> Selected:
    """The module at ``key``, or the one the file is about.

    Args:
        root: what the file holds.
        key: where the module is.
        source: name of the file, for messages.
        together: models of equal rank become one object of class :data:`SEVERAL` instead of an error.
        knows: names of classes that count as known beside the registry's.

    Raises:
        ModelNotFoundError: there is none, or ``key`` leads nowhere; the message lists the candidates, or says what the
            file is.
    """
    if key:
        value = follow(root, key)
        if not isinstance(value, LuaObject):
            what = "nothing" if value is None else f"a {type(value).__name__}"
            found = candidates(root)
            close = difflib.get_close_matches(key, [c.key for c in found], n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ModelNotFoundError(f"{source}: key {key!r} leads to {what}.{hint} {_listing(found)}")
        return Selected(value, key, [])
    found = candidates(root, lambda obj: _is_registered(obj) or (knows is not None and knows(obj.class_name)))
    models = [c for c in found if not c.is_criterion] or found
    if not models:
        raise ModelNotFoundError(contents.without_module(root, source))
    equal = [c for c in models if _rank(c.key) == _rank(models[0].key)]
    if len(equal) > 1:
        if not together:
            raise ModelNotFoundError(
                f"{source}: the file holds several modules; choose one with key=. {_listing(found)}"
            )
        return Selected(_several(root, equal), "", models[len(equal) :])
    first, *others = models
    return Selected(first.obj, first.key, [c for c in others if not c.is_criterion])


def _several(root: Any, found: list[Candidate]) -> LuaObject:
    """One object for models of equal rank. What was opened on the way to them takes the place of what held it."""
    root = opened(root)
    models = LuaTable()
    for candidate in found:
        value = root
        for key in candidate.path:
            inner = opened(value[key])
            if inner is not value[key]:
                value[key] = inner
            value = inner
        models[candidate.key] = value
    return LuaObject(SEVERAL, LuaTable({"models": models, "table": root}))


#: a name, a number or a quoted key, as :func:`dpnn_bridge.graph.key_text` writes them
_STEPS = re.compile(r"""([^.\[\]]+)(?=[.\[]|$)|\[(-?\d+)\]|\[('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")\]""")


def follow(root: Any, key: str) -> Any:
    """The value at a path such as ``protos.rnn`` or ``[1][2].model``; None when it leads nowhere."""
    value = opened(root)
    for name, number, quoted in _STEPS.findall(key):
        if not isinstance(value, (LuaTable, LuaObject)):
            return None
        step: Any = int(number) if number else _unquoted(quoted) if quoted else name
        if step not in value and isinstance(step, str) and step.isdigit():
            step = int(step)
        value = opened(value.get(step))
    return value


def _unquoted(text: str) -> str:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):  # typed by hand
        return text[1:-1]


def _listing(found: list[Candidate]) -> str:
    if not found:
        return "The file holds no module."
    return "Modules in the file: " + ", ".join(f"{c.key or '(the file itself)'} ({c.obj.class_name})" for c in found)
