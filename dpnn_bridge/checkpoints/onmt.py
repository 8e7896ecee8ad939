"""Convert OpenNMT's tables ``{name, args, modules}`` to objects and back."""

from __future__ import annotations

from typing import TypeGuard

from dpnn_bridge.objects import LuaObject, LuaTable

#: encoders and decoders from :func:`to_object`, and their lists of modules: (``id`` of the table, class) -> object
Parts = dict[tuple[int, str], LuaObject | LuaTable]


def to_object(table: LuaTable, parts: Parts | None = None) -> LuaObject | None:
    """Convert the field ``models`` of an OpenNMT checkpoint to one object.

    The class of the object is ``onmt.Seq2Seq``, or without a decoder ``onmt.LanguageModel``, also for taggers. The
    objects contain the fields of the tables.

    Args:
        table: the value of the field.
        parts: encoders and decoders of other tables, which may be shared; the function adds new encoders and decoders.

    Returns:
        The object, or None if ``table`` is not such a field.
    """
    parts = {} if parts is None else parts
    encoder, decoder, generator = (table.get(name) for name in ("encoder", "decoder", "generator"))
    if not _is_part(encoder) or not (_is_part(decoder) or isinstance(generator, LuaObject)):
        return None
    fields = LuaTable(table.items())
    fields["encoder"] = _part(encoder, "BiEncoder" if len(encoder["modules"]) == 2 else "Encoder", parts)
    if not _is_part(decoder):
        return LuaObject("onmt.LanguageModel", fields)
    fields["decoder"] = _part(decoder, "Decoder", parts)
    return LuaObject("onmt.Seq2Seq", fields)


def to_table(model: LuaObject) -> LuaTable:
    """Convert an object from :func:`to_object` back to the table that OpenNMT loads as the field ``models``."""
    return LuaTable((k, _table(v)) for k, v in model.items() if isinstance(v, LuaObject))


def _is_part(value: object) -> TypeGuard[LuaTable]:
    """Return whether a value has the fields of a serialized encoder or decoder."""
    return isinstance(value, LuaTable) and all(isinstance(value.get(name), LuaTable) for name in ("args", "modules"))


def _part(table: LuaTable, name: str, parts: Parts, depth: int = 0) -> LuaObject | LuaTable:
    """Convert an encoder or decoder. Old files do not contain the name of its class; then ``name`` is the class."""
    if (id(table), name) not in parts:
        fields = LuaTable(table.items())
        fields["modules"] = _modules(table["modules"], parts, depth)
        parts[id(table), name] = LuaObject(f"onmt.{table.get('name', name)}", fields)
    return parts[id(table), name]


def _modules(table: LuaTable, parts: Parts, depth: int) -> LuaObject | LuaTable:
    """Convert the list of an encoder or decoder, which many of them may share."""
    key = id(table), f"modules {depth}"
    if key not in parts:
        modules = table.as_list()
        inner = [_part(m, "Encoder", parts, depth + 1) if depth < 2 and _is_part(m) else m for m in modules]
        parts[key] = LuaTable.from_list(inner)
    return parts[key]


def _table(value: object) -> object:
    if not isinstance(value, LuaObject) or not _is_part(value.fields):
        return value
    modules = LuaTable.from_list(map(_table, value["modules"].as_list()))
    return LuaTable({"name": value.class_name.removeprefix("onmt."), "args": value["args"], "modules": modules})
