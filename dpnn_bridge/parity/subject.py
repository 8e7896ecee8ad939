"""Define the subject of a verification: a model and its reference."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from dpnn_bridge.base.arguments import check_no_file
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.shell import shell_file
from dpnn_bridge.checkpoints.find import select
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.convert import convert_object
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_values import lua_value, to_value
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.errors import ModelNotFoundError, NoReferenceError, OptionError
from dpnn_bridge.files import load_with_report
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.modules.inputs import input_options
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs.formats import is_converted_file
from dpnn_bridge.parity.buffers import is_filled
from dpnn_bridge.parity.exported import NOTE, as_exported, loaded

#: field that marks a reference of results that Torch7 stored in the model file
LEFTOVER = "left in the model file"
#: dtypes to which Torch7 casts a model; with other dtypes, it runs in the precision of the file
_TENSOR_CLASSES = {torch.float64: "torch.DoubleTensor", torch.float32: "torch.FloatTensor"}


class Subject:
    """The model and its reference.

    Args:
        path: file of the model.
        reference: file or table of the reference, or None.
        key: path of the model in its file.
        mode: ``"train"`` or ``"eval"``; default: the mode of the reference.
        options: options of the conversion.
        together: whether several models of one file may be the subject together; else that is an error.
        exported: the ``.t7`` file with which a file of PyTorch is compared, or None.

    Attributes:
        obj: Lua object of the model; None for a file of PyTorch.
        table: the reference; empty without one.
        notes: notes of conversions.
        network: the network of PyTorch, if :meth:`fresh` returned its export to Torch7.
    """

    def __init__(
        self,
        path: StrPath,
        reference: StrPath | LuaTable | None,
        key: str | None,
        mode: str | None,
        options: Options,
        *,
        together: bool = False,
        exported: StrPath | None = None,
    ) -> None:
        self.path, self.options, self.mode, self.exported = path, options, mode, exported
        self.obj, self.table, self.key = _read(path, reference, key, options, together)
        self.notes: dict[str, None] = {}
        self.network: nn.Module | None = None
        self._as_saved: list[bool] = []

    def fresh(self) -> nn.Module:
        """Convert the model and return it in the mode of the run."""
        converted = convert_object(self.obj, self.options, self.key) if self.obj is not None else None
        module, report = converted or (load_with_report(self.path, self.key or None, self.options)[0], Report())
        self.notes.update(dict.fromkeys(report.notes))
        if self.obj is None and self.exported is not None:
            other = loaded(self.exported, self.options, self.key, module)
            if (export := self.as_exported(module, other)) is not None:
                self.network, module = module, export
                self.notes[f"MODEL {NOTE}."] = None
        self._as_saved = [m.training for m in module.modules()]
        self._set_mode(module)
        return module

    def _set_mode(self, module: nn.Module) -> None:
        if self.mode is None and is_fixture(self.table):
            return  # the modules of a fixture have the modes of Torch7's run
        modules, modes = [*module.modules()], self._modes_after
        if self.mode is None and len(modes) == len(modules):
            for part, mode in zip(modules, modes, strict=True):
                if part.training != mode:
                    part.train(mode)  # a layer in Lua runs its own `training` or `evaluate`
        else:  # also if the modules of another network are not those of ``after``
            after = "train" if modes and modes[0] else "eval"
            module.train((self.mode or self.table.get("mode") or after) == "train")
        if self.table.get("dropout_modules_set_to_p0"):
            for part in modules:
                if isinstance(getattr(part, "p", None), float) and "Dropout" in type(part).__name__:
                    setattr(part, "p", 0.0)  # noqa: B010

    @cached_property
    def _modes_after(self) -> list[bool]:
        """The modes of all modules after Torch7's run, if the reference does not contain the mode."""
        after = self.table.get("after")
        if "mode" in self.table or not isinstance(after, LuaObject):
            return []
        return [module.training for module in convert_object(after, self.options)[0].modules()]

    def as_exported(self, module: nn.Module, torch7: nn.Module) -> nn.Module | None:
        """Call :func:`~dpnn_bridge.parity.exported.as_exported` with the input of the reference."""
        return as_exported(module, torch7, to_value(self.table.get("input")), self.options)

    def modes_of(self, module: nn.Module) -> dict[str, bool]:
        """Return name of each module of a result of :meth:`fresh` -> whether it was saved in training mode."""
        names = (name for name, _ in module.named_modules())
        return dict(zip(names, self._as_saved, strict=True))

    def check_input(self, module: nn.Module) -> None:
        """Raise :class:`NoReferenceError` if there is no input for the model."""
        if "input" not in self.table:
            options = input_options(module, self.obj)
            raise NoReferenceError(f"{self.path}: no input for the model; pass one, such as {options}")

    def check_target(self, module: nn.Module) -> None:
        """Leave out the target of the reference if the model is a network, as Lua leaves out such an argument.

        Raises:
            NoReferenceError: the model is a criterion, and there is an input and no target for it.
        """
        if "input" not in self.table or is_fixture(self.table):
            return
        signature, given = inspect.signature(module.forward), self.table.get("target") is not None
        needed = not _accepts(signature, None)
        kinds = {p.kind for p in signature.parameters.values()}
        record = record_of(module)
        name = record.class_name if record else type(module).__name__
        if given and not (needed or "target" in signature.parameters or inspect.Parameter.VAR_POSITIONAL in kinds):
            self.table = LuaTable((name, value) for name, value in self.table.items() if name != "target")
            self.notes[f"The target in the reference was not used: {name} takes an input only."] = None
        if needed and not given and _accepts(signature, None, None):
            raise NoReferenceError(
                f"{self.path}: {name} needs a target; pass a file with the table "
                "{input = x, target = t, output = loss} as reference= (--reference)"
            )

    def use_stored_results(self, module: nn.Module) -> None:
        """Use the results in the model's Lua object as the reference, if there is none. The caller checks the input."""
        if self.obj is None or is_comparable(self.table) or "input" not in self.table:
            return
        if self._as_saved == [m.training for m in module.modules()] and is_filled(self.obj.get("output")):
            self.table["output"], self.table["after"], self.table[LEFTOVER] = self.obj["output"], self.obj, True


