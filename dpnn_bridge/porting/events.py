"""Represent uses of weights on activations, in one form for all ATen operations that compute the same function.

An :class:`Event` is a linear map on the last dimension, a convolution, a norm, an embedding or an operation with a
learned constant. :func:`event_of` finds its activation, weights and options.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.result_sizes import of_each_dim
from dpnn_bridge.porting.tape import Node, Slot, Tape, leaves
from dpnn_bridge.porting.values import unexpanded

#: a form in which an event can be compared with others: a type of operation and its sizes
Form = tuple[Any, ...]
#: types whose result is linear in the activation, so that a missing bias shifts it by a constant
LINEAR = ("linear", "conv", "transposed conv", "embedding")
NORMS = ("batch norm", "batch norm over the batch", "instance norm", "layer norm", "group norm")
#: maximum number of rows of an embedding that is also compared as a linear map of one-hot vectors
_MAX_ONE_HOT = 5000
#: maximum number of elements in the windows of a convolution that is also compared as a linear map of its windows
_MAX_IN_WINDOWS = 2_000_000


@dataclass
class Weight:
    """Weights of an event.

    Attributes:
        view: the weights in the layout of the event's type, as a view of the slot's tensor.
        slot: number of the slot on the tape.
    """

    view: Tensor
    slot: int


@dataclass(eq=False)
class Event:
    """One use of weights.

    Attributes:
        kind: type of the operation: ``"linear"``, ``"conv"``, ``"batch norm"``, ``"add"``, …
        node: the operation on the tape.
        input: the activation, for linear maps as rows.
        weights: name -> weights; None for a weight that the operation could have and does not have.
        options: arguments that change the result.
        rows: function that converts the operation's result to rows of the first form.
        output: the result; None before the operation ran.
        slot: slot of the activation on the tape.
        adds: whether the operation also adds the result to another activation.
        factors: for a bilinear map, the two activations whose products are the input.
        outputs_dim: dimension of the result that has the outputs.
    """

    kind: str
    node: Node
    input: Tensor
    weights: dict[str, Weight | None]
    options: dict[str, Any] = field(default_factory=dict)
    rows: Callable[[Tensor], Tensor] = lambda out: out
    output: Tensor | None = None
    slot: Slot | None = None
    adds: bool = False
    factors: tuple[Tensor, ...] = ()
    outputs_dim: int = -1
    _forms: dict[Form, Callable[[], Tensor]] | None = None
    _rows: dict[Form, Tensor] = field(default_factory=dict)

    def tensor(self, name: str) -> Tensor | None:
        weight = self.weights.get(name)
        return None if weight is None else weight.view

    @property
    def sizes(self) -> tuple[int, ...]:
        weight = next(w for w in self.weights.values() if w is not None)
        return tuple(weight.view.shape)

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms in which the event can be compared, the most specific first."""
        return tuple(self._rows_by_form())

    def _rows_by_form(self) -> dict[Form, Callable[[], Tensor]]:
        if self._forms is None:
            self._forms = dict(_forms(self))
        return self._forms

    @property
    def linear_form(self) -> Form | None:
        return next((f for f in self.forms if f[0] == "linear"), None)

    def rows_in(self, form: Form) -> Tensor:
        """Return the input as rows of a form."""
        if form not in self._rows:
            self._rows[form] = self._rows_by_form()[form]()
        return self._rows[form]

    def release_input(self) -> None:
        """Free the memory of the input; the forms stay available."""
        self._forms = dict.fromkeys(self.forms, lambda: self.input)
        self.input = self.input.new_empty(0)
        self._rows.clear()

    def out_rows(self, out: Any, form: Form) -> Tensor:
        """Return the result as rows of a form."""
        out = self.rows(next(leaves(out)))
        if (form[0] == "linear" and self.kind == "conv") or form[-1] == "by channel":
            return out.movedim(1, -1).reshape(-1, out.shape[1])
        return out.reshape(len(self.rows_in(form)), -1)


