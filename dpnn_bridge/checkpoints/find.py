"""Find the models in a checkpoint, at any depth."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.graph import format_path, is_criterion, is_module, parse_path, values_in
from dpnn_bridge.base.similar import did_you_mean
from dpnn_bridge.checkpoints import contents, onmt
from dpnn_bridge.errors import ModelNotFoundError, T7Error
from dpnn_bridge.loaders.t7_reader import loads
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor

#: keys under which training scripts store a model, most likely first; the keys of one tuple have equal rank
PREFERRED = (
    *(("model",), ("net",), ("network",), ("netG",), ("modelG",), ("G",), ("best_model",), ("protos",)),
    ("rnn", "cnn", "lm", "encoder", "decoder", "generator"),
)


#: namespaces in which every class is a module
NAMESPACES = frozenset(
    ("nn", "cudnn", "onmt", "w2nn", "fbnn", "inn", "autograd", "bnn", "nnx", "neuralconvo", "treelstm", "tfluids")
)

#: class of the object that represents several models in one table (dpnn_bridge.modules.several)
SEVERAL = "dpnn_bridge.Models"

#: first bytes of a binary .t7 file that contains a table, a torch object or a function
_SERIALIZED = tuple(code.to_bytes(4, "little") for code in (3, 4, 6, 7, 8))

#: number of entries of a field ``modules`` that are looked at, because many objects may share it
_FIRST_MODULES = 100

#: a name that is a number, as in ``protos.1``
_INDEX = re.compile("[0-9]{1,16}")

#: maximum numbers of models that are converted together, and that a message lists
MAX_TOGETHER, LISTED = 1000, 20

#: maximum depth of a model in tables, and in strings and buffers that contain serialized objects
DEEPEST_MODEL, DEEPEST_SERIALIZED = 200, 4
#: maximum number of characters in the path of a model, because every model in a table stores its path
LONGEST_MODEL_PATH = 2000
#: maximum total size of all models, counted in values: a constant, and a multiple of the number of values in the file
FIXED_SIZE, SIZE_PER_VALUE = 50_000, 4
#: advice for files that exceed this size
TOO_MANY = "the models of the file share too many modules to convert all models; select a model with key= (--key)"


@dataclass
class Candidate:
    """A module inside a checkpoint.

    Attributes:
        path: keys from the root of the file to the module.
        obj: the Lua object.
        is_criterion: whether the class of the object is a criterion.
    """

    path: tuple[Any, ...]
    obj: LuaObject
    is_criterion: bool

    @cached_property
    def key(self) -> str:
        """The path as text, for ``load(key=…)``; empty if the file is the module."""
        return format_path(list(self.path))


def candidates(root: Any, is_known: Callable[[LuaObject], bool] | None = None) -> list[Candidate]:
    """Return every outermost module in ``root``: modules under usual keys first, criterions last.

    An object is a module if its class is known, its namespace is in :data:`NAMESPACES`, or it has fields of a module.
    Modules are also searched in the fields of other objects (``chatbot.Seq2Seq``, a data loader) and in serialized
    objects in strings and byte buffers.

    Args:
        root: content of a file.
        is_known: returns whether an object's class is a known module class; default: the registry decides, which
            imports PyTorch.
    """
    is_known = is_known or _is_registered
    found: list[Candidate] = []
    seen: set[Any] = set()
    viewed: Counter[int] = Counter()  # id of a storage -> number of elements in its views so far
    alive: list[Any] = []  # deserialized values, kept so that no other object gets an id that is in `seen`
    parts: onmt.Parts = {}
    stack: list[tuple[Any, _Step]] = [(root, _Step())]
    while stack:
        value, step = stack.pop()
        identity: Any = id(value)
        if isinstance(value, (LuaTensor, LuaStorage)):
            storage, start = (value.storage, value.offset) if isinstance(value, LuaTensor) else (value, 0)
            identity = id(storage), start, value.size
            if storage is None or viewed[id(storage)] > contents.MAX_VIEWS * storage.size:
                continue
            viewed[id(storage)] += value.size
        if identity in seen or not isinstance(value, (LuaTable, LuaObject, LuaTensor, LuaStorage, str)):
            continue
        seen.add(identity)
        inner = deserialized(value, parts) if step.deserialized < DEEPEST_SERIALIZED else value
        if inner is not value:
            step = step._replace(deserialized=step.deserialized + (not isinstance(value, LuaTable)))
            seen.add(id(inner))
            alive.append(inner)
        if isinstance(inner, LuaObject) and is_module(inner) and (looks_like_module(inner) or is_known(inner)):
            found.append(Candidate(tuple(step.keys()), inner, is_criterion(inner.class_name)))
        elif isinstance(inner, (LuaTable, LuaObject)) and step.depth < DEEPEST_MODEL:
            items = inner.items() if isinstance(inner, LuaTable) else inner.fields.items()
            steps = [(v, step.child(k)) for k, v in reversed(list(items)) if isinstance(k, (str, int, float))]
            stack.extend((v, child) for v, child in steps if child.length <= LONGEST_MODEL_PATH)
    return sorted(found, key=lambda c: (c.is_criterion, _rank(c.path)))


def models_in(root: Any, is_known: Callable[[LuaObject], bool] | None = None) -> list[Candidate]:
    """Return the outermost models in ``root`` without criterions; the criterions if there is no other model.

    Args:
        root, is_known: as for :func:`candidates`.
    """
    found = candidates(root, is_known)
    return [c for c in found if not c.is_criterion] or found


def affordable(root: Any, found: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return the first models of a file whose separate conversions take time linear in the size of the file.

    Models may share modules, which are converted again for each model.

    Args:
        root: content of the file.
        found: the models in the file.
    """
    remaining = FIXED_SIZE + SIZE_PER_VALUE * _size(root)
    for number, candidate in enumerate(found):
        remaining -= _size(candidate.obj)
        if remaining < 0 and number:
            return found[:number]
    return found


