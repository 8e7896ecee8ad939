"""Compare a model with a file that was converted from it, in any format: tensors, and the output of every layer."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.display import listed
from dpnn_bridge.base.regular import MAX_BYTES, check_file, check_readable
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.compare.differences import BITS, Difference, compare_tensor
from dpnn_bridge.compare.memory import copied, device_of, relocate
from dpnn_bridge.conversion.customized import overridden
from dpnn_bridge.conversion.faster import without_faster
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError, T7Error
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.modules.rnn.memory import at_sequence_start
from dpnn_bridge.outputs.format import Format
from dpnn_bridge.outputs.formats import format_of_input
from dpnn_bridge.outputs.py.calls import literal
from dpnn_bridge.outputs.py.settings import Pair, accepts_more, constants
from dpnn_bridge.outputs.verification import traceable
from dpnn_bridge.outputs.written import Results, Written, run_modules
from dpnn_bridge.parity.bounded import RunLimits, comparing
from dpnn_bridge.parity.exported import NOTE, compare_with_network, loaded
from dpnn_bridge.parity.folded import compare_elements, compare_folded
from dpnn_bridge.parity.layer_results import compare_results, input_of, pass_target
from dpnn_bridge.parity.named_layers import NamedLayers, failed
from dpnn_bridge.parity.new_export import NewExport
from dpnn_bridge.parity.renamed import RenamedTensors
from dpnn_bridge.parity.source import Source
from dpnn_bridge.parity.subject import Subject
from dpnn_bridge.parity.verification import Verification


def compare_converted(
    result: Verification,
    subject: Subject,
    module: nn.Module,
    path: StrPath,
    dtype: torch.dtype | None,
    running: RunLimits,
    modes: Mapping[str, bool],
) -> None:
    """Add the comparisons with a converted file to the layers of ``result``.

    Args:
        result: the verification; its layers are in the order of the model tree.
        subject: the subject of the verification. The key of its model also selects the model in ``path``.
        module: the model, in the mode and dtype of the run.
        path: the converted file.
        dtype: dtype to which the model was cast, and to which the file is cast; None for no cast.
        running: limits the resources of a run.
        modes: name of each module of the model -> whether it was saved in training mode.

    Raises:
        NotT7Error: no format has the suffix of the file.
        ConversionError: the file contains no model, cannot be loaded, or the model cannot run on the input.
    """
    path = Path(path)
    format = format_of_input(path)
    if not format.models:
        raise ConversionError(
            f"{path}: {format.suffix} stores data, but the other file contains a model; pass two files that contain "
            "models"
        )
    if format.traced:
        if module.training:
            result.mode = result.mode if result.reference else "eval"
            result.notes.append(f"{path.name} contains the model in evaluation mode; it was compared in this mode.")
        module = traceable(module)
    if not format.keeps_state:
        module = at_sequence_start(module)
    written = _open(path, format, module, subject, dtype, running)
    if written.note:
        result.notes.append(f"{path.name} {written.note}.")
    result.notes += _other_modes(written, modes, path)
    _cast_as_file(result, module, written, path)
    pass_target(module, written, subject.table)
    layers = NamedLayers(result, module)
    source = Source(module, layers, input_of(module, written, subject.table), running)
    export = NewExport(format, module, written, source.value, running)
    absent = _compare_tensors(layers, module, written)
    if format.traced and not result.ok and export.written is not None:
        _compare_computed_weights(layers, module, written, export.written, path)
    _compare_modules(layers, module, written, program=format.program)
    with nullcontext() if written.faster else without_faster(), comparing(running):
        compare_results(layers, source, written, subject.table, path, export)
    network, export_of = (written.network, written.modules.get("")) if written.network else (subject.network, module)
    if network is not None and export_of is not None and source.value is not None:
        network, index_base = network.to(device_of(module), dtype), subject.options.index_base
        result.whole += compare_with_network(network, export_of, source.value, running, index_base)
    if written.modules and not result.differences:  # a model without tensors, and without an input
        result.whole.append(Difference("classes and settings", 0.0, 0.0))
    if format.program:
        _note_index_base(result, module, path, subject.options)
    _note_key(result, path)
    if absent:
        result.notes.append(
            f"{path.name} lacks the tensors {listed(absent)}: only the outputs of their layers are compared."
        )


def _other_modes(written: Written, modes: Mapping[str, bool], path: Path) -> list[str]:
    """Return a note if modules of the file are in another mode than in the model, as after ``model.eval()``."""
    other = [name for name, mode in written.modes.items() if modes.get(name, mode) != mode]
    if not other:
        return []
    mode = "training" if written.modes[other[0]] else "evaluation"
    name = f"module {other[0]}" if other[0] else "the model"
    more = f" and {len(other) - 1} more module{'s' if other[2:] else ''}" if other[1:] else ""
    return [
        f"{path.name} has {name}{more} in {mode} mode, and MODEL in the other mode. They were compared in the same "
        "mode."
    ]


def _note_index_base(result: Verification, module: nn.Module, path: Path, options: Options) -> None:
    """Add a note that a file with other results may have been converted with another ``index_base``."""
    if any(not d.ok and d.name.startswith(("output", "converted")) for d in result.differences) and any(
        hasattr(m, "index_base") for m in module.modules()
    ):
        other = 1 - options.index_base
        result.notes.append(
            f"Indices start at {options.index_base} in this comparison. If {path.name} was converted with "
            f"index_base={other} (--index-base {other}), pass index_base={other} (--index-base {other}) here too."
        )


def _note_key(result: Verification, path: Path) -> None:
    """Add a note that a file with other layers may have been converted with a key."""
    found = result.differences
    if 2 * sum(d.mismatched for d in found) > len(found):  # differences of names, classes and shapes
        result.notes.append(
            f"Most layers of {path.name} are not layers of MODEL. If {path.name} was converted with a key= (--key), "
            "pass this key here too."
        )


def _open(
    path: Path,
    format: Format,
    module: nn.Module,
    subject: Subject,
    dtype: torch.dtype | None,
    running: RunLimits,
) -> Written:
    """Open a file to compare it; for the arguments see :func:`compare_converted`."""
    if format.rebuilt:
        other = loaded(path, subject.options, subject.key, module)
        export = subject.as_exported(other, module) if subject.obj is not None else None
        network = None if export is None else other
        other = relocate((export or other).to(device_of(module), dtype))
        modes = {name: m.training for name, m in other.named_modules()}
        other.train(module.training)
        if not format.loads:  # .t7 does not store whether a parameter is frozen
            frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
            for name, p in other.named_parameters():
                p.requires_grad_(name not in frozen and p.requires_grad)
        names = {name: m.training for name, m in module.named_modules(remove_duplicate=False)}
        modules = dict(other.named_modules())
        for name, m in modules.items():
            m.training = names.get(name, m.training)

        def run(value: Any, given: Results) -> Results:
            with torch.no_grad(), running(other):
                return run_modules(modules, lambda: other(value), given)

        created = dict(other.named_modules(remove_duplicate=False))
        added = tuple(name for name in created if name not in names)
        note = NOTE if export is not None else ""
        tensors = other.state_dict()
        return Written(tensors, run=run, modules=created, modes=modes, added=added, note=note, network=network)
    check_file(path, MAX_BYTES if format.suffix == ".py" else None)
    check_readable(path)
    return wrap_errors(T7Error, f"reading {path}")(format.open)(path, module, subject.key)


def _cast_as_file(result: Verification, module: nn.Module, written: Written, path: Path) -> None:
    """Cast the model to a dtype of the file, if the model then has the dtypes of the file."""
    in_file, in_model = _dtypes_of(written, module), _dtypes(module)
    for dtype in {in_file[name]: None for name in in_file if in_file[name] != in_model[name]}:
        if len(set(in_file.values())) == 1 or _dtypes(copied(module).to(dtype)).items() >= in_file.items():
            module.to(dtype)
            name = str(dtype).removeprefix("torch.")
            result.notes.append(f"{path.name} contains {name} tensors; the model was cast to {name}.")
            return


def _dtypes(module: nn.Module) -> dict[str, torch.dtype]:
    """Return the dtypes of a module's floating point parameters and buffers, also of those that no file contains."""
    tensors = chain(module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False))
    return {name: t.dtype for name, t in tensors if t.is_floating_point()}


