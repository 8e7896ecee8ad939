"""Check the arguments of public functions against their annotations.

:func:`checks_arguments` wraps a function. If an argument has another type, the wrapper raises an
:class:`~dpnn_bridge.errors.OptionError` that names the argument, before the function reads, changes or writes anything.
The types of arguments that ``*args`` or ``**kwargs`` collect are not checked.
"""

from __future__ import annotations

import inspect
import os
import re
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, wraps
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import IO, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.similar import did_you_mean
from dpnn_bridge.errors import OptionError

P = ParamSpec("P")
T = TypeVar("T")

_NAMES = {
    NoneType: "None",
    PathLike: "a path",
    IO: "an open file",
    bool: "a boolean",
    bytes: "bytes",
    float: "a number",
    int: "an integer",
    str: "a string",
}


def checks_arguments(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function so that each call checks the arguments against the annotations.

    Args:
        function: A function whose annotations exist at run time. ``int`` and ``float`` accept numpy's numbers and
            zero-dimensional tensors with such an element; ``Sequence`` does not accept a string.

    Raises:
        OptionError: Raised by the returned function: an argument is missing, unknown or of another type.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        bound(function, *args, **kwargs)
        return function(*args, **kwargs)

    return checked


def check_no_file(name: str, value: Any) -> None:
    """Raise an error for the name of a file where a function takes a value of a model.

    Raises:
        OptionError: the value is a string, bytes or a path.
    """
    if isinstance(value, (str, bytes, PathLike)):
        raise OptionError(
            f"{name}= is the {type(value).__name__} {shortened(os.fsdecode(value))!r}; pass a tensor, an array or a "
            "table of these, such as dpnn_bridge.read_t7(path)"
        )


def bound(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call by name, including defaults.

    Raises:
        OptionError: An argument is missing, unknown or of another type.
    """
    signature, name = _signature_of(function), function.__name__
    if name == "__init__":
        name = function.__qualname__.removesuffix(".__init__")  # the class
    try:
        call = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise OptionError(f"{name}: {call_message(error, function)}") from None
    variadic = {p.name for p in signature.parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    given = {key: value for key, value in call.arguments.items() if key not in variadic}
    check_types(name, hints_of(function), given)
    call.apply_defaults()
    return call.arguments


def renamed(**names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function to accept earlier names of keyword arguments, with a :class:`DeprecationWarning`.

    Args:
        **names: Earlier name -> current name.

    Raises:
        OptionError: Raised by the returned function: an argument is given under both names.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def accepting(*args: P.args, **kwargs: P.kwargs) -> T:
            for old in names.keys() & kwargs.keys():
                call, new = function.__name__, names[old]
                if new in kwargs:
                    raise OptionError(f"{call}: {old}= is the earlier name of {new}=; omit {old}=")
                warnings.warn(f"{call}: {old}= is now {new}=", DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return accepting

    return decorate


def call_message(error: TypeError, function: Callable[..., Any]) -> str:
    """Return the message of a TypeError about a call, with a suggestion for an unknown keyword argument.

    Args:
        error: the TypeError. The name of the called function or options class in its message is omitted.
        function: the function whose caller gave the arguments.
    """
    message = re.sub(r"^[\w.<>]+\(\) ", "", str(error))
    unknown = unknown_keyword(error)
    if unknown is None:
        return message
    message = f"got an unexpected keyword argument {unknown!r}"  # without the suggestion of newer versions of Python
    return "; ".join(filter(None, (message, did_you_mean(unknown, _keywords_of(function)))))


def unknown_keyword(error: TypeError) -> str | None:
    """Return the unknown keyword argument that a TypeError is about; None if it is about something else."""
    found = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
    return found and found[1]


def _keywords_of(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's keyword arguments, including those of ``**options: Unpack[…]``."""
    names: list[str] = []
    for parameter in _signature_of(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            names += [
                name
                for options in get_args(hints_of(inspect.unwrap(function)).get(parameter.name))
                for name in get_type_hints(options)
            ]
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            names.append(parameter.name)
    return names


_signature_of = cache(inspect.signature)


@cache
def hints_of(owner: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function or class, name -> type."""
    return get_type_hints(owner)


def check_types(call: str, hints: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise an :class:`OptionError` for the first value that does not fit the annotation of its name.

    Args:
        call: Name of the function, for the message.
        hints: Name -> annotation.
        values: Name -> value. Names without an annotation are not checked.
    """
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise OptionError(f"{call}: argument {name}: expected {_expected(hints[name])}, found {_described(value)}")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether a value has an annotated type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, member) for member in inner)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if hint is bool:
        return (
            isinstance(value, bool)
            or type(value).__name__ in ("bool", "bool_")
            or (type(value) is int and value in (0, 1))
        )
    if hint in (int, float):
        return _is_number(value, Integral if hint is int else Real)
    cls = origin or hint
    if cls is IO:
        return hasattr(value, "read")
    if cls in (Sequence, Iterable) and isinstance(value, (str, bytes)):
        return False
    return isinstance(value, cls) and (cls is not Sequence or all(_fits(item, inner[0]) for item in value))


def _is_number(value: Any, cls: type) -> bool:
    """Return whether a value, or the element of a zero-dimensional tensor or array, is a number of this class."""
    element = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value
    return isinstance(element, cls) and not isinstance(element, bool)


def _expected(hint: Any) -> str:
    """Return an annotation in words."""
    *first, last = dict.fromkeys(_words(hint))
    return f"{', '.join(first)} or {last}" if first else last


def _words(hint: Any) -> Iterator[str]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for member in inner:
            yield from _words(member)
    elif origin is Literal:
        yield from map(repr, inner)
    elif origin in (Sequence, Iterable):
        yield f"a sequence of ({_expected(inner[0])})"
    elif origin is typing.get_origin(Callable[[], Any]):
        yield "a function"
    else:
        cls = origin or hint
        module = {"torch": "torch.", "numpy": "numpy."}.get(cls.__module__, "torch.nn.") if _is_torch(cls) else ""
        yield _NAMES.get(cls) or f"a {module}{cls.__qualname__}"


def _is_torch(cls: type) -> bool:
    return cls.__module__ in ("torch", "numpy", "torch.nn.modules.module", "torch.nn.parameter")


def _described(value: Any) -> str:
    """Describe a value by its type; for strings and numbers also by the shortened ``repr``."""
    name = type(value).__name__
    if isinstance(value, (str, int, float)) or value is None:
        return f"{shortened(repr(value), 60)}{'' if value is None else f' ({name})'}"
    return f"a {name}"
