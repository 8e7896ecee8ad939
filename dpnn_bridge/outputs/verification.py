"""Compare outputs with their models, for several formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile

import torch
from torch import Tensor, nn

from dpnn_bridge.base.boundary import as_ours
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.reading import open_zip
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Tolerance, compare
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.conversion.example_run import run
from dpnn_bridge.conversion.limits import EagerMode
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.placeholder import Placeholder
from dpnn_bridge.conversion.tracing import as_traced
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, OptionError, VerificationError
from dpnn_bridge.modules.inputs import input_options


@contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """Yield a name of a file for libraries in C++, which accept UTF-8 only: its own, or that of a temporary link."""
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
    """Raise :class:`VerificationError` unless nested outputs agree.

    Args:
        path: for the message.
        actual, expected: the outputs.
        what: who computed ``actual``, for the message.
        rounding: how far rounding alone moves the outputs, see :func:`rounding_of`. The tolerance is ten times this,
            and at least 1e-4 of the outputs' scale (1e-8 in double precision).
        in_single: A part of the model computes in single precision, whatever the outputs are.
    """
    tolerance = Tolerance(double=1e-8, single=max(1e-4, 10 * rounding))
    tolerance = tolerance.in_single() if in_single else tolerance
    actual, expected = list(nested.leaves(actual)), list(nested.leaves(expected))
    failed = [d for d in compare("output", actual, expected, tolerance) if not d.ok]
    if failed:
        raise VerificationError(f"{path}: {what} returns other results: {failed[0].name}: {failed[0].message}")


def rounding_of(module: nn.Module, example: Any, expected: Any) -> float:
    """Measure the effect of rounding on a module's outputs, relative to their scale; at most 1e-3.

    Normalizing few or nearly equal values magnifies the rounding errors of single precision.
    """
    with as_traced():
        precise = nested.leaves(run(copied(module).double(), nested.cast(example, torch.float64)))
    tolerance = Tolerance(0.0, 0.0)
    found = [v.double() if isinstance(v, Tensor) else v for v in nested.leaves(expected)]
    return min(1e-3, max((d.error for d in compare("output", found, list(precise), tolerance)), default=0.0))


def run_traceable(module: nn.Module, example: Any) -> Any:
    """Return the output of a module as a tracer records it; no weight changes."""
    with as_traced():
        return run(traceable(module), example)


def traceable(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode on the same tensors: tracing leaves its symbols in modules that keep a state."""
    return copied(module, {id(t): t for t in [*module.parameters(), *module.buffers()]}).eval()


def check_program(
    path: Path, compute: Callable[[Any], Any], module: nn.Module, examples: Sequence[Any], what: str
) -> None:
    """Run a traced file on inputs, and compare it with its module.

    Args:
        path: The file, for messages.
        compute: Runs the file on an input.
        module: What it was written of.
        examples: The inputs, of several sizes where a size may vary; the last is the one that was traced.
        what: Who computes, for messages.

    Raises:
        OptionError: The file runs on the traced sizes alone.
        VerificationError: The file does not run or computes something else, or the model draws random numbers.
    """
    for example in reversed(examples):
        try:
            outputs = compute(example)
        except Exception as e:
            if example is not examples[-1]:
                traced, other = map(nested.sizes_text, (examples[-1], example))
                raise fixed_size(f"it runs on {traced}, not on {other}") from e
            raise VerificationError(
                f"{path}: {what} cannot run it on an input of {nested.sizes_text(example)}: {e}"
            ) from e
        _check_outputs(path, outputs, module, example, what)


def fixed_size(reason: str) -> OptionError:
    """Return the error for a size that cannot vary in a traced program, although the model runs with other sizes."""
    advice = "a loop over a size, such as the number of time steps, is traced for one size; leave this size out"
    return OptionError(f"dynamic= (--dynamic): the traced program does not take other sizes: {reason}; {advice}")


def _check_outputs(path: Path, outputs: Any, module: nn.Module, example: Any, what: str) -> None:
    """Raise :class:`VerificationError` unless ``outputs``, from the file that was written, are the module's."""
    expected = run_traceable(module, example)
    try:
        same_outputs(path, outputs, expected, what)
    except VerificationError as e:
        again = list(nested.leaves(run_traceable(module, example)))
        if any(not d.ok for d in compare("output", again, list(nested.leaves(expected)))):
            raise VerificationError(
                f"{path}: the model draws random numbers, so the results of {what} cannot be compared with it"
            ) from e
        single, rounding = _computes_in_single(module, example), rounding_of(traceable(module), example, expected)
        same_outputs(path, outputs, expected, what, rounding, in_single=single)