def _dtypes_of(written: Written, module: nn.Module) -> dict[str, torch.dtype]:
    """Return the dtypes of a file's tensors that have the name of a floating point tensor in the model."""
    found = {name: t.dtype for name, t in written.tensors.items() if t.is_floating_point()}
    for name, part in written.modules.items():
        prefix = f"{name}." if name else ""
        found |= {f"{prefix}{n}": b.dtype for n, b in part._buffers.items() if b is not None and b.is_floating_point()}
    return {name: found[name] for name in _dtypes(module) if name in found}


def _compare_tensors(layers: NamedLayers, module: nn.Module, written: Written) -> list[str]:
    """Compare the bits of every parameter and buffer; return the names of tensors that a traced graph lacks."""
    state = module.state_dict()
    renamed = RenamedTensors(written)
    absent: dict[str, None] = {}
    for name, expected in state.items():
        owner, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked" and getattr(module.get_submodule(owner), "momentum", None) is not None:
            continue  # Torch7 does not count batches, and no result depends on their number
        layer = layers.of(owner)
        found = written.tensors.get(name)
        compare = _compare_bits
        if found is None and not written.complete:
            found, compare = renamed.find(expected), _compare_computed
        if found is None:
            if written.complete:
                layer.converted.append(failed(leaf, "the converted file has no such tensor"))
            elif expected.is_floating_point() and expected.any():  # exporters may omit zeros
                absent[name] = None
            continue
        layer.converted.append(compare(leaf, expected, found))
    if not written.complete:
        for name in compare_folded(layers, module, written):
            absent.pop(name, None)
    if written.complete:
        for name in (n for n in written.tensors if n not in state):
            layers.result.whole.append(failed(f"converted {name}", "the model has no such tensor"))
    return list(absent)


