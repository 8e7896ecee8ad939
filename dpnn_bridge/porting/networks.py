"""Run copies of both networks in double precision and evaluation mode, so that the user's modules do not change."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.contiguous import last_offset
from dpnn_bridge.base.storage import storage_id
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.conversion.places import lua_paths
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, OptionError
from dpnn_bridge.modules.rnn.memory import forget
from dpnn_bridge.porting.composites import use_operations
from dpnn_bridge.porting.events import event_key, event_of
from dpnn_bridge.porting.tape import Node, Recorder, Tape, leaves, replaced
from dpnn_bridge.porting.values import unexpanded

Call = Callable[[nn.Module, Any], Any]
Running = Callable[[nn.Module], AbstractContextManager[object]]
_REAL = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: types of inputs that can be shuffled and compared
_INPUT_TYPES = (*_REAL, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
#: attributes of every module: its registered children, hooks and others
_OWN_ATTRIBUTES = vars(nn.Module()).keys()


@contextmanager
def running_networks() -> Iterator[None]:
    """Run networks inside the block without ``torch.compile``, and restore the state of PyTorch's random generator.

    A compiled function would be compiled again for each operation that the recorder observes.
    """
    compiles = "torch._dynamo" in sys.modules  # otherwise nothing is compiled; importing the compiler takes a second
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager") if compiles else nullcontext():
        yield


def double_copy(module: nn.Module, what: str) -> nn.Module:
    """Copy a module to the CPU, in double precision and evaluation mode, with the state at the start of a sequence.

    Raises:
        OptionError: the module cannot be copied, or has no Python code.
    """
    if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
        raise OptionError(
            f"{what} contains a ScriptModule, which has no Python code; pass the module that was scripted or traced"
        )
    try:
        fresh = copied(module, _doubles(module)).cpu().double().train()
        forget(fresh)  # in training mode, this also resets states that the user set
        return fresh.eval()
    except DpnnBridgeError:
        raise
    except Exception as e:
        raise OptionError(
            f"{what} cannot be copied ({type(e).__name__}: {e}); pass a module that copy.deepcopy can copy"
        ) from e


def check_writable(module: nn.Module) -> None:
    """Check that values can be written into the parameters and buffers of the user's network.

    Raises:
        OptionError: a tensor has no memory, no shape yet, or cannot be changed.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            what = "has no shape yet; run the module once on an input first"
        elif tensor.is_meta:
            what = 'is on the device "meta", without values; call module.to_empty(device="cpu") first'
        elif tensor.is_inference():
            what = "was created in torch.inference_mode(), so it cannot be changed; create the module outside of it"
        else:
            continue
        raise OptionError(f"the module's {name} {what}")


def check_registered(module: nn.Module) -> None:
    """Check that no layers are in a list, tuple or dict, whose parameters ``state_dict()`` does not contain.

    Raises:
        ConversionError: a module of the network has such layers.
    """
    own = {id(t) for t in (*module.parameters(), *module.buffers())}
    for name, inner in module.named_modules():
        for attribute, value in vars(inner).items():
            if not isinstance(value, (list, tuple, dict)) or attribute in _OWN_ATTRIBUTES:
                continue
            given = (v for v in leaves(value) if isinstance(v, (nn.Module, nn.Parameter)))
            tensors = (t for v in given for t in ([v] if isinstance(v, nn.Parameter) else v.parameters()))
            if any(id(t) not in own for t in tensors):
                path = f"{name}.{attribute}" if name else attribute
                right = "torch.nn.ModuleDict" if isinstance(value, dict) else "torch.nn.ModuleList"
                what = f"the module keeps layers in {path}, a {type(value).__name__}"
                raise ConversionError(f"{what}, so PyTorch does not register their parameters; make it a {right}")