class _Dtypes(EagerMode):
    """While active, collects the floating point types of all results."""

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


def need_example(example: Any, suffix: str, module: nn.Module) -> None:
    """Raise :class:`OptionError` without an example input."""
    if example is None:
        raise OptionError(f"{suffix} needs an example input, such as {input_options(module)} (input=tensor)")


def need_whole_zip(path: Path) -> None:
    """Raise :class:`VerificationError` unless the file is a zip archive whose parts have the right checksums."""
    try:
        size = path.stat().st_size
        with open_zip(path) as archive:
            entries = archive.infolist()
            if any(e.compress_type != ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
                raise VerificationError(f"{path}: its records are compressed or overlap, unlike those of any output")
            bad = archive.testzip()
    except (OSError, BadZipFile) as e:
        raise VerificationError(f"{path} is incomplete or corrupted: {e}; check the disk and convert again") from e
    if bad is not None:
        raise VerificationError(f"{path}: {bad} is damaged")


# ---------------------------------------------------------------------- is it loaded again?
def check_loads(module: nn.Module, build: Callable[[Options], nn.Module], *, same_names: bool = True) -> None:
    """Load what was written of a module.

    Args:
        module: the module.
        build: builds it from what was written.
        same_names: parameters and buffers must have the names and shapes that they had.

    Raises:
        ConversionError: it cannot be built, or with other parameters and buffers; names the submodule.
    """
    try:
        try:
            again = build(_options_of(module, pending=True))  # without the elements of large parameters
        except ConversionError:  # which some classes compute with
            again = build(_options_of(module, pending=False))
    except Exception as e:
        reason = e if isinstance(e, DpnnBridgeError) else as_ours(e, ConversionError, "loading")
        raise ConversionError(f"the written model cannot be loaded again: {reason}") from e
    if same_names:
        _check_names(module, again)


def _options_of(module: nn.Module, pending: bool) -> Options:
    """Return the options to load a module again, with the Lua bridges of its layers."""
    layers = [m.__dict__ for m in module.modules() if isinstance(m, Placeholder)]  # others may contain a "bridge"
    bridges = list({id(m["bridge"]): m["bridge"] for m in layers if "bridge" in m}.values())

    def in_lua(obj: Any, ctx: Any) -> nn.Module | None:
        return next((found for b in bridges if (found := b.convert(obj, ctx)) is not None), None)

    def overrides(name: str) -> bool:
        return any(b.defines(name) for b in bridges)

    unbuilt = any(isinstance(part, Placeholder) for part in module.modules())
    lua: Any = {"fallback": in_lua, "overrides": overrides} if bridges else {}
    return Options(allow_unsupported=unbuilt or "unknown", pending=pending, **lua)


def not_rebuilt(root: nn.Module, name: str, file: str) -> ConversionError:
    """Return the error for a tensor or module that a file does not rebuild, because code added it to a layer.

    Args:
        root: The model.
        name: The tensor or module, as in ``state_dict``.
        file: What is written, such as ``"a .py file"``.
    """
    path, _, own = name.rpartition(".")
    module = root.get_submodule(path)
    child = module._modules.get(own)
    kind = "parameter" if own in module._parameters else "buffer"
    what = f"{kind} {own!r}" if child is None else f"child {own!r} ({type(child).__name__})"
    return ConversionError(
        f"its {what} is not made by the constructor of its class, so {file} cannot rebuild it; create it in the "
        "constructor of a class of your own, registered with @lua_class, or save a .npz file, which holds all weights",
        path=path,
        class_name=type(module).__name__,
    )


def _modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Return the modules with all of their names, as those of tensors in ``state_dict``."""
    return root.named_modules(remove_duplicate=False)


def _check_names(module: nn.Module, again: nn.Module) -> None:
    written, loaded, modules = module.state_dict(), again.state_dict(), dict(_modules(module))
    for name in [*written, *(n for n in loaded if n not in written)]:
        ours, theirs = (str(tuple(t.shape)) if (t := d.get(name)) is not None else "none" for d in (written, loaded))
        if ours == theirs:
            continue
        owner = name.rpartition(".")[0]
        while owner not in modules:
            owner = owner.rpartition(".")[0]
        if isinstance(modules[owner], Placeholder):  # its class is mapped by now
            continue
        if name not in loaded:
            built = {path for path, _ in _modules(again)}
            while (owner := name.rpartition(".")[0]) not in built:
                name = owner
            raise not_rebuilt(module, name, "the file")
        raise ConversionError(
            f"the written file would load {name} as {theirs}, but the module has {ours}; the mapping of its class "
            "lacks a constructor argument",
            path=owner,
            class_name=type(modules[owner]).__name__,
        )
