"""Record every ATen operation of a forward pass, with the module and the line that called the operation.

A :class:`Tape` is a straight-line program. Tensors are numbered slots; a node is one operation that reads and writes
slots. :mod:`dpnn_bridge.porting.search` runs the program again with other weights, from any node.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpnn_bridge.base.default_dtype import default_dtype
from dpnn_bridge.base.storage import memory_of, storage_id
from dpnn_bridge.compare.nested import fields_of, map_fields
from dpnn_bridge.conversion.limits import EagerMode
from dpnn_bridge.porting.values import dense, with_values

_MOVING = (
    "view _unsafe_view reshape t transpose permute expand squeeze unsqueeze clone detach alias contiguous _to_copy"
    " as_strided lift_fresh _reshape_alias view_as_real diagonal unfold squeeze_ unsqueeze_ transpose_ t_"
)
_PARTING = "split split_with_sizes unsafe_split unsafe_split_with_sizes narrow slice select unbind"
#: views that return a part of their input
PARTS = frozenset(_PARTING.split())
#: operations that move or copy elements without computing
VIEWS = PARTS | frozenset(_MOVING.split())
#: operations whose result is an activation even if their input is constant, such as an initial state
_PRODUCTS = frozenset(("addmm", "mm", "linear", "bmm", "baddbmm", "convolution", "embedding"))
#: operations that create constants that single precision rounds
_COMPUTED = frozenset(("arange", "linspace", "logspace", "full", "affine_grid_generator"))
_LOW = (torch.float32, torch.float16, torch.bfloat16)
#: folders of this package and of PyTorch, whose frames are not the user's code
_OWN_FOLDERS = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))


class Slot(NamedTuple):
    """The number of a tensor of a tape."""

    number: int


@dataclass(eq=False)
class Node:
    """One operation of a tape.

    Attributes:
        args, kwargs: the arguments, with slots instead of tensors.
        owner: name of the module whose forward pass ran the operation.
        line: ``file:line`` of the user's code that called the operation, or empty.
        inputs, consumers: nodes that this node depends on, and nodes that depend on this node.
        reads, outs: slots of the arguments and of the results.
        constant: whether the result depends on weights and constants only, not on an activation.
        single: whether the network computes the operation in single precision or less.
        dtype: this precision, if the operation itself has it.
        origins: bit set of the indices of the events that the node depends on.
        event: the event of the operation, or None.
        drawn: results of an operation that draws random numbers from its own generator, else None.
        input_fingerprints, result_fingerprints: fingerprints of the activations and results, stored by an observer.
    """

    index: int
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: list[Slot]
    owner: str
    line: str
    inputs: list[Node] = field(default_factory=list)
    consumers: list[Node] = field(default_factory=list)
    reads: list[Slot] = field(default_factory=list)
    constant: bool = False
    single: bool = False
    dtype: torch.dtype | None = None
    origins: int = 0
    event: Any = None
    drawn: list[Tensor] | None = None
    input_fingerprints: list[Any] = field(default_factory=list)
    result_fingerprints: list[Any] = field(default_factory=list)

    @property
    def op(self) -> str:
        """The name of the operation; except for views, in-place operations have the name without the underscore."""
        return operation(self.func)

    def run(self, args: Any, kwargs: Any) -> Any:
        """Run the operation and return its result. Recorded random numbers are used again."""
        if self.drawn is None:
            return self.func(*args, **kwargs)
        if not self.mutates:
            return [t.clone() for t in self.drawn]
        return next(t for t in leaves(args) if isinstance(t, Tensor)).copy_(self.drawn[0])

    @property
    def mutates(self) -> bool:
        return self.func._schema.is_mutable

    def changed(self, args: Any, kwargs: Any) -> list[Any]:
        """Return the arguments (tensors or slots) that the operation writes into: ``self`` or ``out=``."""
        written = [(i, a) for i, a in enumerate(self.func._schema.arguments) if a.alias_info and a.alias_info.is_write]
        given = [args[i] if i < len(args) else kwargs.get(a.name) for i, a in written]
        return [value for value in leaves(given) if isinstance(value, (Tensor, Slot))]

    def options(self) -> dict[str, Any]:
        """Return the arguments without tensors, including defaults, by name."""
        given = {a.name: a.default_value for a in self.func._schema.arguments if a.has_default_value()}
        given |= dict(zip((a.name for a in self.func._schema.arguments), self.args, strict=False)) | self.kwargs
        return {k: v for k, v in given.items() if not any(isinstance(x, Slot) for x in leaves(v))}


def operation(func: Any) -> str:
    name = func._schema.name.split("::")[-1]
    return name if name in VIEWS else name.rstrip("_")


def leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists, tuples, dicts and dataclasses."""
    value = fields_of(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and not isinstance(value, Slot):
        for v in value:
            yield from leaves(v)
    else:
        yield value


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of nested lists, tuples, dicts and dataclasses with ``change`` applied to every value."""
    if fields_of(value) is not value:
        return map_fields(lambda inner: replaced(inner, change), value)
    if isinstance(value, dict):
        return {k: replaced(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, Slot):
        values = [replaced(v, change) for v in value]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    return change(value)


class _CallObserver(TorchFunctionMode):
    """Records what ATen operations do not show: the rates of dropout in evaluation mode, and autocast."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.recorder.paused:
            return func(*args, **kwargs)
        if torch._C._is_any_autocast_enabled() and not self.recorder.tape.autocast:
            self.recorder.tape.autocast = self.recorder.owners[-1], _line()
        if "dropout" in getattr(func, "__name__", "") and func.__module__ == "torch.nn.functional":
            rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
            self.recorder.tape.dropouts.append((self.recorder.owners[-1], _line(), float(rate)))
        return func(*args, **kwargs)


class Tape:
    """The record of one forward pass.

    Attributes:
        nodes: the operations in order.
        roots: slot number -> name of the parameter or buffer.
        parameters: the names in ``roots`` that are parameters.
        constants: slot number -> tensor that no recorded operation computed: an input, or a tensor from elsewhere.
        external: slot numbers of the constants that are not inputs.
        maker: slot number -> node that computed the tensor.
        changes: slot number of a weight -> nodes that changed the tensor in place afterwards.
        weights: slot numbers of parameters, buffers, and tensors computed from them and from constants only.
        output: slots of the tensors that the forward pass returned; None if it failed.
        random: the first node that drew random numbers, or None.
        failure: the exception that ended the forward pass, or None.
        dropouts: (module, line, rate) of each call of a dropout function.
        autocast: (module, line) of the first call under autocast, which does not change double precision; or None.
        shapes: slot number -> shape.
        size: number of slots.
        modules: name -> module of the network.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.roots: dict[int, str] = {}
        self.parameters: set[str] = set()
        self.constants: dict[int, Tensor] = {}
        self.external: set[int] = set()
        self.maker: dict[int, Node] = {}
        self.changes: dict[int, list[Node]] = {}
        self.weights: set[int] = set()
        self.output: Any = None
        self.random: Node | None = None
        self.failure: Exception | None = None
        self.dropouts: list[tuple[str, str, float]] = []
        self.autocast: tuple[str, str] | None = None
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.size = 0
        self.modules: dict[str, nn.Module] = {}
        self._keys: dict[tuple[int, int], str] = {}  # (node index, slot) -> key
        self._root_names: dict[int, list[str]] = {}  # slot -> names

    def weight_key(self, slot: int) -> str:
        """Return a key for weights that is the same in every tape of a module: a name, or a digest of operations."""
        if slot in self.roots:
            return self.roots[slot]
        node = self.maker.get(slot)
        if node is None:
            return "constant"
        if (node.index, slot) not in self._keys:
            at = next(i for i, s in enumerate(node.outs) if s.number == slot)
            found: list[Any] = [at]
            for n in (node, *self.changes.get(slot, ())):
                args = (str(x) if not isinstance(x, Slot) or x.number == slot else x for x in leaves(n.args))
                found += [n.op, *(self.weight_key(x.number) if isinstance(x, Slot) else x for x in args)]
            self._keys[node.index, slot] = hashlib.sha256(repr(found).encode()).hexdigest()
        return self._keys[node.index, slot]

    def root_names(self, slot: int) -> list[str]:
        """Return the names of the parameters and buffers that a weight is computed from."""
        if slot in self.roots:
            return [self.roots[slot]]
        if slot not in self._root_names:
            makers = [n for n in (self.maker.get(slot), *self.changes.get(slot, ())) if n is not None]
            reads = (s.number for n in makers for s in n.reads if s.number != slot)
            self._root_names[slot] = list(dict.fromkeys(name for number in reads for name in self.root_names(number)))
        return self._root_names[slot]

    def is_learned(self, slot: int) -> bool:
        return any(name in self.parameters for name in self.root_names(slot))


#: called with the tape, a node before it runs, its args, its kwargs and a function that runs it; returns the result
Observer = Callable[[Tape, Node, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]


class Recorder(EagerMode):
    """Records a tape while a module runs. Operations in lower precision are computed in double precision.

    Args:
        module: the module that will run.
        inputs: nested inputs of the module.
        observer: function that runs each operation and may inspect it.
        single: names of buffers that were in single precision.
    """

    def __init__(self, module: nn.Module, inputs: Any, observer: Observer, single: frozenset[str]) -> None:
        super().__init__()
        self.tape, self.observer, self.single, self.owners = Tape(), observer, single, [""]
        self.paused = False  # whether operations run without being recorded
        self.tape.modules = dict(module.named_modules())
        self._slots: dict[int, Slot] = {}
        self._alive: list[Any] = []  # references to the tensors, so that their ids are not reused
        self._written: dict[int, Node] = {}  # storage -> node that last changed it in place
        self._doubled: dict[int, Tensor] = {}
        self._by_memory: dict[tuple[Any, ...], Slot] = {}
        for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
            if id(tensor) in self._slots:
                continue
            slot = self._slot(tensor)
            self.tape.roots[slot.number] = name
            self.tape.weights.add(slot.number)
            self._by_memory[memory_of(tensor)] = slot
            if isinstance(tensor, nn.Parameter):
                self.tape.parameters.add(name)
        for tensor in (t for t in leaves(inputs) if isinstance(t, Tensor)):
            self.tape.constants[self._slot(tensor).number] = tensor.detach().clone()

    def _slot(self, tensor: Tensor) -> Slot:
        slot = self._slots.get(id(tensor))
        if slot is None:
            slot = self._slots[id(tensor)] = Slot(self.tape.size)
            self.tape.size += 1
            self._alive.append(tensor)
            self.tape.shapes[slot.number] = tuple(tensor.shape)
        return slot

    def _slot_of_argument(self, tensor: Tensor) -> Slot:
        """Return the slot of an argument, which may be an alias of a parameter or a new external constant."""
        slot = self._slots.get(id(tensor)) or self._by_memory.get(memory_of(tensor) if tensor.numel() else ())
        if slot is None:
            slot = self._slot(tensor)
            self.tape.constants[slot.number] = tensor.detach().clone()
            self.tape.external.add(slot.number)
        return slot

    def _double(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype in _LOW:
            if id(value) not in self._doubled:
                self._alive.append(value)
                self._doubled[id(value)] = value.double()
            return self._doubled[id(value)]
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # other modes decompose conv2d and other composite operations before this method
                return func.decompose(*args, **kwargs)
        name = operation(func)
        tensors = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        low = next((t.dtype for t in tensors if t.dtype in _LOW), None)
        if low is not None:
            args, kwargs = replaced(args, self._double), replaced(kwargs, self._double)
            tensors = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        single = low is not None
        if kwargs.get("dtype") in _LOW:
            low, kwargs["dtype"] = kwargs["dtype"], torch.float64
            single |= any(t.is_floating_point() for t in tensors) or name in _COMPUTED
        if self.paused:
            return func(*args, **kwargs)
        tape = self.tape
        slotted = lambda v: self._slot_of_argument(v) if isinstance(v, Tensor) else v  # noqa: E731
        given = replaced(args, slotted), replaced(kwargs, slotted)
        node = Node(len(tape.nodes), func, *given, [], self.owners[-1], _line(), single=single, dtype=low)
        self._connect(node, tensors)
        tape.nodes.append(node)
        state = torch.get_rng_state() if torch.Tag.nondeterministic_seeded in func.tags else None
        try:
            out = self.observer(self.tape, node, args, kwargs, lambda: func(*args, **kwargs))
            made = dense(t for t in leaves(out) if isinstance(t, Tensor))
        except Exception:
            tape.nodes.pop()
            for maker in node.inputs:
                maker.consumers.remove(node)
            raise
        if state is not None and not torch.equal(state, torch.get_rng_state()):
            tape.random = tape.random or node
        if kwargs.get("generator") is not None:
            node.drawn = [t.clone() for t in made]
        for tensor in made:
            slot = self._slot(tensor)
            node.outs.append(slot)
            tape.maker.setdefault(slot.number, node)
            if tensor.numel():
                self._by_memory.setdefault(memory_of(tensor), slot)
            copies = not name.startswith("new_") and not name.endswith("_like")
            if node.constant and copies and any(s.number in tape.weights for s in node.reads):
                tape.weights.add(slot.number)
                if node.mutates and tape.maker[slot.number] is not node:
                    tape.changes.setdefault(slot.number, []).append(node)
        for tensor in node.changed(args, kwargs) if node.mutates else ():
            self._written[storage_id(tensor)] = node
        return out

    def _connect(self, node: Node, tensors: list[Tensor]) -> None:
        tape = self.tape
        node.reads = [s for s in leaves((node.args, node.kwargs)) if isinstance(s, Slot)]
        makers = [tape.maker.get(s.number) for s in node.reads]
        makers += [self._written.get(storage_id(t)) for t in tensors]
        node.inputs = [n for n in dict.fromkeys(makers) if n is not None]
        for n in node.inputs:
            n.consumers.append(node)
            node.origins |= n.origins
            node.single |= n.single
        if "norm" not in node.op:
            node.single |= any(tape.roots.get(s.number) in self.single for s in node.reads)
        node.constant = (
            node.op not in _PRODUCTS
            and all(n.constant for n in node.inputs)
            and not any(s.number in tape.constants and s.number not in tape.external for s in node.reads)
        )

    def run(self, module: nn.Module, call: Callable[[nn.Module], Any]) -> Tape:
        """Run a module and return the tape. If the forward pass fails, the tape ends there and has ``failure``."""
        hooks: list[Any] = []
        for name, inner in module.named_modules():
            hooks.append(inner.register_forward_pre_hook(lambda m, i, name=name: self.owners.append(name)))
            hooks.append(inner.register_forward_hook(lambda m, i, o: (self.owners.pop(), None)[1], always_call=True))
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), default_dtype(torch.float64):
                with _CallObserver(self), self:
                    result = call(module)
                found = list(map(self._double, with_values(t for t in leaves(result) if isinstance(t, Tensor))))
                self.tape.output = list(map(self._slot_of_argument, found))
        except Exception as error:
            self.tape.failure = error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for hook in hooks:
                hook.remove()
        self._alive.clear()
        return self.tape


def _line() -> str:
    """Return ``file:line`` of the innermost frame of the user's code; empty if PyTorch's own modules run alone."""
    frame, end = cast(Any, sys._getframe(2)), Recorder.run.__code__
    while frame.f_code is not end and frame.f_code.co_filename.startswith(_OWN_FOLDERS):
        frame = frame.f_back
    return "" if frame.f_code is end else f"{frame.f_code.co_filename}:{frame.f_lineno}"