def _doubles(module: nn.Module) -> dict[int, Tensor]:
    """Return copies in double precision of the parameters and buffers, by id. Tensors that share memory still do."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()}
    copies: dict[int, Tensor] = {}
    for group in _overlapping(list(tensors.values())):
        first, last = min(map(_begin, group)), max(map(_end, group))
        memory = unexpanded(group[0].detach())  # its copy is expanded again
        memory = memory.as_strided((last - first,), (1,), first) if len(group) > 1 else memory
        memory = memory.to("cpu", torch.float64, copy=True)
        for t in group:
            at = _begin(t) - first
            value = memory.as_strided(t.shape, t.stride(), at) if len(group) > 1 else memory.expand(t.shape)
            copies[id(t)] = nn.Parameter(value, t.requires_grad) if isinstance(t, nn.Parameter) else value
    return copies


def _overlapping(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield groups of tensors with overlapping memory, such as parameters that were tied by assigning ``.data``."""
    group: list[Tensor] = []
    last: tuple[Any, ...] = ()
    for tensor in sorted(tensors, key=lambda t: (storage_id(t), str(t.dtype), _begin(t))):
        at = storage_id(tensor), tensor.dtype
        if group and (at != last[:2] or _begin(tensor) >= last[2]):
            yield group
            group, last = [], ()
        group.append(tensor)
        last = *at, max([_end(tensor), *last[2:]])
    if group:
        yield group


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers by name, a shared parameter under each of its names."""
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}


def fill(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Write values into the parameters and buffers of a module by name."""
    tensors = named_tensors(module)
    with torch.no_grad():
        for name, value in values.items():
            own = unexpanded(tensors[name])
            own.copy_(value[tuple(slice(size) for size in own.shape)])


