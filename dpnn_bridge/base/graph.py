"""Traverse a graph of Lua objects: decide which objects are modules, and name their paths. Does not import PyTorch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dpnn_bridge.base.python_parser import literal_eval
from dpnn_bridge.objects import BOOLEAN_KEYS, LuaFunction, LuaObject, LuaStorage, LuaTable, LuaTensor

#: fields in which Lua code stores the name of a module: of loadcaffe and nngraph, then of other projects
NAME_FIELDS = ("name", "_name", "layer_name")

#: maximum nesting depth of modules; deeper nesting would exceed Python's recursion limit
MAX_DEPTH = 100


#: criterions with other names
_OTHER_CRITERIONS = {
    *("nn.BinaryClassReward", "nn.BinaryLogisticRegression", "nn.L1Cost"),
    *("nn.SpatialBinaryLogisticRegression", "nn.VRClassReward"),
}


def is_criterion(name: str) -> bool:
    """Return whether the class computes a loss from an input and a target."""
    return (name.endswith("Criterion") and name != "nn.ModuleFromCriterion") or name in _OTHER_CRITERIONS


def is_module(value: Any) -> bool:
    """Return whether a Lua value looks like a module or criterion: an object of a class outside ``torch``."""
    if not isinstance(value, LuaObject) or not isinstance(value.payload, LuaTable):
        return False
    namespace = value.class_name.partition(".")[0]
    data = ("torch", "tds", "graph", "optim", "dp", "xlua", "threads", "Dict")
    return namespace not in data and value.class_name != "nngraph.Node"


def given_name(fields: Mapping[Any, Any] | LuaTable) -> str:
    """Return the name that Lua code gave a module with these fields, or an empty string."""
    return next((name for field in NAME_FIELDS if isinstance(name := fields.get(field), str) and name), "")


def node_name(attributes: Mapping[Any, Any] | LuaTable) -> str:
    """Return the name that ``annotate`` gave a node of nngraph with these fields, or an empty string."""
    annotations = attributes.get("annotations")
    name = annotations.get("name") if isinstance(annotations, (Mapping, LuaTable)) else None
    return name if isinstance(name, str) else ""


def values_in(*roots: Any) -> Iterator[LuaTable | LuaObject | LuaFunction | LuaTensor | LuaStorage]:
    """Yield each table, object, function, tensor and storage of graphs once, also those in keys of tables."""
    seen: set[int] = set()
    stack = [*roots]
    while stack:
        value = stack.pop()
        if not isinstance(value, (LuaTable, LuaObject, LuaFunction, LuaTensor, LuaStorage)) or id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, LuaTable):
            stack += value.entries.keys()
            stack += value.entries.values()
        elif isinstance(value, LuaObject):
            stack += [*value.header, value.payload]
        elif isinstance(value, LuaFunction):
            stack.append(value.upvalues)
        elif isinstance(value, LuaTensor):
            stack.append(value.storage)


def dict_items(table: LuaTable) -> Iterator[tuple[Any, Any]]:
    """Yield the items of a table for a dict.

    Python treats ``True`` and 1 as the same key. If a table contains both, ``true`` becomes the string ``"true"``;
    likewise ``false`` and 0.
    """
    for key, value in table.items():
        yield (str(key).lower() if isinstance(key, bool) and int(key) in table else key), value


def without_entries(value: LuaTable | LuaObject) -> LuaTable | LuaObject:
    """Return an empty table, or an object of the same class, version and header with an empty table.

    A payload that is not a table is kept.
    """
    if isinstance(value, LuaTable):
        return LuaTable()
    payload = LuaTable() if isinstance(value.payload, LuaTable) else value.payload
    return LuaObject(value.class_name, payload, version=value.version, header=value.header)


def format_path(keys: list[Any], root: str = "") -> str:
    """Format ``["model", "modules", 3]`` as ``model.modules[3]``, below the path ``root``."""
    return (root + "".join(map(key_text, keys))).removeprefix(".")


_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")


def key_text(key: Any) -> str:
    """Return a table key as it is written in a path."""
    if isinstance(key, str):
        return f".{key}" if _IDENTIFIER.fullmatch(key) else f"[{key!r}]"
    if isinstance(key, bool) or key in BOOLEAN_KEYS.values():
        return f"[{str(getattr(key, 'value', key)).lower()}]"
    return f"[{key!r}]"


#: a name after a dot, a key in brackets, or a quoted key in brackets; the first name may lack its dot
_STEP = re.compile(r"""\.([^.\[\]]+)|\[([^'"\[\]]+)\]|\[('(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")\]""")


def parse_path(path: str) -> list[Any] | None:
    """Return the keys of a path such as ``protos.rnn`` or ``[1]['a b'][1.5][true]``, as :func:`format_path` writes it.

    Returns:
        The keys, or None if the text is not a path. Names may contain any characters except dots and brackets.
    """
    keys: list[Any] = []
    rest = path if path.startswith((".", "[")) or not path else f".{path}"
    at = 0
    while at < len(rest):
        step = _STEP.match(rest, at)
        if step is None:
            return None
        name, number, quoted = step.groups()
        key = name or (_unquoted(quoted) if quoted else _number(number))
        if key is None:
            return None
        keys.append(key)
        at = step.end()
    return keys


def _number(text: str) -> int | float | bool | None:
    """Parse a number or boolean that is a key; return None for other text."""
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?[0-9]{1,16}", text):
        return int(text)
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _unquoted(text: str) -> str:
    try:
        return literal_eval(text)
    except (SyntaxError, ValueError):  # typed by hand
        return text[1:-1]