def _forms(event: Event) -> Iterator[tuple[Form, Callable[[], Tensor]]]:
    x, weight = event.input, event.tensor("weight")
    by_channel = lambda: x.movedim(1, -1).reshape(-1, x.shape[1])  # noqa: E731
    by_sample = lambda: x.reshape(len(x) if x.dim() else 1, -1)  # noqa: E731
    if event.kind == "linear" and weight is not None:
        yield ("linear", *weight.shape), lambda: x
    elif event.kind == "embedding" and weight is not None:
        yield ("embedding", *weight.shape), lambda: x.reshape(-1, 1)
        if len(weight) <= _MAX_ONE_HOT:
            count = len(weight)
            one_hot = lambda: nn.functional.one_hot(x.reshape(-1).long(), count).double()  # noqa: E731
            yield ("linear", weight.shape[1], count), one_hot
    elif event.kind in ("conv", "transposed conv") and weight is not None:
        kernel = tuple(k for k in weight.shape[2:] if k != 1)
        yield (event.kind, kernel, *weight.shape[:2], event.options["groups"]), by_sample
        if event.kind == "transposed conv" or event.options["groups"] > 1:
            return
        linear, is_padded = ("linear", len(weight), weight[0].numel()), any(event.options["padding"])
        if not is_padded and kernel == () and all(s == 1 for s in event.options["stride"]):
            yield linear, by_channel
        elif not is_padded and x.shape[2:] == weight.shape[2:]:
            yield linear, by_sample
        elif _windows_are_few(event):
            yield linear, lambda: _windows(event)
    elif event.kind == "instance norm":
        yield ("instance norm",), lambda: x.reshape(x.shape[0] * x.shape[1], -1)
    else:
        channels = max((w.view.numel() for w in event.weights.values() if w), default=0)
        yield (event.kind, channels), by_sample
        if event.kind in ("batch norm", "prelu") and x.dim() > 1:
            yield (event.kind, channels, "by channel"), by_channel


def _windows_are_few(event: Event) -> bool:
    """Return whether the windows of a convolution are small enough to be copied into rows."""
    weight = event.tensor("weight")
    assert weight is not None
    return event.input.numel() * weight[0, 0].numel() <= _MAX_IN_WINDOWS * math.prod(event.options["stride"])


def _windows(event: Event) -> Tensor:
    """Return the windows of a convolution's input, one in each row, with channels first as in the weight."""
    weight = event.tensor("weight")
    assert weight is not None
    x = windowed(event)
    for dim, (extent, stride, dilation) in enumerate(_extents(event), 2):
        x = x.unfold(dim, extent, stride)[..., ::dilation]
    return x.movedim(1, weight.dim() - 1).reshape(-1, weight[0].numel())


def windowed(event: Event) -> Tensor:
    """Return the elements in the windows of a convolution: its input with zero padding, without an unused margin."""
    pads = of_each_dim(event.options["padding"], event.input.dim() - 2)
    x = nn.functional.pad(event.input, [p for pad in reversed(pads) for p in (pad, pad)])
    for dim, (extent, stride, _) in enumerate(_extents(event), 2):
        x = x.narrow(dim, 0, x.shape[dim] - (x.shape[dim] - extent) % stride)
    return x


def _extents(event: Event) -> Iterator[tuple[int, int, int]]:
    """Yield, for each dimension of a convolution, the extent of its windows, the stride and the dilation."""
    weight, o = event.tensor("weight"), event.options
    assert weight is not None
    count = weight.dim() - 2
    for size, stride, dilation in zip(
        weight.shape[2:], of_each_dim(o["stride"], count), of_each_dim(o["dilation"], count), strict=True
    ):
        yield dilation * (size - 1) + 1, stride, dilation


def event_of(tape: Tape, node: Node, args: tuple[Any, ...]) -> Event | None:
    """Return the event of an operation, or None if the operation uses no weights on an activation, or has no elements.

    Args:
        tape: the tape of the node.
        node: the operation.
        args: arguments of the operation, with tensors instead of slots.
    """
    read = _READERS.get(node.op)
    if read is None or node.constant or not all(t.numel() for t in leaves(args) if isinstance(t, Tensor)):
        return None
    event = read(_Operation(tape, node, args))
    if event is not None and not any(event.weights.values()):
        return None  # such as a batch norm whose statistics are not in the module
    if event is not None:
        weights = [w.slot for w in event.weights.values() if w is not None]
        activations = [s for s in node.reads if s.number not in weights]
        event.slot = next(iter(activations[1:] if event.adds else activations), None)
    return event


