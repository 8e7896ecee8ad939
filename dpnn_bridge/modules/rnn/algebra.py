"""Represent the computation of a module as an expression, to recognize recurrent cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from typing import Any, NamedTuple

from torch import nn

from dpnn_bridge.modules.nn.affine import CMul
from dpnn_bridge.modules.nn.arithmetic import CAddTable, CMulTable
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.elementwise import AddConstant, MulConstant
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.modules.nn.reshape import Narrow, Reshape
from dpnn_bridge.modules.nn.table import FlattenTable, JoinTable, NarrowTable, SelectTable, SplitTable
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.misc import SAdd
from dpnn_bridge.modules.rnn.products import is_ordinary
from dpnn_bridge.modules.rnn.row_wise import is_bare, is_row_wise

#: maximum number of terms of a sum, product or concatenation; a file could double the number with every layer
_MAX_PARTS = 16
#: ``(dimension, n_input_dims)`` of layers that work on the features of a batch (N, D)
_OF_FEATURES = ((2, None), (1, 1), (-1, None), (-1, 1))
#: ``(dimension, n_input_dims)`` of layers that work on the blocks of a batch (N, blocks, D)
_OF_BLOCKS = ((2, None), (1, 2), (-2, None), (-2, 2))


class UnknownModuleError(Exception):
    """The computation of a module cannot be represented as an expression."""


class Term(NamedTuple):
    """An expression for a batch of vectors.

    Args:
        kind: the operation, here with its arguments: ``"input"`` (name); ``"linear"`` (term, module, start row, stop
            row); ``"bias"`` (module, start, stop); ``"scale"`` (term, module); ``"affine"`` (term, factor, addend);
            ``"sigmoid"`` and ``"tanh"`` (term); ``"sum"`` and ``"product"`` (terms); ``"joined"`` (terms), a
            concatenation of features; ``"blocks"`` (term, number, size), a reshape; ``"dropped"`` (term, module), a
            dropout with one mask per time step; ``"module"`` (term, module), a module that processes each row
            independently.
        args: the arguments.
    """

    kind: str
    args: tuple[Any, ...]


def expression(module: nn.Module, value: Any) -> Any:
    """Return the output of a module as a term, or nested lists of terms.

    Args:
        module: the module.
        value: the input, a term or nested lists of terms.

    Raises:
        UnknownModuleError: the output cannot be represented.
    """
    rule = _RULES.get(type(module).forward)
    if rule is not None and is_bare(module) and not getattr(module, "inplace", False):
        return rule(module, value)
    if is_row_wise(module):
        return Term("module", (_term(value), module))
    raise UnknownModuleError(type(module).__name__)


def depends_on(term: Term, others: Container[Term]) -> bool:
    """Return whether a term contains one of the input terms ``others``."""
    seen: set[int] = set()
    stack: list[Any] = [term]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Term):
            if value.kind == "input" and value in others:
                return True
            stack += value.args
        elif isinstance(value, tuple):
            stack += value
    return False


def rows(term: Term, start: int, stop: int) -> Term:
    """Return the features ``start:stop`` of a term.

    Raises:
        UnknownModuleError: the features cannot be represented.
    """
    kind, args = term
    if kind == "linear":
        inner, module, first, last = args
        return Term(kind, (inner, module, *_range(first, last, start, stop)))
    if kind == "bias":
        module, first, last = args
        return Term(kind, (module, *_range(first, last, start, stop)))
    if kind == "sum":
        return _flat(kind, [rows(t, start, stop) for t in args])
    if kind in ("sigmoid", "tanh"):
        return Term(kind, (rows(args[0], start, stop),))
    if kind == "joined":
        for part in args:
            size = _size(part)
            if 0 <= start < stop <= size:
                return part if stop - start == size else rows(part, start, stop)
            start, stop = start - size, stop - size
    raise UnknownModuleError(kind)


def _range(first: int, last: int, start: int, stop: int) -> tuple[int, int]:
    if not 0 <= start < stop <= last - first:
        raise UnknownModuleError("a range out of bounds")
    return first + start, first + stop


def _size(term: Term) -> int:
    """Return the number of features of a term."""
    kind, args = term
    if kind in ("linear", "bias"):
        return args[-1] - args[-2]
    if kind in ("sum", "sigmoid", "tanh"):
        return _size(args[0])
    if kind == "joined":
        return sum(map(_size, args))
    raise UnknownModuleError(kind)


def _term(value: Any) -> Term:
    if not isinstance(value, Term) or value.kind == "blocks":
        raise UnknownModuleError("not a batch of vectors")
    return value


def _list(value: Any) -> list[Any]:
    if isinstance(value, Term) or not isinstance(value, (list, tuple)):
        raise UnknownModuleError("not a list")
    return list(value)


def _linear(module: Any, value: Any) -> Term:
    if not is_ordinary(module._parameters.get("weight")):
        raise UnknownModuleError("a weight of a subclass")
    term = Term("linear", (_term(value), module, 0, module.out_features))
    return term if module.bias is None else Term("sum", (term, Term("bias", (module, 0, module.out_features))))


def _nary(kind: str) -> Callable[[Any, Any], Term]:
    return lambda module, value: _flat(kind, [*map(_term, _list(value))])


def _flat(kind: str, terms: list[Term]) -> Term:
    """Return the sum or product of terms, with nested sums or products flattened."""
    parts: list[Term] = []
    for term in terms:
        parts += term.args if term.kind == kind else [term]
    if not 1 < len(parts) <= _MAX_PARTS:
        raise UnknownModuleError(kind)
    return Term(kind, tuple(parts))


def _affine(term: Term, factor: float, addend: float) -> Term:
    if term.kind == "affine":
        inner, f, a = term.args
        return Term("affine", (inner, f * factor, a * factor + addend))
    return Term("affine", (term, factor, addend))


def _constant(module: Any) -> float:
    if not isinstance(module.constant_scalar, (int, float)):
        raise UnknownModuleError("a vector")
    return float(module.constant_scalar)


def _sadd(module: Any, value: Any) -> Term:
    sign = -1.0 if module.negate else 1.0
    return _affine(_term(value), sign, sign * module.addend)


def _reshape(module: Any, value: Any) -> Term:
    """Represent a reshape of features to blocks of equal size."""
    term, size = _term(value), module.size
    if module.batch_mode is False or len(size) != 2 or math.prod(size) != _size(term):
        raise UnknownModuleError("Reshape")
    return Term("blocks", (term, *size))


def _split(module: Any, value: Any) -> list[Term]:
    if not isinstance(value, Term) or value.kind != "blocks":
        raise UnknownModuleError("SplitTable")
    term, count, size = value.args
    if (module.dimension, module.n_input_dims) not in _OF_BLOCKS:
        raise UnknownModuleError("SplitTable")
    return [rows(term, k * size, (k + 1) * size) for k in range(count)]


def _narrow(module: Any, value: Any) -> Term:
    if module.dimension not in (2, -1) or module.index < 1 or module.length < 1:
        raise UnknownModuleError("Narrow")
    return rows(_term(value), module.index - 1, module.index - 1 + module.length)


def _join(module: Any, value: Any) -> Term:
    """Represent a concatenation of features."""
    parts = [*map(_term, _list(value))]
    if (module.dimension, module.n_input_dims) not in _OF_FEATURES or not 0 < len(parts) <= _MAX_PARTS:
        raise UnknownModuleError("JoinTable")
    return Term("joined", tuple(parts))


def _select_table(module: Any, value: Any) -> Any:
    values = _list(value)
    if not isinstance(module.index, int) or not 0 < abs(module.index) <= len(values):
        raise UnknownModuleError("SelectTable")
    return values[module.index if module.index < 0 else module.index - 1]


def _flatten(module: Any, value: Any) -> list[Any]:
    parts: list[Any] = []
    for part in _list(value):
        parts += [part] if isinstance(part, Term) else _flatten(module, part)
    return parts


def _sequential(module: Any, value: Any) -> Any:
    for child in module:
        value = expression(child, value)
    return value


def _parallel(module: Any, value: Any) -> list[Any]:
    values = _list(value)
    if len(values) < len(module):
        raise UnknownModuleError("ParallelTable")
    return [expression(child, v) for child, v in zip(module, values, strict=False)]


def _dropout(module: Any, value: Any) -> Any:
    if module.training and module.p:
        if isinstance(module, LazyDropout) and not module.lazy:
            raise UnknownModuleError("a dropout mask for each call")
        return Term("dropped" if isinstance(module, LazyDropout) else "module", (_term(value), module))
    return value if getattr(module, "v2", True) or not module.p else _affine(_term(value), 1 - module.p, 0.0)


def _graph(module: Any, value: Any) -> Any:
    values: list[Any] = []
    for i, node in enumerate(module.nodes):
        inputs = [values[source] for source in node.inputs]
        result: Any = value if i == module.input_node else inputs[0] if len(inputs) == 1 else inputs
        if node.module is not None:
            result = expression(module._modules[node.module], result)
        elif node.select is not None:
            parts = _list(result)
            if not 0 < node.select <= len(parts):
                raise UnknownModuleError("a node that selects a missing element")
            result = parts[node.select - 1]
        values.append(result)
    return values[module.output_node]


def _scale(module: Any, value: Any) -> Term:
    if module.weight.dim() != 1:
        raise UnknownModuleError("CMul")
    return Term("scale", (_term(value), module))


#: ``forward`` of a class -> function that represents its output
_RULES: dict[Any, Callable[[Any, Any], Any]] = {
    nn.Linear.forward: _linear,
    nn.Sigmoid.forward: lambda module, value: Term("sigmoid", (_term(value),)),
    nn.Tanh.forward: lambda module, value: Term("tanh", (_term(value),)),
    nn.Identity.forward: lambda module, value: value,
    nn.Sequential.forward: _sequential,
    ConcatTable.forward: lambda module, value: [expression(child, value) for child in module],
    ParallelTable.forward: _parallel,
    GModule.forward: _graph,
    CAddTable.forward: _nary("sum"),
    CMulTable.forward: _nary("product"),
    CMul.forward: _scale,
    SAdd.forward: _sadd,
    AddConstant.forward: lambda module, value: _affine(_term(value), 1.0, _constant(module)),
    MulConstant.forward: lambda module, value: _affine(_term(value), _constant(module), 0.0),
    Reshape.forward: _reshape,
    SplitTable.forward: _split,
    JoinTable.forward: _join,
    Narrow.forward: _narrow,
    SelectTable.forward: _select_table,
    NarrowTable.forward: lambda module, value: _list(value)[module.offset - 1 :][: max(module.length, 0)],
    FlattenTable.forward: _flatten,
    nn.Dropout.forward: _dropout,
    LazyDropout.forward: _dropout,
}
