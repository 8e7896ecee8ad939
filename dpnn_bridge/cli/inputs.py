"""Create example inputs from the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.reading import file_status, open_input
from dpnn_bridge.base.suffixes import PICKLED
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.parametrized import named_layers
from dpnn_bridge.errors import OptionError, T7Error, T7FormatError, T7LimitError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.outputs import pt_file
from dpnn_bridge.outputs.container import is_small
from dpnn_bridge.outputs.npy import ArrayHeader

#: a shape with an optional dtype after a colon
_SHAPE = re.compile(r"(\d+(?:x\d+)*)(?::(\w+))?")


@dataclass(frozen=True)
class ExampleInput:
    """Function that creates the example input of a model, see :func:`example_input`.

    Args:
        specs: shapes and names of files.
        dtype: floating-point type of random inputs; default: the dtype of the model.
    """

    specs: tuple[str, ...]
    dtype: str | None = None

    @classmethod
    def of(cls, specs: Sequence[str], dtype: str | None) -> ExampleInput:
        """Create an instance in which files have absolute paths, for workers in another working directory."""
        return cls(tuple(os.path.abspath(s) if os.path.isfile(s) else s for s in specs), dtype)

    def __call__(self, model: nn.Module) -> Any:
        return example_input(self.specs, self.dtype or model)

    @property
    def files(self) -> list[str]:
        """The files in ``specs``."""
        return [spec for spec in self.specs if os.path.isfile(spec)]

    def digest(self) -> list[str | None]:
        """Return ``specs`` with files replaced by their checksums, and the dtype."""
        files = self.files
        return [*(sha256_of(spec) if spec in files else spec for spec in self.specs), self.dtype]


def example_input(
    specs: Sequence[str], dtype: str | nn.Module | None = None, option: str = "--input", index_limit: int | None = None
) -> Any:
    """Return one input from its specification, or a list from several specifications.

    Args:
        specs: each is a shape (``1x3x224x224``: normal random numbers; ``5x3:int64``: ones, which are valid indices)
            or a ``.t7``, ``.npy`` or ``.pt`` file.
        dtype: dtype of shapes without a dtype; default float32. For a model: the dtype of its parameters, or int64 if
            its first layer takes indices and no shape in ``specs`` has a dtype.
        option: the option whose values are ``specs``, for messages.
        index_limit: integers are random and less than this number; default: ones.

    Raises:
        OptionError: a specification is neither a shape nor a file, or is a shape although ``option`` is not
            ``--input``; or a file contains nil.
    """
    generator = torch.Generator().manual_seed(0)
    has_dtype = any((shape := _SHAPE.fullmatch(spec)) and shape[2] for spec in specs)
    default = _dtype_of(dtype, has_dtype) if isinstance(dtype, nn.Module) else dtype
    values = [_from_spec(spec, default, option, index_limit, generator) for spec in specs]
    return values[0] if len(values) == 1 else values


def _dtype_of(model: nn.Module, has_dtype: bool) -> str:
    """Return the dtype of the parameters; int64 if the first layer takes indices and no shape has a dtype."""
    first = next((m for _, m in named_layers(model) if type(m) is not nn.Identity), model)
    if not has_dtype and (isinstance(first, nn.Embedding) or hasattr(first, "index_base")):
        return "int64"
    return next((str(p.dtype) for p in model.parameters() if p.is_floating_point()), "float32").removeprefix("torch.")


def has_untyped_shape(specs: Sequence[str]) -> bool:
    """Return whether a specification is a shape without a dtype."""
    return any((shape := _SHAPE.fullmatch(spec)) and not shape[2] for spec in specs)


def _from_spec(spec: str, dtype: str | None, option: str, index_limit: int | None, generator: torch.Generator) -> Any:
    where = f"{option} {spec}"
    if (shape := _SHAPE.fullmatch(spec)) and option == "--input":  # other options take results
        return wrap_errors(OptionError, where)(_random)(where, shape, dtype, index_limit, generator)
    value = wrap_errors(T7Error, where)(_read)(spec, where, option == "--input")
    if value is None:  # as if the option were not passed
        raise OptionError(f"{where}: expected a tensor, or a list or table of tensors, found nil (None)")
    return value


def _random(
    where: str, shape: re.Match[str], dtype: str | None, index_limit: int | None, generator: torch.Generator
) -> torch.Tensor:
    torch_dtype = getattr(torch, shape[2] or dtype or "float32", None)
    if not isinstance(torch_dtype, torch.dtype):
        raise OptionError(f"{where}: {shape[2]} is not a torch dtype")
    size = [int(n) for n in shape[1].split("x")]
    if torch_dtype.is_floating_point or torch_dtype.is_complex:
        return torch.randn(size, dtype=torch_dtype, generator=generator)
    if index_limit is None:
        return torch.ones(size, dtype=torch_dtype)
    highest = 2 if torch_dtype == torch.bool else min(index_limit, torch.iinfo(torch_dtype).max)
    return torch.randint(0, highest, size, dtype=torch_dtype, generator=generator)


def _read(spec: str, where: str, shapes: bool) -> Any:
    path = Path(spec)
    if not os.path.isfile(spec):  # False also for a name that is too long or contains a zero byte
        raise OptionError(f"{where}: {'neither a shape such as 1x3x224x224 nor' if shapes else 'not'} a file")
    if path.suffix == ".npy":
        return torch.from_numpy(_array(path, where))
    if path.suffix in PICKLED:
        value = pt_file.read(path)
        if not is_small(value):
            raise T7LimitError("its lists and dicts share values too often", source=where)
        return value
    return to_value(read_t7(path))


def _array(path: Path, where: str) -> np.ndarray:
    try:
        with open_input(path) as file:
            header = ArrayHeader(file)
            if header.nbytes > file_status(path).st_size:
                raise T7FormatError(f"the file is truncated: it has fewer bytes than an array of shape {header.shape}")
            return header.elements(file)
    except T7FormatError as error:
        raise T7FormatError(f"{error}; write the file with numpy.save", source=where) from error