def sharing_memory(module: nn.Module) -> list[set[str]]:
    """Return groups of names of different parameters and buffers whose memory overlaps."""
    names = {id(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}
    tensors = [*module.parameters(), *module.buffers()]
    return [{names[id(t)] for t in group} for group in _overlapping(tensors) if len(group) > 1]


def _begin(tensor: Tensor) -> int:
    return int(tensor.storage_offset())


def _end(tensor: Tensor) -> int:
    return _begin(tensor) + (last_offset(tensor.shape, tensor.stride()) + 1 if tensor.numel() else 0)


def copy_for_run(module: nn.Module, call: Call) -> nn.Module:
    """Return a copy of a module for one run, with its own buffers and other state.

    The copy shares the parameters, which a forward pass does not change. A function of the user (``call``) gets a copy
    of the parameters too.
    """
    shared = getattr(call, "func", call) in (call_source, call_target)
    return copied(module, {id(p): p for p in module.parameters()} if shared else {})


def single_buffers(module: nn.Module) -> frozenset[str]:
    """Return the names of the floating-point buffers in less than double precision."""
    low = (torch.float32, torch.float16, torch.bfloat16)
    return frozenset(name for name, buffer in module.named_buffers() if buffer.dtype in low)


def call_source(model: nn.Module, example: Any, running: Running = nullcontext) -> Any:
    """Call a converted module with one argument, as Lua does; several inputs are passed as a list.

    Args:
        model, example: the module and its input.
        running: context in which the module runs, such as one that limits its resources.
    """
    if isinstance(example, tuple):
        example = example[0] if len(example) == 1 else list(example)
    with running(model):
        return model(example)


def call_target(module: nn.Module, example: Any) -> Any:
    return module(*example) if isinstance(example, tuple) else module(example)


def inputs(example: Any) -> tuple[Any, Any]:
    """Return two inputs in double precision: from a function of a seed, or the example and a shuffled, noisy copy.

    Raises:
        OptionError: an input has no elements or contains NaN, an example has only equal elements, or a function fails
            or ignores its seed.
    """
    if callable(example) and not isinstance(example, Tensor):
        try:
            made = example(0), example(1)
        except Exception as e:
            raise OptionError(f"example: the function fails for seed 0 or 1: {type(e).__name__}: {e}") from e
        both = doubled(_checked(made[0])), doubled(_checked(made[1]))
        pairs = zip(*(list(leaves(value)) for value in both), strict=False)
        if all(a.shape == b.shape and bool(a.eq(b).all()) for a, b in pairs if isinstance(a, Tensor)):
            raise OptionError("example: the function returns the same input for seeds 0 and 1; make it use the seed")
        return both
    _check_varied(_checked(example))
    first = doubled(example)
    seeds = itertools.count(1)
    return first, replaced(first, lambda value: _another(value, next(seeds)))


def _checked(example: Any) -> Any:
    """Return an input that contains tensors with elements, without NaN."""
    tensors = [t for t in leaves(example) if isinstance(t, Tensor)]
    if not tensors:
        raise OptionError("example: expected a tensor, a tuple of tensors or a function of a seed that returns either")
    for t in tensors:
        if t.layout != torch.strided or t.is_meta or t.is_quantized or t.dtype not in _INPUT_TYPES:
            kind = f"{str(t.dtype).removeprefix('torch.')}, {t.layout}, on {t.device}"
            raise OptionError(f"example: expected dense tensors of real numbers, integers or bool, got one of {kind}")
    if not any(t.numel() for t in tensors):
        raise OptionError("example: its tensors have no elements; pass at least one sample")
    if any(bool(t.isnan().any()) for t in tensors):
        raise OptionError("example: it contains NaN, and NaN is not equal to any result; pass numbers")
    return example


def _check_varied(example: Any) -> None:
    tensors = [t for t in leaves(example) if isinstance(t, Tensor)]
    if all(t.numel() > 1 and bool((t == t.flatten()[0]).all()) for t in tensors):
        raise OptionError("example: all its elements are equal, which proves nothing; pass random numbers or an image")


def doubled(example: Any) -> Any:
    """Copy an input to the CPU; floating-point tensors become double precision."""
    return replaced(example, lambda v: _doubled(v.cpu()) if isinstance(v, Tensor) else v)


def _doubled(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _another(value: Any, seed: int) -> Any:
    """Return a tensor of the same shape and dtype with other values: shuffled elements, and noise on real numbers."""
    if not isinstance(value, Tensor) or value.dtype == torch.bool or not value.numel():
        return value
    generator = torch.Generator().manual_seed(seed)
    shuffled = value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
    if value.is_floating_point():
        largest = value.abs().max()  # its square may overflow
        spread = (value / largest).std() * largest if value.numel() > 1 else torch.zeros(())
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        noisy = shuffled + noise * (spread if spread > 0 else 1.0) * 0.1
        return noisy.where(noisy.isfinite(), shuffled)
    low, high = int(value.min()), int(value.max())
    return shuffled if low < high else torch.randint(min(low, 1), high + 1, value.shape, generator=generator).to(value)


def lua_path_of(model: nn.Module) -> Callable[[str], str]:
    """Return a function from names in PyTorch to Lua paths; a module without a Lua path gets its parent's path."""
    try:
        paths = {id(module): path for path, module in lua_paths(model)}
    except DpnnBridgeError:
        paths = {}
    named = {name: paths.get(id(module)) for name, module in model.named_modules()}

    def find(name: str) -> str:
        at = name
        while at and named.get(at) is None:
            at = at.rpartition(".")[0]
        return named.get(at) or at or name or type(model).__name__

    return find


def trace(module: nn.Module, call: Call, example: Any, single: frozenset[str], composites: bool = False) -> Tape:
    """Return the target's tape, with the events marked. Their inputs are not kept: the weights are not known yet."""
    firsts: dict[Any, Node] = {}

    def observe(tape: Tape, node: Node, args: Any, kwargs: Any, run: Callable[[], Any]) -> Any:
        node.event = event_of(tape, node, args)
        if node.event is not None:
            node.event.input = torch.empty(0)
            first = firsts.setdefault(event_key(tape, node.event), node)  # the first use decides on the weights
            node.origins |= 1 << node.index | first.origins
        return run()

    recorder = Recorder(module, example, observe, single)
    if composites:
        use_operations(module, recorder)
    return recorder.run(module, lambda m: call(m, example))


def location(owner: str, line: str) -> str:
    """Return the name of the module that runs an operation; for the model itself, the line that calls the operation."""
    return owner or short_line(line) or "the module"


def short_line(line: str) -> str:
    """Return ``file:line``, relative to the working directory if the file is in it."""
    path, _, number = line.rpartition(":")
    if not path:
        return line
    try:
        return f"{Path(path).relative_to(Path.cwd())}:{number}"
    except ValueError:
        return line
