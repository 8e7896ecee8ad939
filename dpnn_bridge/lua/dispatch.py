"""Select the implementation of a Torch7 call; ``torch.f(res, ...)``, ``torch.f(...)``, ``t:f(...)`` are declared once.

A signature lists the arguments of Torch7's C wrapper, one token each::

    r    result tensor; torch.f() may omit it (a new tensor), t:f() passes self
    R    result tensor that t:f() may omit too (self is then the next argument)
    s    source tensor; in t:f() it defaults to the result
    T    tensor of the call's type; T2 must have 2 dimensions
    X    tensor that is also the result of the call (in place)
    I    LongTensor; IR: a LongTensor result that may be omitted
    BR   ByteTensor result that may be omitted
    F D  FloatTensor, DoubleTensor
    N    IntTensor
    A    non-empty table of tensors
    n    number; n=1 declares a default
    i    dimension, 1-based in Lua and 0-based for the code; i=last defaults to the last one
    b    boolean; b=0 declares a default
    G    random generator, may be omitted
    L    sizes: a LongStorage or numbers, up to the end of the call
    c    letter: the first one of a string; c=UL allows U (the default) and L

Alternatives are tried in the order of their declaration. Within one alternative, the form that omits the fewest
arguments is tried last, as in the wrapper. Lua gets the return value of the code, or the result arguments if the code
returns None.

With LuaJIT, loops in Lua compute small tensors without calling Python. A declaration names the loop:
``small=("pointwise", "x + v")`` is a family of loops in prelude/ffi and the arguments of the family, which may include
names of PyTorch functions that LuaJIT calls directly. Arguments are matched only here: Lua asks once per combination of
argument types how to make the call (:meth:`Function.plan`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from dpnn_bridge.lua.arguments import INTEGER_TYPES, as_long, as_number, check_int, describe
from dpnn_bridge.lua.tensor import Storage, Tensor, TorchError
from dpnn_bridge.torch7.random import Generator

FLOAT_TYPES = ("Float", "Double")
ALL_TYPES = (*INTEGER_TYPES, *FLOAT_TYPES)

#: defaults: a new tensor of the call's type, of type Long, of type Byte; the default generator; the last dimension
_NEW, _NEW_LONG, _NEW_BYTE, _GENERATOR, _LAST = (object() for _ in range(5))


@dataclass(frozen=True)
class _Arg:
    """A token of a signature.

    Attributes:
        kind: the letters of the token, such as ``IR``.
        dim: number of dimensions that the tensor must have; None: any.
        default: value of an omitted argument; ``...``: it has none.
        letters: the letters that a ``c`` allows.
    """

    kind: str
    dim: int | None = None
    default: Any = ...
    letters: str = ""

    @property
    def is_result(self) -> bool:
        return self.kind in ("r", "R", "X", "IR", "BR")


def _parse(token: str) -> _Arg:
    kind, _, default = token.partition("=")
    dim = None
    if kind[-1].isdigit():
        kind, dim = kind[:-1], int(kind[-1])
    if kind == "c":
        return _Arg("c", default=default[0], letters=default)
    if kind in ("r", "R"):
        return _Arg(kind, default=_NEW)
    if kind == "IR":
        return _Arg(kind, default=_NEW_LONG)
    if kind == "BR":
        return _Arg(kind, default=_NEW_BYTE)
    if kind == "G":
        return _Arg(kind, default=_GENERATOR)
    if not default:
        return _Arg(kind, dim)
    if default == "last":
        return _Arg(kind, default=_LAST)
    return _Arg(kind, dim, bool(int(default)) if kind == "b" else float(default) if "." in default else int(default))


def _accepts(arg: _Arg, value: Any, ty: str) -> bool:
    kind = arg.kind
    if kind in ("r", "R", "s", "T", "X"):
        return isinstance(value, Tensor) and value.ty == ty and (arg.dim is None or arg.dim == value.dim)
    if kind in ("n", "i"):
        return as_number(value) is not None
    if kind in ("I", "IR"):
        return isinstance(value, Tensor) and value.ty == "Long"
    if kind == "BR":
        return isinstance(value, Tensor) and value.ty == "Byte"
    if kind == "b":
        return isinstance(value, bool)
    if kind in ("F", "D", "N"):
        return isinstance(value, Tensor) and value.ty == {"F": "Float", "D": "Double", "N": "Int"}[kind]
    if kind == "G":
        return isinstance(value, Generator)
    if kind == "c":  # Torch7 reads the first letter only
        return isinstance(value, str) and value != "" and value[0] in arg.letters
    if kind == "A":
        return isinstance(value, list)
    raise AssertionError(kind)


@dataclass(frozen=True)
class _Pattern:
    """One form of a call: which arguments of the signature are given, in order."""

    args: tuple[_Arg, ...]
    given: tuple[int, ...]  # positions in args
    code: Callable[..., Any]
    sizes: bool  # whether the signature ends in L
    small: tuple[str, ...] = ()  # family of loops of LuaJIT, and its arguments

    def matches(self, values: tuple[Any, ...], ty: str) -> bool:
        fixed = len(self.given) - self.sizes
        if self.sizes:
            rest = values[fixed:]
            if not (len(rest) == 1 and isinstance(rest[0], Storage) and rest[0].ty == "Long") and (
                not rest or any(as_number(v) is None for v in rest)
            ):
                return False
        elif len(values) != fixed:
            return False
        return all(_accepts(self.args[k], v, ty) for k, v in zip(self.given[:fixed], values, strict=False))

    def call(self, values: tuple[Any, ...], ty: str, generator: Generator, method: bool) -> Any:
        bound: list[Any] = [arg.default for arg in self.args]
        for n, k in enumerate(self.given):
            arg = self.args[k]
            if arg.kind == "L":
                bound[k] = sizes_of(values[n:])
            elif arg.kind in ("n", "i"):
                number = as_number(values[n])
                assert number is not None
                bound[k] = as_long(number) - 1 if arg.kind == "i" else number
            elif arg.kind == "c":
                bound[k] = values[n][0]
            else:
                bound[k] = values[n]
        results = []
        for k, arg in enumerate(self.args):
            value = bound[k]
            if value is _NEW:
                value = Tensor(ty)
            elif value is _NEW_LONG:
                value = Tensor("Long")
            elif value is _NEW_BYTE:
                value = Tensor("Byte")
            elif value is _GENERATOR:
                value = generator
            elif value is _LAST:
                source = next(v for a, v in zip(self.args, bound, strict=True) if a.kind in ("T", "s"))
                value = source.dim - 1
            elif value is ...:  # an omitted "s": the result is the source
                value = bound[0]
            elif arg.kind == "i" and k not in self.given:
                value -= 1
            bound[k] = value
            if arg.is_result:
                results.append(value)
        returned = self.code(*bound)
        if returned is not None:
            return returned
        return results[0] if len(results) == 1 else tuple(results)


class Slot(NamedTuple):
    """An argument of a signature in the form that Lua reads.

    Attributes:
        kind: ``result``, ``tensor``, or ``plain`` for other values.
        token: the token of the signature without its default, such as ``i``.
        source: position of the argument in the call, from 1; 0 if it is omitted.
        value: the default: a number, a boolean, the type of a new result, ``last`` or ``same``.
    """

    kind: str
    token: str
    source: int
    value: Any

    @classmethod
    def of(cls, arg: _Arg, source: int) -> Slot:
        kind = "result" if arg.is_result else "tensor" if arg.kind in "sTIFDN" else "plain"
        names = {_NEW: "new", _NEW_LONG: "Long", _NEW_BYTE: "Byte", _LAST: "last", ...: "same", _GENERATOR: None}
        return cls(kind, arg.kind, source, names.get(arg.default, arg.default))


def sizes_of(values: Iterable[Any]) -> tuple[int, ...]:
    """Return the sizes given as a LongStorage or as numbers."""
    values = tuple(values)
    if len(values) == 1 and isinstance(values[0], Storage):
        return tuple(values[0].flat.tolist())
    return tuple(check_int(v, n) for n, v in enumerate(values, 1))


def _patterns(
    signature: str, code: Callable[..., Any], method: bool, small: tuple[str, ...] = ()
) -> Iterable[_Pattern]:
    args = tuple(_parse(token) for token in signature.split())
    optional, required = [], []
    for k, arg in enumerate(args):
        is_optional = arg.default is not ... and not (method and arg.kind == "r")
        if arg.kind == "s":
            is_optional = method
        (optional if is_optional else required).append(k)
    sizes = bool(args) and args[-1].kind == "L"
    for chosen in itertools.product((False, True), repeat=len(optional)):
        present = {k for k, use in zip(optional, reversed(chosen), strict=True) if use} | set(required)
        yield _Pattern(args, tuple(sorted(present)), code, sizes, small)


class Function:
    """A function of the ``torch`` package with all its alternatives.

    Attributes:
        name: such as ``add``.
        method_types: element types whose tensors have the method.
        function_types: element types for which ``torch.name`` exists.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.method_types: list[str] = []
        self.function_types: list[str] = []
        self._patterns: dict[tuple[str, bool], list[_Pattern]] = {}
        self._plans: dict[Any, _Pattern] = {}

    def add(
        self, signature: str, code: Callable[..., Any], types: Iterable[str], modes: str, small: tuple[str, ...] = ()
    ) -> None:
        for mode in modes:
            names = self.method_types if mode == "m" else self.function_types
            for ty in types:
                if ty not in names:
                    names.append(ty)
                self._patterns.setdefault((ty, mode == "m"), []).extend(_patterns(signature, code, mode == "m", small))

    def run(self, ty: str, values: tuple[Any, ...], generator: Generator, method: bool) -> Any:
        key = (ty, method, *[(v.ty, len(v.size)) if type(v) is Tensor else _plan_key(v) for v in values])
        pattern = self._plans.get(key)
        if pattern is None:
            pattern = self._find(ty, values, method)
            if pattern is None:
                names = " ".join(map(describe, values)) or "no arguments provided"
                raise TorchError(f"invalid arguments: {names}\nexpected arguments: {self._usage(ty, method)}")
            if not any(isinstance(v, str) for v in values):  # whether a string is a number depends on its content
                self._plans[key] = pattern
        return pattern.call(values, ty, generator, method)

    def _find(self, ty: str, values: tuple[Any, ...], method: bool) -> _Pattern | None:
        return next((p for p in self._patterns.get((ty, method), ()) if p.matches(values, ty)), None)

    def has_loops(self, ty: str, method: bool) -> bool:
        """Return whether LuaJIT has a loop for some form of the call."""
        return any(p.small for p in self._patterns.get((ty, method), ()))

    def plan(self, ty: str, values: tuple[Any, ...], method: bool) -> tuple[tuple[str, ...], list[Slot]] | None:
        """Return how LuaJIT makes a call with arguments of the types of ``values``.

        Returns:
            The family of loops with its arguments, and the arguments of the signature; None if there is no loop.
        """
        pattern = self._find(ty, values, method)
        if pattern is None or not pattern.small:
            return None
        given = {k: n for n, k in enumerate(pattern.given, 1)}
        return pattern.small, [Slot.of(arg, given.get(k, 0)) for k, arg in enumerate(pattern.args)]

    def _usage(self, ty: str, method: bool) -> str:
        seen: list[str] = []
        for pattern in self._patterns.get((ty, method), ()):
            words = " ".join(
                f"[{_describe_arg(a, ty)}]" if a.default is not ... else _describe_arg(a, ty) for a in pattern.args
            )
            if words not in seen:
                seen.append(words)
        return " | ".join(seen)