def given_reference(input: Any, output: Any) -> LuaTable:
    """Return a reference with an input and, unless it is None, an output.

    Raises:
        OptionError: a value is the name of a file, or the input is an empty batch. An empty tensor of Torch7 has no
            sizes, so the model would run on another input.
    """
    for name, value in (("input", input), ("output", output)):
        check_no_file(name, value)
    for leaf in nested.leaves(input):
        shape = tuple(getattr(leaf, "shape", ()))
        if len(shape) > 1 and 0 in shape:
            raise OptionError(f"input= (--input) of shape {shape} has no elements; pass at least one sample")
    table = LuaTable([("input", lua_value(input))])
    if output is not None:
        table["output"] = lua_value(output)
    return table


def _read(
    model: StrPath, reference: StrPath | LuaTable | None, key: str | None, options: Options, together: bool
) -> tuple[LuaObject | None, LuaTable, str]:
    """Return the Lua object of the model (None for a file of PyTorch), the reference, and the key."""
    table = LuaTable() if reference is None else read_reference(reference)
    if is_converted_file(model):
        return None, table, key or ""
    root = read_t7(model)
    if is_fixture(root) and reference is None and key is None:
        return root["module"], root, "module"
    try:
        obj, key, _ = select(root, key, str(model), together=together, knows=options.knows)
    except ModelNotFoundError:
        if isinstance(root, LuaTable) and "input" in root:
            raise NoReferenceError(
                f"{model} is a reference without a module; call dpnn-verify MODEL --reference {shell_file(model)}"
            ) from None
        raise
    return obj, table, key


def read_reference(reference: StrPath | LuaTable) -> LuaTable:
    """Return a reference, from its file or its table, as a new table.

    Raises:
        NoReferenceError: the reference contains no input, a mode that is neither ``"train"`` nor ``"eval"``, or a seed
            that is no integer.
    """
    table = reference if isinstance(reference, LuaTable) else read_t7(reference)
    name = "reference=" if isinstance(reference, LuaTable) else reference
    if not isinstance(table, LuaTable) or "input" not in table:
        raise NoReferenceError(f"{name}: a reference is a table with the fields input, output, …")
    mode = table.get("mode")
    if mode not in (None, "train", "eval"):
        raise NoReferenceError(f"{name}: mode must be 'train' or 'eval', found {shortened(repr(mode))}")
    seed = table.get("seed")
    if seed is not None and not (isinstance(seed, (int, float)) and float(seed).is_integer()):
        raise NoReferenceError(f"{name}: seed must be an integer, found {shortened(repr(seed))}")
    return LuaTable(table.items())


def _accepts(signature: inspect.Signature, *arguments: Any) -> bool:
    """Return whether a function of this signature takes these positional arguments."""
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def is_fixture(root: Any) -> bool:
    """Return whether the root of a file is a fixture: a table with ``module`` and ``input``."""
    return isinstance(root, LuaTable) and isinstance(root.get("module"), LuaObject) and "input" in root


def is_comparable(table: LuaTable) -> bool:
    """Return whether the reference contains results, or the error of Torch7's forward pass."""
    return any(name in table for name in ("output", "gradInput", "gradParams", "forward_error"))


def with_cast_input(module: nn.Module, table: LuaTable) -> LuaTable:
    """Return the reference with its input cast to the dtype of the model.

    The reference is unchanged if the model or the input has several floating point dtypes, or the model casts its
    input.
    """
    expected = {t.dtype for t in module.parameters() if t.is_floating_point()}
    value = to_value(table.get("input"))
    given = {v.dtype for v in nested.tensors(value) if v.is_floating_point()}
    if len(expected) != 1 or len(given) != 1 or expected == given or not given <= {torch.float32, torch.float64}:
        return table
    if any(type(m).__name__ in ("Copy", "DontCast") for m in module.modules()):
        return table
    return LuaTable([*table.items(), ("input", lua_value(nested.cast(value, *expected)))])


def cast_in_lua(module: nn.Module, table: LuaTable, dtype: torch.dtype | None) -> tuple[str | None, LuaTable]:
    """Return the tensor class to which Lua casts a model for ``dtype``, and the reference for its run.

    The class is None if the model is not cast. Then the input of the reference is cast to the dtype of the model.
    """
    tensor_class = _TENSOR_CLASSES.get(dtype) if dtype else None
    return tensor_class, table if tensor_class else with_cast_input(module, table)
