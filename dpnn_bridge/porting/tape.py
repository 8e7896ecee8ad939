"""Record every ATen operation of a forward pass, with the module and the line that called it.

A :class:`Tape` is a straight-line program. Tensors are numbered slots; a node is one operation that reads and writes
slots. :mod:`dpnn_bridge.porting.search` runs such a program again with other weights, from any node on.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.conversion.limits import EagerMode

_MOVING = (
    "view _unsafe_view reshape t transpose permute expand squeeze unsqueeze clone detach alias contiguous _to_copy"
    " as_strided lift_fresh _reshape_alias view_as_real diagonal unfold squeeze_ unsqueeze_ transpose_ t_"
)
_PARTING = "split split_with_sizes unsafe_split unsafe_split_with_sizes narrow slice select unbind"
#: views that give a part of their input
PARTS = frozenset(_PARTING.split())
#: operations that move elements and compute nothing
VIEWS = PARTS | frozenset(_MOVING.split())
#: operations whose result is an activation, also of a constant and weights: an initial state, say
_PRODUCTS = frozenset(("addmm", "mm", "linear", "bmm", "baddbmm", "convolution", "embedding"))
#: operations that make constants which single precision rounds
_COMPUTED = frozenset(("arange", "linspace", "logspace", "full", "affine_grid_generator"))
_LOW = (torch.float32, torch.float16, torch.bfloat16)
#: folders of this package and of PyTorch, which are not the user's; torchvision beside them is
_NOT_THE_USERS = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))


class Slot(NamedTuple):
    """A tensor of a tape."""

    number: int


@dataclass(eq=False)
class Node:
    """One operation of a tape.

    Attributes:
        inputs, consumers: nodes that this one depends on; that depend on this one.
        owner: name of the module whose forward ran the operation.
        line: ``file:line`` of the code outside of PyTorch that called it.
        constant: reads no activation; its result is made of weights and constants.
        single: the network computes this in single precision.
        origins: bit set of the events that the node depends on.
        event: the use of weights that the node is, or None.
        drawn: results of an operation that draws random numbers from a generator of its own.
        input_fingerprints, result_fingerprints: of the activations that it reads and of its results, if an observer
            stored them.
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
    origins: int = 0
    event: Any = None
    drawn: list[Tensor] | None = None
    input_fingerprints: list[Any] = field(default_factory=list)
    result_fingerprints: list[Any] = field(default_factory=list)

    @property
    def op(self) -> str:
        """The name of the operation, the same for its in-place form."""
        return operation(self.func)

    def run(self, args: Any, kwargs: Any) -> Any:
        """Return the operation's result; random numbers are those of the tape."""
        if self.drawn is None:
            return self.func(*args, **kwargs)
        if not self.mutates:
            return [t.clone() for t in self.drawn]
        return next(t for t in leaves(args) if isinstance(t, Tensor)).copy_(self.drawn[0])

    @property
    def mutates(self) -> bool:
        return self.func._schema.is_mutable

    def changed(self, args: Any, kwargs: Any) -> list[Any]:
        """Return the arguments, or the slots of them, that the operation writes into: ``self`` or ``out=``."""
        places = [(i, a) for i, a in enumerate(self.func._schema.arguments) if a.alias_info and a.alias_info.is_write]
        given = [args[i] if i < len(args) else kwargs.get(a.name) for i, a in places]
        return [value for value in leaves(given) if isinstance(value, (Tensor, Slot))]

    def options(self) -> dict[str, Any]:
        """Return the arguments that are no tensors, defaults included."""
        given = {a.name: a.default_value for a in self.func._schema.arguments if a.has_default_value()}
        given |= dict(zip((a.name for a in self.func._schema.arguments), self.args, strict=False)) | self.kwargs
        return {k: v for k, v in given.items() if not any(isinstance(x, Slot) for x in leaves(v))}


def operation(func: Any) -> str:
    name = func._schema.name.split("::")[-1]
    return name if name in VIEWS else name.rstrip("_")


def leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists, tuples and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)) and not isinstance(value, Slot):
        for v in value:
            yield from leaves(v)
    else:
        yield value


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the same nesting of lists, tuples and dicts with ``change`` applied to every value in it."""
    if isinstance(value, dict):
        return {k: replaced(v, change) for k, v in value.items()}
    if isinstance(value, (list, tuple)) and not isinstance(value, Slot):
        values = [replaced(v, change) for v in value]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    return change(value)


class _DropoutObserver(TorchFunctionMode):
    """Stores the rates of dropout, which no ATen operation shows in evaluation mode."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
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
        constants: slot number -> tensor that came from outside: an input, or a tensor made by other means.
        foreign: slot numbers of the constants that are no inputs.
        maker: slot number -> node that made it.
        weights: slot numbers of tensors made of parameters and buffers, and of those themselves.
        output: what the forward pass returned, tensors as slots.
        random: the first node that drew random numbers.
        failure: the exception that ended the forward pass.
        dropouts: (module, line, rate) of calls of dropout functions.
        shapes: slot number -> shape.
        size: number of slots.
        modules: name -> module of the network.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.roots: dict[int, str] = {}
        self.parameters: set[str] = set()
        self.constants: dict[int, Tensor] = {}
        self.foreign: set[int] = set()
        self.maker: dict[int, Node] = {}
        self.weights: set[int] = set()
        self.output: Any = None
        self.random: Node | None = None
        self.failure: Exception | None = None
        self.dropouts: list[tuple[str, str, float]] = []
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.size = 0
        self.modules: dict[str, nn.Module] = {}
        self._keys: dict[tuple[int, int], str] = {}  # of nodes and their outputs, which may be read many times
        self._root_names: dict[int, list[str]] = {}

    def weight_key(self, slot: int) -> str:
        """Identify weights in every tape of one module: by a name, or by a digest of operations on names."""
        if slot in self.roots:
            return self.roots[slot]
        node = self.maker.get(slot)
        if node is None:
            return "constant"
        if (node.index, slot) not in self._keys:
            at = next(i for i, s in enumerate(node.outs) if s.number == slot)
            args = [self.weight_key(x.number) if isinstance(x, Slot) else str(x) for x in leaves(node.args)]
            self._keys[node.index, slot] = hashlib.sha256(repr((node.op, at, *args)).encode()).hexdigest()
        return self._keys[node.index, slot]

    def root_names(self, slot: int) -> list[str]:
        """Return the names of the parameters and buffers that a weight is made of."""
        if slot in self.roots:
            return [self.roots[slot]]
        node = self.maker.get(slot)
        if node is None:
            return []
        if node.index not in self._root_names:
            names = dict.fromkeys(n for s in node.reads for n in self.root_names(s.number))
            self._root_names[node.index] = list(names)
        return self._root_names[node.index]

    def is_learned(self, slot: int) -> bool:
        return any(name in self.parameters for name in self.root_names(slot))


#: gets the tape, the node before it runs, its arguments and a function that runs it
Observer = Callable[[Tape, Node, tuple[Any, ...], dict[str, Any], Callable[[], Any]], Any]


