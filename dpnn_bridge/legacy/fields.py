"""List where the fields of PyTorch 0.4's ``torch.legacy.nn`` differ from Torch7: names, indices from 0, sizes.

The tables follow the patches of ``read_lua_file.py`` in PyTorch 0.4, and are used in both directions. Does not import
PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dpnn_bridge.objects import LuaStorage, LuaTable, LuaTensor


class Change(NamedTuple):
    """A conversion of a field's value. Each function takes a value that is not None, the first one a Lua value."""

    to_legacy: Callable[[Any], Any]
    to_lua: Callable[[Any], Any]


def _shifted(value: Any, by: int, depth: int = 2) -> Any:
    if depth and isinstance(value, (LuaTable, list, tuple)):  # deeper tables could share parts exponentially often
        return [_shifted(v, by, depth - 1) for v in (value.as_list() if isinstance(value, LuaTable) else value)]
    if isinstance(value, LuaTensor):
        return LuaTensor.from_numpy(value.numpy() + value.dtype.type(by), value.class_name)
    return value + by


def size_storage(sizes: Any) -> LuaStorage:
    """Return the sizes as Torch7 keeps them, in a ``torch.LongStorage``."""
    array = np.array([int(n) for n in sizes], np.int64)
    return LuaStorage("torch.LongStorage", array.size, array)


#: an index from 0 for one from 1
INDEX = Change(lambda v: _shifted(v, -1), lambda v: _shifted(v, 1))
#: a dimension or place that may count from the end
PLACE = Change(lambda v: v - 1 if v > 0 else v, lambda v: v + 1 if v >= 0 else v)
#: sizes: a tuple for a ``torch.LongStorage``
SIZE = Change(
    lambda v: tuple(v.numpy().tolist()) if isinstance(v, LuaStorage) else v,
    lambda v: v if isinstance(v, LuaStorage) else size_storage(v),
)

#: 0 for a number of dimensions that was not given
OPTIONAL = Change(lambda v: v, lambda v: v or None)

