"""Define :func:`dpnn_bridge.verify`, whose arguments have the names of ``dpnn-verify``'s options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.compare.differences import Difference, Tolerance
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.tensors import as_dtype
from dpnn_bridge.errors import ConversionError, NotT7Error, OptionError
from dpnn_bridge.files import classes_in_lua
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity import verify as verification
from dpnn_bridge.parity.data import verify_model_or_data
from dpnn_bridge.parity.known_differences import KnownDifference, read_known_differences
from dpnn_bridge.parity.torch7_reference import Torch7
from dpnn_bridge.parity.verification import Verification
from dpnn_bridge.plugins import load_plugins


@checks_arguments
@wrap_errors(ConversionError, "verifying")
def verify(
    model: StrPath,
    converted: StrPath | None = None,
    *,
    reference: StrPath | LuaTable | None = None,
    input: Any = None,
    output: Any = None,
    lua_path: Sequence[StrPath] = (),
    torch7: StrPath | None = None,
    key: str | None = None,
    mode: Literal["train", "eval"] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    backward: bool = True,
    rtol: float | None = None,
    gradient_rtol: float | None = None,
    known_differences: StrPath | None = None,
    plugins: Sequence[StrPath] = (),
    lua: Any = None,
    sandbox: bool | Literal["partial"] = False,
    allow_unsupported: bool = False,
    index_base: Literal[0, 1] = 1,
    unbounded: bool = False,
) -> Verification:
    """Compare a model, layer by layer, with results of Torch7, with the Lua sources, or with its converted file.

    Args:
        model: a ``.t7`` file with a model, or a fixture, which contains ``module`` and ``input``. Data without a model
            is compared with ``converted`` alone.
        converted: a file that was converted from the model or data, in any format.
        reference: a ``.t7`` file, or its table, with ``input``, ``output`` and optionally ``gradOutput``,
            ``gradInput``, ``gradParams`` and ``after``, which are compared too.
        input: a tensor or a nested list; use it instead of ``reference``.
        output: output of Torch7 for ``input``.
        lua_path: folders with Torch7's Lua sources, which compute the reference for ``input``. The Lua files of ``lua``
            can require them, unless they run in a sandbox.
        torch7: program of a Torch7 installation, ``th`` or ``luajit``, which computes the reference for ``input``. It
            runs the Lua files of ``lua`` too, unless these run in a sandbox.
        key: path of the model inside its file, such as ``"protos.rnn"``.
        mode: training or evaluation mode; default: the mode of the reference, else ``"eval"``.
        device: device on which the model runs.
        dtype: precision of the run, such as ``"float64"``; default: the precision of the file.
        backward: whether to compare gradients if the reference contains them.
        rtol: accepted relative difference of outputs; default: 1e-10 in double precision, else 1e-4.
        gradient_rtol: accepted relative difference of gradients; default: 1e-10 in double precision, else 1e-3.
        known_differences: JSON file of comparisons that may differ, each with its reason.
        plugins: Python files that register classes with ``@lua_class``.
        lua: a :class:`~dpnn_bridge.lua.LuaBridge` or Lua files that define classes, see :func:`dpnn_bridge.load`.
        sandbox: whether to run these Lua files in a process that can only compute.
        allow_unsupported: whether to convert unknown classes to placeholders.
        index_base: value of ``index_base`` with which ``converted`` was converted.
        unbounded: whether to run the model without limits of memory and time.

    Returns:
        All layers with their comparisons; ``.ok``, ``.verdict`` and ``.to_dict()`` summarize them. Without a reference,
        an input and a converted file nothing is compared, and ``.verdict`` is None. For data without a model,
        ``.layers`` is empty, and ``.whole`` contains one comparison, whose message is the first difference.

    Raises:
        OptionError: two arguments exclude each other, or PyTorch cannot use the device.
        VerificationError: the reference is invalid.
        T7Error: a file cannot be read.
        ConversionError: a file cannot be converted, or the model cannot run.

    Examples:
        >>> result = dpnn_bridge.verify("model.t7", reference="ref.t7")   # doctest: +SKIP
        >>> result.ok, result.first_deviating                             # doctest: +SKIP
    """
    _check_references(output, input, reference, lua_path, torch7)
    if index_base == 0 and (converted is None or reference is not None or output is not None or lua_path or torch7):
        raise OptionError(
            "index_base= (--index-base): 0 needs a converted file, and cannot be compared with Torch7, whose indices "
            "start at 1"
        )
    tolerance, gradient_tolerance = _tolerance("rtol", rtol), _tolerance("gradient_rtol", gradient_rtol)
    known = [] if known_differences is None else _known(known_differences)
    load_plugins(plugins)
    cast = as_dtype(dtype)
    classes = classes_in_lua(lua, sandbox, () if sandbox else lua_path)
    verify_model = partial(
        verification.verify,
        model,
        converted,
        reference=reference,
        input=input,
        output=output,
        key=key,
        mode=mode,
        device=device,
        dtype=cast,
        gradients=backward,
        tolerance=tolerance,
        gradient_tolerance=gradient_tolerance,
        options=Options(index_base=index_base, allow_unsupported=allow_unsupported, **classes),
        lua=_bridge(lua_path, lua, sandbox) if lua_path else None,
        torch7=None if torch7 is None else Torch7(str(torch7), _files(lua, sandbox)),
        known=known,
        bounded=not unbounded,
    )
    result = verify_model_or_data(verify_model, model, converted, key=key, dtype=cast, lua=lua, sandbox=sandbox)
    if not isinstance(result, str):
        return result
    if reference is not None or input is not None or lua_path or torch7 is not None:
        others = "reference= (--reference), input= (--input), lua_path= (--lua-path) and torch7= (--torch7)"
        raise OptionError(f"{model}: data without a model is compared with {converted} alone: omit {others}")
    compared = Difference("data", math.inf if result else 0.0, 0.0, result)
    return Verification(str(model), "", str(converted), "", key or "", "", "", "", whole=[compared])


def _check_references(
    output: Any, input: Any, reference: Any, lua_path: Sequence[StrPath], torch7: StrPath | None
) -> None:
    """Refuse arguments that define two references, or an output without its input."""
    if output is not None and input is None:
        raise OptionError("output= (--output) needs input= (--input)")
    if lua_path and torch7 is not None:
        raise OptionError("lua_path= (--lua-path) and torch7= (--torch7) both compute a reference: omit one of them")
    if (lua_path or torch7 is not None) and output is not None:
        computes = "lua_path= (--lua-path)" if lua_path else "torch7= (--torch7)"
        raise OptionError(f"{computes} computes the output: omit output= (--output)")
    if reference is not None and input is not None:
        raise OptionError("reference= (--reference) contains the input; omit input= (--input) and output= (--output)")


def _tolerance(name: str, value: float | None) -> Tolerance | None:
    if value is not None and not 0 <= value < math.inf:
        option = f"{name}= (--{name.replace('_', '-')})"
        raise OptionError(f"{option} is {value}; pass a finite number that is not negative, such as 1e-6")
    return None if value is None else Tolerance(value, value)


def _known(path: StrPath) -> list[KnownDifference]:
    try:
        return read_known_differences(path)
    except (NotT7Error, ValueError) as error:
        raise OptionError(f"known_differences= (--known-differences): {error}") from None


def _bridge(lua_path: Sequence[StrPath], lua: Any, sandbox: bool | Literal["partial"]) -> Any:
    """Return the Lua bridge that computes the reference; without a sandbox, it also runs the user's Lua files."""
    from dpnn_bridge.lua.bridge import LuaBridge

    return LuaBridge.from_files(_files(lua, sandbox), lua_path=lua_path, to_stderr=True)


def _files(lua: Any, sandbox: bool | Literal["partial"]) -> list[Path]:
    """Return the user's Lua files that may run outside a sandbox."""
    from dpnn_bridge.lua.bridge import LuaBridge
    from dpnn_bridge.lua.environment import paths

    return [] if sandbox or lua is None or isinstance(lua, LuaBridge) else paths(lua, "lua= (--lua)")
