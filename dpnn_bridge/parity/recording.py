"""Record fixtures with results of PyTorch, and compare models with fixtures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

import dpnn_bridge.training as training
from dpnn_bridge.base.arguments import check_no_file, checks_arguments
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.version import package_version
from dpnn_bridge.compare import nested
from dpnn_bridge.compare.differences import Result, Tolerance
from dpnn_bridge.compare.memory import copied
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion.convert import to_lua
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.conversion.tensors import as_dtype
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, NoReferenceError, VerificationError
from dpnn_bridge.loaders.t7_reader import loads
from dpnn_bridge.loaders.t7_writer import dumps, write_t7
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.fixture import check, check_module
from dpnn_bridge.parity.gradients import of_gradients, zero_grad
from dpnn_bridge.parity.subject import is_comparable, read_reference, with_cast_input
from dpnn_bridge.torch7.draws import Draws
from dpnn_bridge.torch7.random import Generator

#: seed of recorded runs
SEED = 1


@checks_arguments
@wrap_errors(VerificationError, "recording")
def record(
    module: nn.Module,
    input: Any,
    path: StrPath,
    *,
    target: Any = None,
    grad_output: Any = None,
    gradients: bool = True,
    force: bool = False,
) -> None:
    """Run a copy of a module and write a fixture with its results.

    The field ``provenance.pytorch`` of the fixture states that PyTorch computed the results. Dropout, normal, uniform
    and Bernoulli layers draw the numbers of Torch7's generator, and the fixture contains its seed.

    Args:
        module: any module. If its export to Torch7 has the recorded results, the fixture contains the export, so
            ``dpnn-verify`` and the pytest plugin can check the fixture alone. Otherwise, as for a layer without a Lua
            class, frozen parameters or indices from 0, call :func:`assert_parity` with the module.
        input: a tensor or a nested list.
        path: the ``.t7`` file to write.
        target: second argument of a criterion.
        grad_output: gradient of the output; default: random numbers that are equal in each run.
        gradients: whether to record ``gradInput`` and ``gradParams`` too.
        force: whether to replace an existing file.

    Raises:
        OutputExistsError: the file exists and ``force`` is False.

    Examples:
        >>> parity.record(model, torch.randn(2, 3), "tests/fixtures/model.t7")   # doctest: +SKIP
    """
    check_no_file("input", input)
    table = LuaTable(
        [
            ("schema", 1),
            ("name", Path(path).stem),
            ("class", type(module).__name__),
            ("kind", "module" if target is None else "criterion"),
            ("mode", _mode(module)),
            ("provenance", LuaTable([("pytorch", str(torch.__version__)), ("dpnn_bridge", package_version())])),
            ("input", lua_value(input)),
            ("target", lua_value(target)),
            ("params", lua_value(training.parameters(module)[0])),
        ]
    )
    try:
        table["module"] = to_lua(module)
    except ConversionError:  # a layer without a Lua class: the fixture contains only the results
        table["module"] = None
    random_state = torch.get_rng_state()
    run, generator = partial(_run, table, module, input, target, grad_output, gradients), Generator(SEED)
    if run(Draws(generator)):  # torch.utils.checkpoint restores only PyTorch's generator
        torch.set_rng_state(random_state)
        run(nullcontext())
    elif generator.get_state() != Generator(SEED).get_state():
        table["seed"] = SEED
    if "module" in table and not _export_has_results(table, module, random_state):
        table["module"] = None
    write_t7(path, table, force=force)


def _run(
    table: LuaTable,
    module: nn.Module,
    input: Any,
    target: Any,
    grad_output: Any,
    gradients: bool,
    draws: AbstractContextManager[Any],
) -> bool:
    """Run a copy of a module and store its results in a fixture.

    Args:
        table: the fixture.
        module, input, target, grad_output, gradients: see :func:`record`.
        draws: context manager that replaces random numbers.

    Returns:
        Whether the backward pass ran modules again.
    """
    module, inputs = copied(module), nested.require_grad(nested.copied(input))
    again: list[nn.Module] = []
    with full_precision(), torch.set_grad_enabled(gradients), draws:
        output = nested.as_table(module(inputs) if target is None else module(inputs, target))
        table["output"] = lua_value(nested.map_tensors(_number_or_tensor, output))
        if gradients:
            if grad_output is None and target is None:
                grad_output = nested.random_like(output)
            grad_output = nested.as_table(grad_output)
            zero_grad(module)
            hook = register_module_forward_pre_hook(lambda inner, _: again.append(inner))
            try:
                nested.backward(output, grad_output)
            finally:
                hook.remove()
            table["gradOutput"] = lua_value(grad_output)
            table["gradInput"] = lua_value(nested.gradients(inputs))
            table["gradParams"] = lua_value(training.parameters(module)[1])
    return bool(again)


def _mode(module: nn.Module) -> str | None:
    """Return the mode of a module; None if its parts have different modes, which a comparison then does not change."""
    modes = {part.training for part in module.modules()}
    return None if len(modes) > 1 else "train" if module.training else "eval"


def _export_has_results(table: LuaTable, module: nn.Module, random_state: Tensor) -> bool:
    """Return whether the module in a fixture agrees with it at least as well as the recorded module.

    Neither agrees if the results are random numbers that the seed does not determine, or if a ``.t7`` file cannot
    contain the values: bfloat16 and empty batches.

    Args:
        table: the fixture.
        module: the recorded module.
        random_state: state of PyTorch's generator before the recorded run, with which the export runs.
    """
    data = dumps(table)

    def end(compare: Callable[[LuaTable], Result]) -> str:
        with suppress(DpnnBridgeError):
            return "equal" if compare(loads(data)).ok else "different"
        return "error"

    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(random_state)
        of_export = end(check)
    return of_export == "equal" or end(partial(check_module, copied(module))) in (of_export, "error")


def _number_or_tensor(tensor: Tensor) -> Any:
    """Return a zero-dimensional tensor, which Torch7 lacks, as a number; return any other tensor unchanged."""
    if tensor.dim():
        return tensor
    return int(tensor) if tensor.dtype == torch.bool else tensor.item()


@checks_arguments
def assert_parity(
    module: nn.Module,
    fixture: StrPath | LuaTable,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    rtol: float | None = None,
    gradient_rtol: float | None = None,
    gradients: bool = True,
) -> None:
    """Assert that the results of a module agree with a fixture or reference.

    Args:
        module: the module, converted or written by hand. A copy of the module runs, in the mode of the fixture.
        fixture: a ``.t7`` file or its table: ``input``, ``output`` and the other results to compare (``gradOutput``,
            ``gradInput``, ``gradParams`` in the order of Torch7's ``parameters()``, ``params``, ``target``).
        device: device on which the module runs.
        dtype: precision of the run; default: the module's.
        rtol: accepted difference relative to the largest expected value; default: 1e-10 in double and 1e-5 in single
            precision.
        gradient_rtol: accepted relative difference of gradients; default: ``rtol``.
        gradients: whether to compare gradients if the fixture contains them.

    Raises:
        NoReferenceError: the file or table contains no input, or nothing to compare.
        AssertionError: a comparison failed; the message lists the failed comparisons with their worst elements.

    Examples:
        >>> parity.assert_parity(MyPort(), "tests/fixtures/reference.t7", rtol=1e-4)   # doctest: +SKIP
    """
    table, module = read_reference(fixture), copied(module)
    if table.get("mode") is not None:
        module.train(table["mode"] == "train")
    if dtype is None:
        table = with_cast_input(module, table)
    of_gradients_only = None
    if gradient_rtol is not None:
        of_gradients_only = of_gradients(Tolerance(gradient_rtol, gradient_rtol), table)
    result = check_module(
        module,
        table,
        device=device,
        dtype=as_dtype(dtype),
        tolerance=None if rtol is None else Tolerance(rtol, rtol),
        gradient_tolerance=of_gradients_only,
        gradients=gradients,
    )
    if not result.differences and not is_comparable(table):
        name = "fixture=" if isinstance(fixture, LuaTable) else fixture
        raise NoReferenceError(
            f"{name}: an input and no results to compare: add output, gradInput, gradParams or after"
        )
    if not result.ok:
        raise AssertionError("\n".join(f"{d.name}: {d.message}" for d in result.failures))