#: class -> Lua field -> field
RENAMED: dict[str, dict[str, str]] = {
    "ClassNLLCriterion": {"ignoreIndex": "ignore_index"},
    "GradientReversal": {"lambda": "lambd"},
    "HardShrink": {"lambda": "lambd"},
    "ReLU": {"val": "value"},
    "SoftShrink": {"lambda": "lambd"},
    "SpatialAdaptiveMaxPooling": {"H": "h", "W": "w"},
    "SpatialClassNLLCriterion": {"ignoreIndex": "ignore_index"},
    "Threshold": {"val": "value"},
    "Unsqueeze": {"pos": "dim"},
}
#: class -> field of ``torch.legacy.nn`` -> how its value differs
CHANGED: dict[str, dict[str, Change]] = {
    "ClassNLLCriterion": {"ignore_index": PLACE},
    "Concat": {"dimension": PLACE},
    "DepthConcat": {"dimension": PLACE, "outputSize": SIZE},
    "Index": {"dimension": PLACE},
    "JoinTable": {"dimension": PLACE},
    "LookupTable": {"paddingValue": INDEX},
    "Max": {"dimension": PLACE},
    "Mean": {"dimension": PLACE},
    "Min": {"dimension": PLACE},
    "MixtureTable": {"dim": PLACE, "size": SIZE},
    "Narrow": {"dimension": PLACE, "index": PLACE},
    "NarrowTable": {"offset": PLACE},
    "Padding": {"dim": PLACE, "index": PLACE, "nInputDim": OPTIONAL},
    "Parallel": {"inputDimension": PLACE, "outputDimension": PLACE},
    "PartialLinear": {"allcolumns": INDEX, "partition": INDEX},
    "Replicate": {"dim": PLACE},
    "Reshape": {"size": SIZE},
    "Select": {"dimension": PLACE, "index": PLACE},
    "SelectTable": {"index": PLACE},
    "SpatialClassNLLCriterion": {"ignore_index": PLACE},
    "SpatialConvolutionMap": {"connTable": INDEX},
    "SpatialFullConvolutionMap": {"connTable": INDEX},
    "SplitTable": {"dimension": PLACE},
    "Squeeze": {"dim": PLACE},
    "Sum": {"dimension": PLACE},
    "Transpose": {"permutations": INDEX},
    "Unsqueeze": {"dim": PLACE},
    "View": {"size": SIZE},
}
#: class -> fields that are None if the file has none
NONE: dict[str, tuple[str, ...]] = {
    "BCECriterion": ("buffer", "weights"),
    "BatchNormalization": ("weight", "bias", "gradWeight", "gradBias", "save_mean", "save_std"),
    "CAddTable": ("inplace",),
    "ClassNLLCriterion": ("weights",),
    "Dropout": ("inplace",),
    "Linear": ("bias", "gradWeight", "gradBias", "addBuffer"),
    "LookupTable": ("maxNorm", "normType", "_gradOutput", "_sorted", "_indices"),
    "MixtureTable": ("table",),
    "MultiMarginCriterion": ("weights",),
    "ParallelCriterion": ("repeatTarget",),
    "SpatialBatchNormalization": ("weight", "bias", "gradWeight", "gradBias", "save_mean", "save_std"),
    "SpatialClassNLLCriterion": ("weights",),
    "SpatialConvolution": ("bias", "gradWeight", "gradBias", "_gradOutput", "finput", "fgradInput", "_input"),
    "SpatialCrossMapLRN": ("scale",),
    "SpatialFractionalMaxPooling": ("outW", "outH", "ratioW", "ratioH"),
    "VolumetricBatchNormalization": ("weight", "bias", "gradWeight", "gradBias"),
    "VolumetricMaxPooling": ("ceil_mode",),
    "WeightedEuclidean": ("fastBackward",),
}
#: class -> field that ``torch.legacy.nn`` had not -> its value where a file has none, and in objects without it
ADDED: dict[str, dict[str, tuple[Any, Any]]] = {"Dropout": {"v2": (False, True)}}
#: class -> setting that Torch7's class has not -> the value with which it computes
_ONLY_PYTORCH: dict[str, dict[str, Any]] = {
    **{name: {"dim": None} for name in ("LogSoftMax", "SoftMax", "SoftMin")},
    "VolumetricAveragePooling": {"padT": 0, "padW": 0, "padH": 0, "ceil_mode": False, "count_include_pad": True},
}


def only_pytorch(kind: str, fields: dict[Any, Any]) -> bool:
    """Return whether an object of a class computes what Torch7's class of this name cannot."""
    return any(fields.get(name, value) != value for name, value in _ONLY_PYTORCH.get(kind, {}).items())


def to_legacy(kind: str, fields: dict[Any, Any]) -> dict[Any, Any]:
    """Return the fields that PyTorch 0.4 gave an object of a class, from those of its file.

    Args:
        kind: the class in ``torch.legacy.nn``.
        fields: Lua fields with Lua values.
    """
    names, changes = RENAMED.get(kind, {}), CHANGED.get(kind, {})
    found = {names.get(k, k): v for k, v in fields.items()}
    for name, change in changes.items():
        if found.get(name) is not None:
            found[name] = change.to_legacy(found[name])
    absent = {name: value for name, (value, _) in ADDED.get(kind, {}).items()}
    return {**dict.fromkeys(NONE.get(kind, ())), **absent, **found}


def to_lua(kind: str, fields: dict[Any, Any]) -> dict[Any, Any]:
    """Return the Lua fields of an object of ``torch.legacy.nn``, without those that are None."""
    names, changes = {v: k for k, v in RENAMED.get(kind, {}).items()}, CHANGED.get(kind, {})
    present = {k: v for k, v in fields.items() if v is not None}
    found = {names.get(k, k): changes[k].to_lua(v) if k in changes else v for k, v in present.items()}
    added = {name: value for name, (_, value) in ADDED.get(kind, {}).items()}
    return {**added, **{k: v for k, v in found.items() if v is not None}}
