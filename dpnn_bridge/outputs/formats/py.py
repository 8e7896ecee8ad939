"""Write ``.py``: a readable definition of the model that needs only torch and loads the ``state_dict``."""

from __future__ import annotations

import io
import runpy
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.display import printable
from dpnn_bridge.base.reading import open_input
from dpnn_bridge.base.writing import write_file
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.compare.memory import relocate
from dpnn_bridge.conversion.example_run import run
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.modules.rnn.memory import at_sequence_start
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.py.changed import changed_definitions
from dpnn_bridge.outputs.py.program import Program, new_process
from dpnn_bridge.outputs.py.settings import Pair, settings, tensors
from dpnn_bridge.outputs.verification import not_rebuilt, same_outputs
from dpnn_bridge.outputs.written import Results, Written, run_modules

#: begins the last line
ORIGIN = "# converted by dpnn_bridge from "
#: bytes at the end of a file that are searched for that line
_LONGEST_LINE = 1 << 12


class Py(Format):
    """The source of a model."""

    suffix = ".py"
    options = ("input",)
    program = True
    keeps_state = False

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        program = context.written = Program(module, context)
        end = f"\n{ORIGIN}{printable(str(context.metadata['origin']))}\n" if "origin" in context.metadata else ""
        write_file(path, program.text() + end)

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        with new_process():
            self._verify(module, path, context)

    def _verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        try:
            built = runpy.run_path(str(path))["build"]()
            _load_state_dict(built, module.state_dict())
        except Exception as e:
            if isinstance(e, _OtherNamesError) and (added := _added(module, context.written.pairs(built))):
                raise not_rebuilt(module, added, "a .py file") from e
            raise VerificationError(f"the generated Python does not rebuild the model: {_reason(e)}") from e
        pairs = context.written.pairs(built)
        _check_tensors(path, pairs)
        if missing := settings(pairs):
            raise VerificationError(f"{path}: the generated Python lacks the statement {missing[0]}")
        if context.example is not None:
            torch.manual_seed(0)
            expected = run(at_sequence_start(module), context.example)
            torch.manual_seed(0)
            same_outputs(path, run(built, context.example), expected, "the generated Python")

    def origin(self, path: Path) -> str | None:
        """Read the source comment from the last line, without executing the file; a truncated file has none."""
        with open_input(path) as file:
            file.seek(-min(_LONGEST_LINE, file.seek(0, io.SEEK_END)), io.SEEK_END)
            before, _, last = file.read().decode(errors="replace").rpartition(f"\n{ORIGIN}")
        return last[:-1] if before and last.endswith("\n") else None

    def open(self, path: Path, module: nn.Module) -> Written:
        """Return the model that the file builds, with the weights of ``module``: it contains none of its own.

        The file is run: it is the user's own.
        """
        try:
            with new_process():
                built = runpy.run_path(str(path))["build"]()
                _load_state_dict(built, module.state_dict())
        except (Exception, SystemExit) as e:
            raise VerificationError(f"{path} does not build this model: {_reason(e)}") from e
        names = {id(m): name for name, m in module.named_modules()}
        program = Program(module, ExportContext())
        pairs = program.pairs(built)
        modes = {names[id(ours)]: theirs.training for _, ours, theirs in pairs}
        relocate(built).train(module.training)
        modules = {names[id(ours)]: theirs for _, ours, theirs in pairs}
        found = {
            f"{prefix}.{name}" if (prefix := names[id(ours)]) else name: tensor
            for _, ours, theirs in pairs
            for name, tensor in tensors(theirs).items()
        }

        def run(value: Any, given: Results) -> Results:
            with torch.no_grad():
                return run_modules(modules, lambda: built(value), given)

        note = "was run to build the model; it holds no weights and got those of MODEL"
        with open_input(path) as file:
            changed = changed_definitions(file.read().decode(), program.definitions())
        if changed:
            note += (
                f". Its code is not what dpnn-convert writes now, and only what ran is compared: {', '.join(changed)}"
            )
        return Written(found, run=run, complete=False, faster=False, note=note, modules=modules, modes=modes)


class _OtherNamesError(ValueError):
    """A model has other parameters and buffers."""


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, _OtherNamesError) else f"{type(error).__name__}: {error}"


def _added(module: nn.Module, pairs: list[Pair]) -> str:
    """Return the name of the first tensor that the fresh model lacks; empty if there is none."""
    names = {id(m): f"{name}." if name else "" for name, m in module.named_modules()}
    lacking = (
        f"{names[id(wanted)]}{name}"
        for _, wanted, fresh in pairs
        for name in tensors(wanted)
        if name not in tensors(fresh) and name not in wanted._non_persistent_buffers_set
    )
    return next(lacking, "")


def _load_state_dict(module: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load a state_dict like ``module.load_state_dict``, in linear time.

    Raises:
        _OtherNamesError: names or shapes differ.
    """
    wrong: list[str] = []

    def load(module: nn.Module, own: dict[str, Tensor], prefix: str) -> None:
        module._load_from_state_dict(own, prefix, {}, True, wrong, wrong, wrong)
        of_child = defaultdict[str, dict[str, Tensor]](dict)
        for name, tensor in own.items():
            of_child[name[len(prefix) :].partition(".")[0]][name] = tensor
        for name, child in module._modules.items():
            if child is not None:
                load(child, of_child[name], f"{prefix}{name}.")

    load(module, dict(state_dict), "")
    if wrong:
        raise _OtherNamesError(f"the state_dict does not fit: {', '.join(wrong[:8])}{', …' if wrong[8:] else ''}")


def _check_tensors(path: Path, pairs: list[Pair]) -> None:
    for place, ours, theirs in pairs:
        others = tensors(theirs)
        for name, tensor in tensors(ours).items():
            other = others.get(name)
            if other is None and name in ours._non_persistent_buffers_set:
                continue  # what the last run left
            if other is None or not same_bits(other, tensor.detach().cpu()):
                raise VerificationError(
                    f"{path}: {place}.{name} is another tensor in the generated Python: its shape, type or value does "
                    "not follow from the arguments of constructors"
                )
            if name in ours._buffers and name in theirs._parameters:
                raise VerificationError(f"{path}: {place}.{name} is a buffer, and a parameter in the generated Python")


FORMAT = Py()