def event_key(tape: Tape, event: Event) -> Any:
    """Return a key for the weights of an event that is the same in every tape of a module."""
    return tuple((k, tape.weight_key(w.slot), w.view.storage_offset()) for k, w in event.weights.items() if w)


class _Operation:
    """An operation with its arguments, and methods that determine which arguments are weights."""

    def __init__(self, tape: Tape, node: Node, args: tuple[Any, ...]) -> None:
        self.tape, self.node, self.args = tape, node, args

    def is_weight(self, i: int) -> bool:
        slot = self.node.args[i] if i < len(self.node.args) else None
        return isinstance(slot, Slot) and slot.number in self.tape.weights

    def is_learned(self, i: int) -> bool:
        return self.is_weight(i) and self.tape.is_learned(self.node.args[i].number)

    def weight(self, i: int, view: Callable[[Tensor], Tensor] = lambda t: t) -> Weight | None:
        """Return the weights at an argument; None for other tensors, such as zeros for a missing bias."""
        return Weight(view(self.args[i]), self.node.args[i].number) if self.is_weight(i) else None

    def event(self, kind: str, input: Tensor, options: dict[str, Any] | None = None, **weights: Weight | None) -> Event:
        return Event(kind, self.node, input.detach(), weights, options or {})


def _linear(op: _Operation, x: int, w: int, b: int | None = None, into: Any = lambda t: t.t()) -> Event | None:
    if not op.is_weight(w):
        return None
    weight = op.weight(w, into)
    bias = op.weight(b, lambda t: t.reshape(-1, t.shape[-1])[0] if t.dim() else t.reshape(1)) if b is not None else None
    assert weight is not None
    if op.args[x].shape[-1:] != weight.view.shape[1:]:
        return None  # the operation raises an error
    scales = {name: value for name, value in op.node.kwargs.items() if name in ("alpha", "beta") and value != 1}
    event = op.event("linear", op.args[x].reshape(-1, weight.view.shape[1]), scales, weight=weight, bias=bias)
    if b is not None and b < len(op.args) and isinstance(op.args[b], Tensor) and bias is None:
        base, event.adds = op.args[b].clone(), True
        event.rows = lambda out: out - base
    return event


def _mm(op: _Operation) -> Event | None:
    if op.is_weight(1):
        return _linear(op, 0, 1)
    if op.is_weight(0):  # weight @ columns
        event = op.event("linear", op.args[1].t(), weight=op.weight(0), bias=None)
        event.rows, event.outputs_dim = lambda out: out.t(), 0
        return event
    return None


def _bmm(op: _Operation, x: int, w: int, b: int | None = None) -> Event | None:
    if op.is_weight(w) and (op.args[w].stride(0) == 0 or len(op.args[w]) == 1):
        return _linear(op, x, w, b, lambda t: t[0].t())
    if op.is_weight(x) and (op.args[x].stride(0) == 0 or len(op.args[x]) == 1):
        columns = op.args[w].transpose(1, 2)
        event = op.event(
            "linear", columns.reshape(-1, columns.shape[-1]), weight=op.weight(x, lambda t: t[0]), bias=None
        )
        event.rows, event.outputs_dim = lambda out: out.transpose(1, 2), 1
        return event
    return None


def _bilinear(op: _Operation) -> Event | None:
    """Return the event of ``torch.nn.functional.bilinear``: a linear map of the products of two inputs."""
    a = op.args
    if not op.is_weight(1) or a[1].dim() != 3 or not all(isinstance(t, Tensor) and t.dim() == 2 for t in (a[0], a[2])):
        return None
    products = a[0][:, :, None] * a[2][:, None, :]
    event = op.event("linear", products.flatten(1), weight=op.weight(1, lambda t: t.flatten(1)), bias=None)
    event.factors = a[0].clone(), a[2].clone()
    return event