def _plan_key(value: Any) -> Any:
    return (value.ty,) if type(value) is Storage else type(value)


def _describe_arg(arg: _Arg, ty: str) -> str:
    names = {"n": "number", "i": "index", "b": "boolean", "G": "Generator", "L": "sizes", "A": f"{{{ty}Tensor}}"}
    names |= {
        "I": "LongTensor",
        "IR": "*LongTensor*",
        "BR": "*ByteTensor*",
        "F": "FloatTensor",
        "D": "DoubleTensor",
        "N": "IntTensor",
    }
    names |= {"T": f"{ty}Tensor", "s": f"{ty}Tensor", "c": f"({'|'.join(arg.letters)})"}
    return names.get(arg.kind, f"*{ty}Tensor*") + (f"~{arg.dim}D" if arg.dim else "")


#: every function declared by the modules of :mod:`dpnn_bridge.lua.ops`
FUNCTIONS: dict[str, Function] = {}
#: methods that parse their own arguments: name -> (code, element types)
NATIVE: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}


def torch_function(
    name: str, *signatures: str, types: Iterable[str] = ALL_TYPES, modes: str = "fm", small: tuple[str, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a function of torch, a method, or both. Several signatures share the code.

    Args:
        name: name of the function.
        *signatures: see the docstring of this file.
        types: element types.
        modes: "f" for ``torch.name``, "m" for the method.
        small: LuaJIT's loop for small tensors: a family of prelude/ffi, and the arguments of the family.
    """

    def register(code: Callable[..., Any]) -> Callable[..., Any]:
        function = FUNCTIONS.setdefault(name, Function(name))
        for signature in signatures:
            function.add(signature, code, tuple(types), modes, small)
        return code

    return register


def native(*names: str, types: Iterable[str] = (*ALL_TYPES, "Half")) -> Callable[..., Any]:
    """Declare a method that parses its Lua arguments itself."""

    def register(code: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            NATIVE[name] = (code, tuple(types))
        return code

    return register
