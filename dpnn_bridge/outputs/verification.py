"""Compare output files with their models; functions for several formats."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile

import torch
from torch import Tensor, nn

from dpnn_bridge.base.exclusive import process_wide
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.reading import file_status, open_zip
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.conversion.example_run import run
from dpnn_bridge.conversion.limits import EagerMode
from dpnn_bridge.conversion.placeholder import bridge_of
from dpnn_bridge.conversion.tracing import as_traced
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, OptionError, VerificationError
from dpnn_bridge.modules.inputs import accepted_instead, input_options

#: loggers of torch.export, torch.onnx and onnxscript about missing packages, and errors that are raised too
SILENCED_LOGGERS = (
    "torch._subclasses.fake_tensor",
    "torch.export._trace",
    "torch.onnx._internal.exporter._registration",
    "torch.onnx._internal.exporter._compat",
    "onnxscript.version_converter",
)


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a name of a file in UTF-8, which C++ libraries require: its own name, or the name of a temporary link."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        with temporary_folder() as folder:
            link = folder / f"link{path.suffix.encode(errors='replace').decode()}"
            link.symlink_to(os.path.abspath(path))
            yield os.fspath(link)
    else:
        yield os.fspath(path)


def same_outputs(
    path: Path, actual: Any, expected: Any, what: str, rounding: float = 0.0, *, in_single: bool = False
) -> None:
    """Compare the outputs of a file and of its model.

    Args:
        path: the file, for the message.
        actual, expected: nested outputs of the file and of the model.
        what: name of the program that computed ``actual``, for the message.
        rounding: relative effect of rounding on the outputs, see :func:`rounding_of`. In single precision, the
            tolerance is ten times this value, and at least 1e-4 of the outputs' scale. It is 1e-8 in double precision.
        in_single: whether a part of the model computes in single precision although the outputs are double.

    Raises:
        VerificationError: the outputs differ.
    """
    tolerance = Tolerance(double=1e-8, single=max(1e-4, 10 * rounding))
    tolerance = tolerance.in_single() if in_single else tolerance
    actual, expected = list(nested.leaves(actual)), list(nested.leaves(expected))
    failed = [d for d in compare("output", actual, expected, tolerance) if not d.ok]
    if failed:
        raise VerificationError(f"{path}: {what} returns other results: {failed[0].name}: {failed[0].message}")


def rounding_of(module: nn.Module, example: Any, expected: Any) -> float:
    """Return the difference of a module's outputs from its outputs in double precision, relative to their scale.

    The result is at most 1e-3. It is large if the model normalizes few or nearly equal values.
    """
    with as_traced():
        precise = nested.leaves(run(copied(module).double(), nested.cast(example, torch.float64)))
    tolerance = Tolerance(0.0, 0.0)
    found = [v.double() if isinstance(v, Tensor) else v for v in nested.leaves(expected)]
    return min(1e-3, max((d.error for d in compare("output", found, list(precise), tolerance)), default=0.0))


def run_traceable(module: nn.Module, example: Any) -> Any:
    """Return the output of a module in evaluation mode, computed as under a tracer."""
    with as_traced():
        return run_given(traceable(module), example)


def run_given(module: nn.Module, example: Any) -> Any:
    """Return the output of a module for the caller's input.

    Raises:
        ConversionError: the module cannot run on the input. The message suggests an input that the module accepts.
    """
    try:
        return run(module, example)
    except ConversionError as error:
        raise ConversionError(f"{error}{accepted_instead(module, example)}") from error.__cause__


@process_wide
@contextmanager
def without_log_messages() -> Iterator[None]:
    """Suppress messages of torch.export and torch.onnx that are irrelevant, or that repeat an error."""
    loggers = [logging.getLogger(name) for name in SILENCED_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def traceable(module: nn.Module) -> nn.Module:
    """Return a copy of a module for tracing: in evaluation mode, with the same parameters and buffers.

    A copy is needed because tracing stores symbolic values in the states of modules. The weights that PyTorch scales
    when they are used (``max_norm``) are copied too.
    """
    tables = (m for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
    scaled = {id(table.weight) for table in tables if table.max_norm is not None}
    tensors = (*module.parameters(), *module.buffers())
    return copied(module, {id(t): t for t in tensors if id(t) not in scaled}).eval()


class UnsupportedDtypeError(ConversionError):
    """The program that runs a traced file does not support the dtype of the model."""


def check_program(
    path: Path, compute: Callable[[Any], Any], module: nn.Module, examples: Sequence[Any], what: str
) -> None:
    """Run a traced file on inputs, and compare its outputs with the outputs of its module.

    Args:
        path: the file, for messages.
        compute: function that runs the file on an input.
        module: the module that was written.
        examples: the inputs, with several sizes if sizes may vary; the last one was used for tracing.
        what: name of the program that runs the file, for messages.

    Raises:
        OptionError: the file runs only on the traced sizes.
        VerificationError: the file does not run or its outputs differ, or the model draws random numbers.
        UnsupportedDtypeError: the program does not support the dtype of the model.
    """
    for example in reversed(examples):
        try:
            outputs = compute(example)
        except UnsupportedDtypeError:
            raise
        except Exception as e:
            if example is not examples[-1]:
                traced, other = map(nested.sizes_text, (examples[-1], example))
                raise fixed_size(f"it runs on {traced}, not on {other}", e) from e
            raise VerificationError(
                f"{path}: {what} cannot run the file on an input of {nested.sizes_text(example)}: {e}"
            ) from e
        _check_outputs(path, outputs, module, example, what)


def fixed_size(reason: str, cause: BaseException) -> OptionError:
    """Return the error for a size that cannot vary in the traced program, although it can vary in the model."""
    advice = "a loop over a size, such as the number of time steps, is traced for one size only; omit this size"
    if re.search(r"[!=]= 1\b", str(cause)):  # a guard, such as: Guard failed: input.size()[3] // 2 != 1
        advice = "on one of them a layer has a result of size 1, which torch.export excludes; pass a larger example"
    return OptionError(f"dynamic= (--dynamic): the traced program does not accept other sizes: {reason}; {advice}")


def export_error(
    exporter: str, cause: BaseException, module: nn.Module, *, dynamic: bool, advice: str = ""
) -> DpnnBridgeError:
    """Return the error for a model that an exporter rejects.

    Args:
        exporter: name of the exporter, for messages.
        cause: its error.
        module: the model.
        dynamic: whether sizes may vary.
        advice: what else to try.
    """
    for path, part in module.named_modules():
        if bridge_of(part) is not None:
            text = (
                f"{exporter} cannot export a layer that runs in Lua; map its class in a plugin (--plugin my_layers.py)"
            )
            return ConversionError(text, path=path, class_name=str(part.class_name))
    constant = re.search(r"(?:constant \(|static shape of )(\d+)", str(cause))
    if dynamic and (constant or "Constraints violated" in str(cause)):
        size = constant[1] if constant else "of the example"
        return fixed_size(f"torch.export found the constant size {size}", cause)
    advices = ["omit a size from dynamic= (--dynamic)"] * dynamic + [advice] * bool(advice)
    return ConversionError("; ".join([f"{exporter} cannot export this model: {str(cause).strip()}", *advices]))


def _check_outputs(path: Path, outputs: Any, module: nn.Module, example: Any, what: str) -> None:
    """Compare the outputs of a traced file with the module's outputs.

    Raises:
        VerificationError: the outputs differ.
    """
    state = torch.get_rng_state()
    expected = run_traceable(module, example)
    random = f"{path}: the model draws random numbers, so its results cannot be compared with the results of {what}"
    if not torch.equal(state, torch.get_rng_state()):
        raise VerificationError(random)
    try:
        same_outputs(path, outputs, expected, what)
    except VerificationError as e:
        again = list(nested.leaves(run_traceable(module, example)))
        if any(not d.ok for d in compare("output", again, list(nested.leaves(expected)))):
            raise VerificationError(random) from e
        single, rounding = _computes_in_single(module, example), rounding_of(traceable(module), example, expected)
        try:
            same_outputs(path, outputs, expected, what, rounding, in_single=single)
        except VerificationError as error:
            same_outputs(path, outputs, expected, what, rounding, in_single=True)
            advice = "the results agree in single precision only, so try --dtype float32 (model.float())"
            raise VerificationError(f"{error}; {advice}") from error


class _Dtypes(EagerMode):
    """Collects the floating point dtypes of all results inside the ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.found = set[torch.dtype]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        self.found |= {t.dtype for t in nested.tensors(results) if t.is_floating_point()}
        return results