def _size(root: Any) -> int:
    """Return the number of values and table entries in a value."""
    return sum(1 + len(value) if isinstance(value, LuaTable) else 1 for value in values_in(root))


class _Step(NamedTuple):
    """A path in a graph, as a linked list, so that a path shares the memory of its beginning with other paths."""

    parent: _Step | None = None
    key: Any = None
    depth: int = 0
    deserialized: int = 0
    length: int = 0

    def child(self, key: Any) -> _Step:
        """Return the path of the value at a key."""
        length = self.length + (len(key) if isinstance(key, str) else 1)
        return _Step(self, key, self.depth + 1, self.deserialized, length)

    def keys(self) -> list[Any]:
        """Return the keys from the root to the end of the path."""
        keys, step = [], self
        while step.parent is not None:
            keys.append(step.key)
            step = step.parent
        return keys[::-1]


def looks_like_module(obj: LuaObject) -> bool:
    """Return whether an object is a module, by its namespace or its fields. Does not import PyTorch."""
    if obj.class_name.partition(".")[0] in NAMESPACES or "gradInput" in obj or isinstance(obj.get("weight"), LuaTensor):
        return True
    modules = obj.get("modules")
    first = islice(modules.values(), _FIRST_MODULES) if isinstance(modules, LuaTable) else ()
    return any(isinstance(m, LuaObject) for m in first)


def _is_registered(obj: LuaObject) -> bool:
    from dpnn_bridge.conversion import registry

    return registry.find(obj) is not None


def known_also(knows: Callable[[str], bool] | None) -> Callable[[LuaObject], bool]:
    """Return a function that decides whether an object's class is in the registry or accepted by ``knows``."""
    return lambda obj: _is_registered(obj) or (knows is not None and knows(obj.class_name))


def deserialized(value: Any, parts: onmt.Parts | None = None) -> Any:
    """Deserialize a string, a byte buffer or OpenNMT's tables; return any other ``value`` unchanged.

    Args:
        value: a value of a file.
        parts: encoders and decoders that were converted before, see :func:`~dpnn_bridge.checkpoints.onmt.to_object`.
    """
    if isinstance(value, LuaTable):
        return onmt.to_object(value, parts) or value
    if isinstance(value, str):
        if not value.startswith(("\x03\0\0\0", "\x04\0\0\0")) and not value.startswith("4\n1\n3\n"):
            return value
        data = value.encode("utf-8", "surrogateescape")
    elif isinstance(value, (LuaTensor, LuaStorage)) and value.dtype.itemsize == 1 and value.size > 8:
        data = _serialized(value)
        if not data:
            return value
    else:
        return value
    try:
        return loads(data)
    except T7Error:
        return value


def _serialized(value: LuaTensor | LuaStorage) -> bytes:
    """Return the bytes of a contiguous buffer that starts like a serialized object; empty for other buffers."""
    storage, start, size = value, 0, value.size
    if isinstance(value, LuaTensor):
        if value.ndim != 1 or value.stride != (1,) or value.storage is None:
            return b""
        storage, start = value.storage, value.offset
    assert isinstance(storage, LuaStorage)
    if not storage.copy(start, start + 4).tobytes().startswith(_SERIALIZED):
        return b""
    return storage.copy(start, start + size).tobytes()