def _convolution(op: _Operation) -> Event | None:
    if not op.is_weight(1):
        return None
    stride, padding, dilation, transposed, output_padding, groups = op.args[3:9]
    options = {
        "stride": list(stride),
        "padding": list(padding),
        "dilation": list(dilation),
        "output_padding": list(output_padding),
        "groups": groups,
    }
    kind = "transposed conv" if transposed else "conv"
    event = op.event(kind, op.args[0], options, weight=op.weight(1), bias=op.weight(2))
    event.outputs_dim = 1
    return event


def _batch_norm(op: _Operation) -> Event | None:
    a = op.args
    legit = op.node.op == "_native_batch_norm_legit_no_training"
    training = False if legit else next((v for v in a[5:6] if isinstance(v, bool)), True)
    options = {"eps": a[-1], "momentum": a[-2]}
    if not training:
        return op.event(
            "batch norm",
            a[0],
            options,
            weight=op.weight(1),
            bias=op.weight(2),
            running_mean=op.weight(3),
            running_var=op.weight(4),
        )
    if not op.is_weight(1):
        return None
    kind = "instance norm" if len(a[0]) == 1 else "batch norm over the batch"
    return op.event(kind, a[0], {"eps": a[-1]}, weight=op.weight(1), bias=op.weight(2))


def _layer_norm(op: _Operation, kind: str, weight: int) -> Event | None:
    if not op.is_weight(weight):
        return None
    options = {"eps": op.args[-1]} | ({"groups": op.args[6]} if kind == "group norm" else {})
    return op.event(kind, op.args[0], options, weight=op.weight(weight), bias=op.weight(weight + 1))


def _embedding(op: _Operation, indices: int) -> Event | None:
    if not op.is_weight(0) or op.args[0].dim() != 2:
        return None
    return op.event("embedding", op.args[indices], weight=op.weight(0), bias=None)


def _elementwise(op: _Operation) -> Event | None:
    if len(op.args) < 2 or not all(isinstance(t, Tensor) for t in op.args[:2]) or op.is_weight(0) == op.is_weight(1):
        return None
    x, w = (0, 1) if op.is_weight(1) else (1, 0)
    if not op.is_learned(w):
        return None
    reverse = {"reverse": True} if x and op.node.op in ("sub", "div") else {}
    return op.event(op.node.op, op.args[x], reverse, weight=op.weight(w, unexpanded))


_NORM = dict.fromkeys(
    ["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"],
    _batch_norm,
)
_READERS: dict[str, Callable[[_Operation], Event | None]] = {
    **_NORM,
    **dict.fromkeys(("add", "sub", "mul", "div"), _elementwise),
    "convolution": _convolution,
    "_trilinear": _bilinear,
    "addmm": lambda op: _linear(op, 1, 2, 0),
    "mm": _mm,
    "linear": lambda op: _linear(op, 0, 1, 2, lambda t: t),
    "bmm": lambda op: _bmm(op, 0, 1),
    "baddbmm": lambda op: _bmm(op, 1, 2, 0),
    "addmv": lambda op: _linear(op, 2, 1, 0, lambda t: t),
    "mv": lambda op: _linear(op, 1, 0, None, lambda t: t),
    "native_layer_norm": lambda op: _layer_norm(op, "layer norm", 2),
    "native_group_norm": lambda op: _layer_norm(op, "group norm", 1),
    "embedding": lambda op: _embedding(op, 1),
    "index_select": lambda op: _embedding(op, 2) if op.args[1] == 0 else None,
    "index": lambda op: _embedding_by_index(op),
    "_prelu_kernel": lambda op: op.event("prelu", op.args[0], weight=op.weight(1)) if op.is_weight(1) else None,
}


def _embedding_by_index(op: _Operation) -> Event | None:
    """Return the event of ``weight[indices]``."""
    indices = op.args[1]
    if not op.is_weight(0) or op.args[0].dim() != 2 or len(indices) != 1 or indices[0].dtype == torch.bool:
        return None
    rows = indices[0].remainder(len(op.args[0]))  # a negative index counts from the end
    return op.event("embedding", rows, weight=op.weight(0), bias=None)