def _computes_in_single(module: nn.Module, example: Any) -> bool:
    """Return whether a part of the model computes in single or half precision (``nn.DontCast``, ``nn.Copy``)."""
    with _Dtypes() as dtypes:
        run_traceable(module, example)
    return bool(dtypes.found - {torch.float64})


def check_example(example: Any, suffix: str, module: nn.Module) -> None:
    """Raise :class:`OptionError` if there is no example input, or one without elements, whose outputs prove nothing."""
    tensors = nested.tensors(example)
    if example is None or (tensors and all(t.numel() == 0 for t in tensors)):
        kind = "an example input" if example is None else "an example input with elements"
        raise OptionError(f"{suffix} needs {kind}, such as {input_options(module)} (input=tensor)")


def check_zip(path: Path) -> None:
    """Check that a file is a complete zip archive of uncompressed records with the right checksums.

    Raises:
        VerificationError: the archive is incomplete, or a record is compressed or damaged.
    """
    try:
        size = file_status(path).st_size
        with open_zip(path) as archive:
            entries = archive.infolist()
            if any(e.compress_type != ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
                raise VerificationError(
                    f"{path}: its records are compressed or overlap, which no output "
                    "has; convert again, or write arrays with numpy.savez"
                )
            bad = archive.testzip()
    except (OSError, BadZipFile) as e:
        raise VerificationError(f"{path} is incomplete or corrupted: {e}; check the disk and convert again") from e
    if bad is not None:
        raise VerificationError(f"{path}: {bad} is damaged; check the disk and convert again")