def _compare_computed_weights(
    layers: NamedLayers, module: nn.Module, written: Written, right: Written, path: Path
) -> None:
    """Compare weights that an exporter computed from those of several layers with the weights of a new export.

    The weights of a right file may differ from those of the model too. Then they only need to agree with its own.
    """
    scratch = copy.copy(layers.result)
    scratch.layers = [replace(layer, differences=[], converted=[]) for layer in layers.result.layers]
    scratch.whole, scratch.notes = [], []
    _compare_tensors(layers.on(scratch), module, right)
    expected = {(layer.path, d.name) for layer in scratch.layers for d in layer.converted if not d.ok}
    if not expected:
        return
    for layer in layers.result.layers:
        layer.converted = [d for d in layer.converted if d.ok or (layer.path, d.name) not in expected]
    state, name = module.state_dict(), "the exporter's {}".format
    for tensor, value in right.tensors.items():
        if tensor not in state or not same_bits(value, state[tensor].detach().cpu()):
            owner, _, leaf = tensor.rpartition(".")
            found = written.tensors.get(tensor)
            missing = failed(name(leaf), f"{path.name} has no such tensor, a new export has one")
            layers.of(owner).converted.append(
                missing if found is None else _compare_with_export(name(leaf), value, found)
            )
    if len(right.renamed) == len(written.renamed):
        pairs = zip(right.renamed, written.renamed, strict=True)
        compared = [_compare_with_export("constants of the graph", *each) for each in pairs]
        layers.result.whole += [d for d in compared if not d.ok]
    layers.result.notes.append(
        f"{path.name} has weights that the exporter computed from those of several layers. They were compared with a "
        "new export of MODEL."
    )


def _compare_with_export(name: str, expected: Tensor, found: Tensor) -> Difference:
    """Compare a tensor of a graph with the same tensor of a new export."""
    difference = _compare_bits(name, expected, found)
    if difference.ok or not expected.is_floating_point() or found.shape != expected.shape:
        return difference
    exact = expected.double()
    size = exact.abs() if exact.dim() > 1 or not exact.numel() else exact.abs().amax().expand_as(exact)
    rounded = compare_elements(name, found, exact, size)  # the terms of a bias can be larger than the bias
    return rounded if rounded.ok else difference


