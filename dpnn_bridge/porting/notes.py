"""Write the notes of a report: differences that only affect training, and rearranged weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.porting.flow import ancestors, output_nodes
from dpnn_bridge.porting.networks import location, named_tensors
from dpnn_bridge.porting.placement import Placement
from dpnn_bridge.porting.report import Deviation, Match
from dpnn_bridge.porting.search import Search
from dpnn_bridge.porting.source import Source
from dpnn_bridge.porting.tape import Node, Tape
from dpnn_bridge.porting.values import difference
from dpnn_bridge.porting.wording import aligned_windows, differences


def matches_of(search: Search) -> list[Match]:
    """Return one match for each parameter. If several layers are in one parameter, its match names all of them."""
    sources: dict[str, tuple[list[str], list[str]]] = {}
    for placed in search.placement.placed.values():
        slots = [w.slot for w in placed.event.weights.values() if w is not None]
        for name in dict.fromkeys(name for slot in slots for name in search.tape.root_names(slot)):
            layers, forms = sources.setdefault(name, ([], []))
            layers += [layer.name for layer in placed.assignment.layers]
            forms += [placed.assignment.description] if placed.assignment.description else []
    joined = {name: [", ".join(dict.fromkeys(texts)) for texts in found] for name, found in sources.items()}
    return [Match(name, source, form) for name, (source, form) in joined.items()]


def notes_of(placement: Placement, source: Source, model: nn.Module, tape: Tape) -> Iterator[str]:
    """Yield the notes of a proven port.

    Args:
        placement: the assignments of all events.
        source: the source after its last run.
        model: the source's module.
        tape: recording of the target.
    """
    for placed in placement.placed.values():
        event, assignment = placed.event, placed.assignment
        where, layer = location(event.node.owner, event.node.line), assignment.layer
        if assignment.description:
            yield f"{where}: {assignment.description}" + (f" ({layer.name})" if layer else "")
        if layer is not None and layer.kind == event.kind and "momentum" in event.options:
            here, there = ({"momentum_": options["momentum"]} for options in (event.options, layer.options))
            differ = differences(here, there).replace("momentum_", "momentum")
            if differ:
                yield f"{where}: {differ} ({layer.name}); this matters in training only"
        if layer is not None and layer.kind == event.kind == "conv" and not assignment.description:
            differ = differences(*aligned_windows(event.options, layer.options))
            if differ:
                yield f"{where}: {differ} ({layer.name}); equal for inputs of this size, perhaps not for others"
    yield from _of_dropout(source, model, tape)
    if tape.autocast is not None:
        where = location(*tape.autocast)
        yield f"equal in double precision: the module computes in lower precision under autocast ({where})"
    there, here = _first_single(source.tape), _first_single(tape)
    if there is not None:
        yield _in_precision_of(there, "source", source.names(there.owner))
    elif here is not None:
        yield _in_precision_of(here, "module", location(here.owner, here.line))


def of_lua(model: nn.Module, source: Source) -> Iterator[str]:
    """Yield a note for each layer of the source that runs in Lua and has weights, which cannot be assigned."""
    for name, module in model.named_modules():
        if isinstance(module, Placeholder) and list(module.parameters()):
            yield (
                f"the weights of {source.names(name)} ({module.class_name}) are not ported, because this layer runs in "
                "Lua; convert its class with @lua_class in a plugin"
            )


def _first_single(tape: Tape) -> Node | None:
    """Return the first operation in half precision that an output depends on, else the first in single, or None."""
    ends = output_nodes(tape)
    found = (n for n in (*ends, *ancestors(*ends)) if n.single)
    return min(found, key=lambda n: (n.dtype in (None, torch.float32), n.index), default=None)


def _in_precision_of(node: Node, network: str, where: str) -> str:
    name = str(node.dtype or torch.float32).removeprefix("torch.")
    precision = "single precision" if name == "float32" else f"the precision of {name}"
    return f"equal to {precision}: the {network} computes this in {name} ({where})"


def of_rounding(module: nn.Module, values: dict[str, Tensor]) -> Iterator[str]:
    """Yield a note if the module's tensors round the weights to half precision."""
    rounded = [(v.to(t.dtype), v) for v, t in _filled(module, values) if t.dtype in (torch.float16, torch.bfloat16)]
    if rounded:
        worst, kind = max((difference(r.double(), v), str(r.dtype).removeprefix("torch.")) for r, v in rounded)
        yield f"weights rounded to {kind}: largest relative difference {worst:.1e}"


def overflowing(module: nn.Module, values: dict[str, Tensor]) -> Deviation | None:
    """Return the first weight that is too large for the type of the module's tensor."""
    for name, (value, tensor) in zip(values, _filled(module, values), strict=True):
        if not torch.equal(value.isfinite(), value.to(tensor.dtype).isfinite()):
            kind = str(tensor.dtype).removeprefix("torch.")
            reason = f"{name} contains {float(value.abs().max()):.3g}, too large for {kind}; use module.float()"
            return Deviation(name.rpartition(".")[0], "", "", reason)
    return None


def _filled(module: nn.Module, values: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    tensors = named_tensors(module)
    return [(value, tensors[name]) for name, value in values.items()]


def _of_dropout(source: Source, model: nn.Module, tape: Tape) -> Iterator[str]:
    there = [(name, float(m.p)) for name, m in model.named_modules() if _drops(m)]  # type: ignore[arg-type]
    here = [(location(name, line), p) for name, line, p in tape.dropouts]
    rates = [" and ".join(f"{p:g}" for p in sorted({p for _, p in found})) or "none" for found in (here, there)]
    if len(here) != len(there):
        counts = f"{len(here)} times here (p {rates[0]}), {len(there)} in the source (p {rates[1]})"
        yield f"dropout: {counts}; this matters in training only"
        return
    for (name, p), (path, other) in zip(here, there, strict=True):
        if differences({"p": p}, {"p": other}):
            yield f"{name}: dropout p {p:g} here, {other:g} in the source ({source.names(path)}); training only"


def _drops(module: nn.Module) -> bool:
    return "Dropout" in type(module).__name__ and hasattr(module, "p")
