"""Write ``.py``: source code that defines the model with PyTorch alone, for its ``state_dict``."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from dpnn_bridge.base.checksum import chunks_of, crc32_of
from dpnn_bridge.base.display import printable
from dpnn_bridge.base.reading import open_input
from dpnn_bridge.base.regular import read_file
from dpnn_bridge.base.writing import write_file
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.compare.memory import relocate
from dpnn_bridge.conversion.example_run import run
from dpnn_bridge.errors import VerificationError
from dpnn_bridge.modules.rnn.memory import at_sequence_start
from dpnn_bridge.outputs.format import ExportContext, Format
from dpnn_bridge.outputs.py.changed import changed_definitions
from dpnn_bridge.outputs.py.helpers import load_weights
from dpnn_bridge.outputs.py.program import Program, initial_defaults
from dpnn_bridge.outputs.py.settings import Pair, settings, tensors
from dpnn_bridge.outputs.reloaded import not_rebuilt
from dpnn_bridge.outputs.verification import same_outputs
from dpnn_bridge.outputs.written import Results, Written, run_modules

#: beginning of the last line, which contains the provenance and a checksum of the text before it
ORIGIN = "# converted by dpnn_bridge from "
#: maximum length of this line in bytes
_MAX_LINE = 1 << 12


class Py(Format):
    """The format ``.py``: the source code of a model."""

    suffix = ".py"
    options = ("input",)
    program = True
    keeps_state = False

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        program = context.written = Program(module, context)
        text = program.text()
        if packages := program.packages():
            context.notes.append(
                f"the file needs {', '.join(packages)} besides PyTorch; keep modules of a plugin's folder beside it"
            )
        if "origin" in context.metadata:
            data = text.encode()
            text += f"\n{ORIGIN}{printable(str(context.metadata['origin']))} {_checksum(io.BytesIO(data), len(data))}\n"
        write_file(path, text)

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        with initial_defaults():
            self._verify(module, path, context)

    def _verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        try:
            built = runpy.run_path(str(path))["build"]()
            _load_weights(built, module.state_dict())
        except Exception as e:
            if isinstance(e, _OtherNamesError) and (added := _added(module, context.written.pairs(built))):
                raise not_rebuilt(module, added, "a .py file") from e
            raise VerificationError(f"the generated Python code does not rebuild the model: {_reason(e)}") from e
        pairs = context.written.pairs(built)
        _check_tensors(path, pairs)
        if missing := settings(pairs):
            raise VerificationError(f"{path}: the generated Python code lacks the statement {missing[0]}")
        if context.example is not None:
            torch.manual_seed(0)
            expected = run(at_sequence_start(module), context.example)
            torch.manual_seed(0)
            same_outputs(path, run(built, context.example), expected, "the generated Python code")

    def origin(self, path: Path) -> str | None:
        """Return the provenance in the last line, without executing the file; None if the file is truncated or edited.

        Files of earlier versions have no checksum of their text.
        """
        with open_input(path) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(-min(_MAX_LINE, size), io.SEEK_END)
            before, line, last = file.read().rpartition(f"\n{ORIGIN}".encode())
            origin, _, checksum = last.decode(errors="replace").partition(" ")
            if not before or not last.endswith(b"\n"):
                return None
            file.seek(0)
            if checksum and checksum[:-1] != _checksum(file, size - len(line) - len(last)):
                return None
        return origin.rstrip("\n")

    def open(self, path: Path, module: nn.Module, key: str = "") -> Written:
        """Run the file to create its model, and load the weights of ``module``, because the file contains no weights.

        Running the file is safe only if the user trusts it.
        """
        try:
            with initial_defaults():
                built = runpy.run_path(str(path))["build"]()
                _load_weights(built, module.state_dict())
        except (Exception, SystemExit) as e:
            key = "; if it was converted with a key= (--key), pass this key" if isinstance(e, _OtherNamesError) else ""
            raise VerificationError(f"{path} does not build this model: {_reason(e)}{key}") from e
        names = {id(m): name for name, m in module.named_modules()}
        program = Program(module, ExportContext())
        pairs = program.pairs(built, path)
        known = {id(rebuilt) for _, _, rebuilt in pairs}
        added = tuple(name for name, m in built.named_modules() if id(m) not in known)
        modes = {names[id(original)]: rebuilt.training for _, original, rebuilt in pairs}
        relocate(built).train(module.training)
        modules = {names[id(original)]: rebuilt for _, original, rebuilt in pairs}
        found = {
            f"{prefix}.{name}" if (prefix := names[id(original)]) else name: tensor
            for _, original, rebuilt in pairs
            for name, tensor in tensors(rebuilt).items()
        }

        def run(value: Any, given: Results) -> Results:
            with torch.no_grad():
                return run_modules(modules, lambda: built(value), given)

        note = "was run to build the model; it contains no weights, so the weights of MODEL were loaded"
        if changed := changed_definitions(read_file(path), program.definitions()):
            note += (
                ". Its code differs from the code that dpnn-convert writes now, and only code that ran is compared: "
                f"{', '.join(changed)}"
            )
        how: Any = {"run": run, "complete": False, "faster": False, "note": note}
        return Written(found, **how, modules=modules, modes=modes, added=added)


def _checksum(file: IO[bytes], size: int) -> str:
    """Return the checksum of the first bytes of a file."""
    return f"{crc32_of(chunks_of(file, size)):08x}"


class _OtherNamesError(ValueError):
    """A ``state_dict`` has other names or shapes than a model."""


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, _OtherNamesError) else f"{type(error).__name__}: {error}"


def _added(module: nn.Module, pairs: list[Pair]) -> str:
    """Return the name of the first tensor of ``module`` that the rebuilt model lacks; empty if it lacks none."""
    names = {id(m): f"{name}." if name else "" for name, m in module.named_modules()}
    missing = (
        f"{names[id(original)]}{name}"
        for _, original, rebuilt in pairs
        for name in tensors(original)
        if name not in tensors(rebuilt) and name not in original._non_persistent_buffers_set
    )
    return next(missing, "")


def _load_weights(module: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Load a ``state_dict``.

    Raises:
        _OtherNamesError: names or shapes differ.
    """
    try:
        load_weights(module, state_dict)
    except RuntimeError as e:
        raise _OtherNamesError(str(e)) from e


def _check_tensors(path: Path, pairs: list[Pair]) -> None:
    """Check that the tensors of the rebuilt modules equal the tensors of the original modules.

    Raises:
        VerificationError: a tensor differs.
    """
    for location, original, rebuilt in pairs:
        others = tensors(rebuilt)
        for name, tensor in tensors(original).items():
            other = others.get(name)
            if other is None and name in original._non_persistent_buffers_set:
                continue  # temporary buffer of the last run
            if other is None or not same_bits(other, tensor.detach().cpu()):
                raise VerificationError(
                    f"{path}: {location}.{name} differs in the generated Python code: its shape, type or value does "
                    "not follow from the constructor arguments"
                )
            if name in original._buffers and name in rebuilt._parameters:
                raise VerificationError(
                    f"{path}: {location}.{name} is a buffer, but a parameter in the generated Python code"
                )


FORMAT = Py()