def _compare_modules(layers: NamedLayers, module: nn.Module, written: Written, *, program: bool) -> None:
    """Compare the modules that a file creates: names, classes, attributes, shared tensors, and ``requires_grad``.

    The outputs of one run do not depend on every attribute, and without an input there is no run.

    Args:
        layers: the layers of the report.
        module: the model.
        written: the file.
        program: whether the file is a program. Its classes are copies, each graph has a class of its own, and some
            modules are part of the module around them.
    """
    pairs: list[Pair] = []
    for name, wanted in module.named_modules(remove_duplicate=False) if written.modules else ():
        found, kind = written.modules.get(name), type(wanted)
        if found is None:
            if not program:
                layers.of_module(wanted).converted.append(failed("class", f"the converted file has no {kind.__name__}"))
        elif not _same_class(kind, type(found), program=program) and not (program and _is_plain_subclass(found, kind)):
            message = f"{type(found).__name__} instead of {kind.__name__}"
            layers.of_module(wanted).converted.append(failed("class", message))
        else:
            pairs.append(Pair(f"model.get_submodule({name!r})" if name else "model", wanted, found))
            if not program and isinstance(wanted, GModule) and isinstance(found, GModule):
                layers.of_module(wanted).converted += _compare_graphs(wanted, found)
    for name in written.added:
        layers.result.whole.append(failed(f"converted {name}", "the model has no such module"))
    if any(map(accepts_more, pairs)):  # as in a file of a network that was not read from Torch7
        layers.result.notes.append("Batch normalizations of MODEL accept single samples; those of the file do not.")
    for difference in constants(pairs) if pairs else ():
        layer, name = layers.of_module(difference.wanted), difference.attribute
        record = record_of(difference.wanted)
        if program and name == "inplace" and record is not None and record.fields.get(name):  # --inplace
            continue
        if name:
            message = f"{difference.found} instead of {literal(getattr(difference.wanted, name))}"
        else:
            name, message = "settings", f"the converted file lacks {difference.statement}"
        layer.converted.append(failed(name, message))


def _compare_graphs(wanted: GModule, found: GModule) -> list[Difference]:
    """Return the first difference of the nodes of two graphs; their names in annotations do not count."""
    expected, actual = _nodes(wanted), _nodes(found)
    if expected == actual:
        return []
    statements = [[line.partition("  # ")[0] for line in graph.extra_repr().splitlines()] for graph in (found, wanted)]
    pairs = (f"{a} instead of {b}" for a, b in zip(*statements, strict=False) if a != b)
    return [failed("graph", next(pairs, f"{len(actual) - 1} nodes with other inputs instead of {len(expected) - 1}"))]


def _nodes(graph: GModule) -> list[Any]:
    inputs = graph.input_node, graph.output_node, graph.num_inputs
    return [inputs, *((node.inputs, node.module, node.select, node.splits) for node in graph.nodes)]


def _same_class(wanted: type[nn.Module], found: type[nn.Module], *, program: bool) -> bool:
    """Return whether two classes have the same name; plugins may have been imported twice.

    A program appends a number to the name of a second class with that name, if it contains the class.
    """
    if program:
        number = "" if found.__module__.startswith("torch.") else r"\d*"
        name = rf"{re.escape(wanted.__name__)}{number}"
        return issubclass(wanted, GModule) or re.fullmatch(name, found.__name__) is not None
    return (wanted.__module__, wanted.__qualname__) == (found.__module__, found.__qualname__)


def _is_plain_subclass(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether the class of a module computes what its base class ``kind`` computes.

    A program contains such a class, and the other formats write the module as its base class.
    """
    return isinstance(module, kind) and overridden(module, (kind,)) is None


def _compare_bits(name: str, expected: Tensor, found: Tensor) -> Difference:
    """Compare the bits of a parameter or buffer."""
    expected, found = expected.detach().cpu(), found.detach().cpu()
    if expected.dtype != found.dtype:
        return failed(name, f"{found.dtype} instead of {expected.dtype}")
    if same_bits(expected, found):
        return Difference(name, 0.0, 0.0)
    difference = compare_tensor(name, found, expected, BITS)
    return difference if not difference.ok else failed(name, "signs of zeros or NaNs differ")


def _compare_computed(name: str, expected: Tensor, found: Tensor) -> Difference:
    """Compare a tensor that an exporter may have computed, such as the weights of a weight normalization."""
    difference = _compare_bits(name, expected, found)
    if difference.ok or not expected.is_floating_point():
        return difference
    exact = expected.detach().cpu().double()
    rounded = compare_elements(name, found, exact, exact.abs())
    return rounded if rounded.ok else difference