def _rank(path: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(next((i for i, names in enumerate(PREFERRED) if p in names), len(PREFERRED)) for p in path)


def matching_key(key: str, keys: Iterable[str]) -> str | None:
    """Return the one of ``keys`` that :func:`follow` finds for ``key``: ``1`` is ``[1]`` too; None if there is none."""
    keys = list(keys)
    if key in keys:
        return key
    for text in (repr, str):  # a string before a number with its digits
        steps = [*map(text, parse_path(key) or [key])]
        if found := next((k for k in keys if [*map(text, parse_path(k) or [k])] == steps), None):
            return found
    return None


class Selection(NamedTuple):
    """The selected module of a file.

    Attributes:
        obj: the Lua object; an object of class :data:`SEVERAL` for several models of equal rank.
        key: path of the module; empty for several models.
        others: the other models in the file; empty if the caller passed a key.
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
) -> Selection:
    """Return the module at ``key``, or the main module of the file.

    Args:
        root: content of the file.
        key: path of the module.
        source: name of the file, for messages.
        together: combine models of equal rank in one object of class :data:`SEVERAL` instead of raising an error.
        knows: returns whether a class name is known in addition to the names in the registry.

    Raises:
        ModelNotFoundError: the file contains no module, or no module at ``key``. The message lists the candidates, or
            describes the content of the file.
    """
    is_known = known_also(knows)
    if key:
        value = follow(root, key)
        if not isinstance(value, LuaObject):
            raise not_at_key(root, key, source, value, is_known)
        return Selection(value, key, [])
    models = models_in(root, is_known)
    if not models:
        raise ModelNotFoundError(contents.without_module(root, source))
    equal = [c for c in models if _rank(c.path) == _rank(models[0].path)]
    if len(equal) > 1:
        if not together or len(equal) > MAX_TOGETHER:
            raise ModelNotFoundError(
                f"{source}: the file contains several modules; select one with key= (--key). {_listing(models)}"
            )
        return Selection(_several(root, equal), "", models[len(equal) :])
    first, *others = models
    return Selection(first.obj, first.key, [c for c in others if not c.is_criterion])


def _several(root: Any, found: list[Candidate]) -> LuaObject:
    """Combine models of equal rank in one object. Deserialized containers replace their serialized form."""
    parts: onmt.Parts = {}
    replaced = [root]  # kept, because `parts` contains their ids
    root = deserialized(root, parts)
    models = LuaTable()
    for candidate in found:
        value = root
        for key in candidate.path:
            inner = deserialized(value[key], parts)
            if inner is not value[key]:
                replaced.append(value[key])
                value[key] = inner
            value = inner
        models[candidate.key] = value
    return LuaObject(SEVERAL, LuaTable({"models": models, "table": root}))


def follow(root: Any, key: str) -> Any:
    """Return the value at a path such as ``protos.rnn`` or ``[1][2].model``; None if it does not exist."""
    steps = parse_path(key)
    if steps is None:
        return None
    value = deserialized(root)
    for step in steps:
        if not isinstance(value, (LuaTable, LuaObject)):
            return None
        if isinstance(step, str) and step not in value and _INDEX.fullmatch(step):
            step = int(step)
        value = deserialized(value.get(step))
    return value


def not_at_key(
    root: Any, key: str, source: str, value: Any = None, is_known: Callable[[LuaObject], bool] | None = None
) -> ModelNotFoundError:
    """Return the error for a key whose ``value`` is not a module, or None if the file has no such entry."""
    what = "no entry" if value is None else f"{contents.type_of(value)}, not a module,"
    found = candidates(root, is_known)
    hint = did_you_mean(key, [c.key for c in found])
    return ModelNotFoundError(f"{source}: {what} at key {key!r}{f'; {hint}' if hint else '.'} {_listing(found)}")


def _listing(found: list[Candidate]) -> str:
    if not found:
        return "The file contains no module."
    if not found[0].key:
        return f"The file itself is the module ({found[0].obj.class_name}); omit key= (--key)."
    listed = [f"{shortened(c.key)} ({c.obj.class_name})" for c in found[:LISTED]]
    return "Modules in the file: " + ", ".join(listed) + (", …" if len(found) > LISTED else "")