class Recorder(EagerMode):
    """Fills a tape while a module runs; computes in double precision what asks for single.

    Args:
        module: the module that will run.
        inputs: what it will get, nested.
        observer: runs every operation and may look at it.
        single: names of buffers that were in single precision.
    """

    def __init__(
        self, module: nn.Module, inputs: Any, observer: Observer | None = None, single: frozenset[str] = frozenset()
    ) -> None:
        super().__init__()
        self.single = single
        self.tape, self.observer, self.owners = Tape(), observer, [""]
        self.tape.modules = dict(module.named_modules())
        self._slots: dict[int, Slot] = {}
        self._alive: list[Any] = []  # keeps the tensors, because ids are reused
        self._written: dict[int, Node] = {}  # storage -> node that last changed it in place
        self._doubled: dict[int, Tensor] = {}
        self._by_memory: dict[tuple[Any, ...], Slot] = {}
        for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]:
            if id(tensor) in self._slots:
                continue
            slot = self._slot(tensor)
            self.tape.roots[slot.number] = name
            self.tape.weights.add(slot.number)
            self._by_memory[_memory(tensor)] = slot
            if isinstance(tensor, nn.Parameter):
                self.tape.parameters.add(name)
        for tensor in leaves(inputs):
            if isinstance(tensor, Tensor):
                self.tape.constants[self._slot(tensor).number] = tensor.detach().clone()

    def _slot(self, tensor: Tensor) -> Slot:
        slot = self._slots.get(id(tensor))
        if slot is None:
            slot = self._slots[id(tensor)] = Slot(self.tape.size)
            self.tape.size += 1
            self._alive.append(tensor)
            self.tape.shapes[slot.number] = tuple(tensor.shape)
        return slot

    def _known(self, tensor: Tensor) -> Slot:
        """Return the slot of an argument; tensors from outside become constants, aliases of parameters their slots."""
        slot = self._slots.get(id(tensor)) or self._by_memory.get(_memory(tensor) if tensor.numel() else ())
        if slot is None:
            slot = self._slot(tensor)
            self.tape.constants[slot.number] = tensor.detach().clone()
            self.tape.foreign.add(slot.number)
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
        name = operation(func)
        tensors = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        single = any(t.dtype in _LOW for t in tensors)
        if kwargs.get("dtype") in _LOW:
            single |= any(t.is_floating_point() for t in tensors) or name in _COMPUTED
            kwargs["dtype"] = torch.float64
        if any(t.dtype in _LOW for t in tensors):
            args, kwargs = replaced(args, self._double), replaced(kwargs, self._double)
            tensors = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
        tape = self.tape
        slotted = lambda v: self._known(v) if isinstance(v, Tensor) else v  # noqa: E731
        node = Node(
            len(tape.nodes),
            func,
            replaced(args, slotted),
            replaced(kwargs, slotted),
            [],
            self.owners[-1],
            _line(),
            single=single,
        )
        self._connect(node, tensors)
        tape.nodes.append(node)
        state = torch.get_rng_state() if torch.Tag.nondeterministic_seeded in func.tags else None
        try:
            out = self._run(node, func, args, kwargs)
        except Exception:
            tape.nodes.pop()
            for maker in node.inputs:
                maker.consumers.remove(node)
            raise
        made = [t for t in leaves(out) if isinstance(t, Tensor)]
        if state is not None and not torch.equal(state, torch.get_rng_state()):
            tape.random = tape.random or node
        if kwargs.get("generator") is not None:
            node.drawn = [t.clone() for t in made]
        for tensor in made:
            slot = self._slot(tensor)
            node.outs.append(slot)
            tape.maker.setdefault(slot.number, node)
            if tensor.numel():
                self._by_memory.setdefault(_memory(tensor), slot)
            copies = not name.startswith("new_") and not name.endswith("_like")
            if node.constant and copies and any(s.number in tape.weights for s in node.reads):
                tape.weights.add(slot.number)
        for tensor in node.changed(args, kwargs) if node.mutates else ():
            self._written[storage_id(tensor)] = node
        return out

    def _run(self, node: Node, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.observer is None:
            return func(*args, **kwargs)
        return self.observer(self.tape, node, args, kwargs, lambda: func(*args, **kwargs))

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
            and not any(s.number in tape.constants and s.number not in tape.foreign for s in node.reads)
        )

    def run(self, module: nn.Module, call: Callable[[nn.Module], Any]) -> Tape:
        """Run a module and give its tape, also of a forward pass that failed."""
        hooks: list[Any] = []
        for name, inner in module.named_modules():
            hooks.append(inner.register_forward_pre_hook(lambda m, i, name=name: self.owners.append(name)))
            hooks.append(inner.register_forward_hook(lambda m, i, o: (self.owners.pop(), None)[1], always_call=True))
        before, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
        torch.set_default_dtype(torch.float64)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad():
                with _DropoutObserver(self), self:
                    result = call(module)
                self.tape.output = _structure(result, lambda t: self._known(self._double(t)))
        except Exception as error:
            self.tape.failure = error
        finally:
            torch.set_default_dtype(before)
            torch.backends.mha.set_fastpath_enabled(fast)
            for hook in hooks:
                hook.remove()
        self._alive.clear()
        return self.tape


def _structure(value: Any, slot: Callable[[Tensor], Any]) -> list[Any]:
    """Return the tensors of a result in order."""
    return [slot(t) for t in leaves(value) if isinstance(t, Tensor)]


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return storage_id(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype


def _line() -> str:
    """Return ``file:line`` of the innermost code outside of PyTorch and of this package."""
    frame: Any = sys._getframe(2)
    while frame and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else ""
