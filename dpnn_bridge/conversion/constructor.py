"""Inspect constructors of modules. Modules of this package store each argument in the attribute of the same name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from dpnn_bridge.base.display import shortened
from dpnn_bridge.errors import ConversionError

#: ``Union[int, str]`` and ``int | str``
_UNIONS = (Union, UnionType)


def constructor_parameters(module_class: type) -> list[inspect.Parameter]:
    """Return the parameters of a constructor; for ``*args, **kwargs``, the parameters of the base class's constructor.

    ``device`` is omitted; for PyTorch's classes also ``dtype``, and for RNNs also ``mode``.
    """
    chain = iter(module_class.__mro__)
    own = _without_self(next(chain))
    rest = inspect.Parameter.VAR_KEYWORD
    while any(p.kind is rest for p in own):
        base = next(chain)
        if base in (nn.Module, object):
            break
        named = [p for p in own if p.kind not in (p.VAR_POSITIONAL, rest)]
        inherited = [p for p in _without_self(base) if p.name not in {q.name for q in named}]
        if len(named) + 1 == len(own):  # **kwargs alone
            own = [*named, *(p.replace(kind=p.KEYWORD_ONLY) for p in inherited if p.kind is not rest)]
            own += [p for p in inherited if p.kind is rest]
        else:
            own = [*inherited, *named]
    fixed = {"device"} | ({"mode"} if issubclass(module_class, nn.RNNBase) else set())
    fixed |= {"dtype"} if module_class.__module__.startswith("torch.nn.") else set()
    return [p for p in own if p.name not in fixed and p.kind is not rest]


def attribute_of(module_class: type, argument: str) -> str:
    """Return the attribute that stores an argument of a constructor; its name is that of the argument, if possible."""
    return "norm" if argument == "p" and issubclass(module_class, nn.PairwiseDistance) else argument


def is_required(module_class: type, name: str) -> bool:
    """Return whether a constructor has a parameter of this name without a default."""
    return any(p.name == name and p.default is p.empty for p in constructor_parameters(module_class))


@cache
def takes_number(module_class: type, name: str, several: bool) -> bool:
    """Return whether an argument of a constructor is annotated as a number or as numbers in a tuple.

    Args:
        module_class: the class.
        name: the argument.
        several: whether its value is a tuple, so that an annotation such as ``str | tuple[int, int]`` means numbers.
    """
    hint = _hint(module_class, name)
    union = get_args(hint) if get_origin(hint) in _UNIONS else [hint]
    kinds = {kind for member in union if not (several and member is str) for kind in _kinds(member)}
    return hint is not None and kinds <= {int, float, NoneType, ...}


@cache
def takes_flag(module_class: type, name: str) -> bool:
    """Return whether an argument of a constructor is annotated as a boolean."""
    kinds = set(_kinds(_hint(module_class, name)))
    return bool in kinds and kinds <= {bool, NoneType}


def _hint(module_class: type, name: str) -> Any:
    """Return the annotation of an argument of a constructor; None if it has none, or one that cannot be evaluated."""
    for base in module_class.__mro__:
        if name in inspect.signature(base.__init__).parameters:  # type: ignore[misc]
            try:
                return get_type_hints(base.__init__).get(name)  # type: ignore[misc]
            except Exception:  # a name that is imported for type checkers only
                return None
    return None


def _kinds(hint: Any) -> Iterator[Any]:
    """Yield the types in the unions and tuples of an annotation."""
    if get_origin(hint) in (*_UNIONS, tuple):
        for inner in get_args(hint):
            yield from _kinds(inner)
    else:
        yield hint


def _without_self(module_class: type) -> list[inspect.Parameter]:
    """Return the parameters of a constructor without the first one (``self``)."""
    first, *others = inspect.signature(module_class.__init__).parameters.values()  # type: ignore[misc]
    return [first, *others] if first.kind is first.VAR_POSITIONAL else others


def settings_repr(module: nn.Module) -> str:
    """Return an ``extra_repr`` of the constructor's arguments: ``dimension=1, index=2``.

    Numbers, strings, dtypes, and tuples and lists of these are shown.

    A boolean argument that equals its default is omitted.
    """
    shown = []
    for parameter in constructor_parameters(type(module)):
        value = getattr(module, parameter.name, None)
        if _is_printable(value) and not (isinstance(value, bool) and value is parameter.default):
            shown.append(f"{parameter.name}={shortened(repr(value))}")
    return ", ".join(shown)


def _is_printable(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_printable, value))
    return isinstance(value, (bool, int, float, str, torch.dtype))


def each(names: tuple[str, ...], value: Any, attribute: str) -> dict[str, Any]:
    """Return the Lua fields of the numbers in an attribute.

    Raises:
        ConversionError: the attribute has another number of elements.
    """
    if not isinstance(value, (tuple, list)) or len(value) != len(names):
        raise ConversionError(
            f"its {attribute} is {value!r}, expected {len(names)} numbers for the Lua fields {', '.join(names)}"
        )
    return dict(zip(names, value, strict=True))
