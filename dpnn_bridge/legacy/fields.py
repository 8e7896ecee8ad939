"""Convert fields between Torch7 and PyTorch 0.4's ``torch.legacy.nn``: names, indices from 0, sizes.

``read_lua_file.py`` in PyTorch 0.4 contains the same tables. Does not import PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dpnn_bridge.objects import LuaStorage, LuaTable, LuaTensor


class Change(NamedTuple):
    """Two functions that convert the value of a field. They are not called for None."""

    to_legacy: Callable[[Any], Any]
    to_lua: Callable[[Any], Any]


def _shifted(value: Any, by: int, depth: int = 2) -> Any:
    if depth and isinstance(value, (LuaTable, list, tuple)):  # deeper tables could share parts exponentially often
        return [_shifted(v, by, depth - 1) for v in (value.as_list() if isinstance(value, LuaTable) else value)]
    if isinstance(value, LuaTensor):
        return LuaTensor.from_numpy(value.numpy() + value.dtype.type(by), value.class_name)
    return value + by


def size_storage(sizes: Any) -> LuaStorage:
    """Return the sizes as a ``torch.LongStorage``, in which Torch7 stores them."""
    array = np.array([int(n) for n in sizes], np.int64)
    return LuaStorage("torch.LongStorage", array.size, array)


#: an index or a table of indices: from 1 in Lua, from 0 in Python
INDEX = Change(lambda v: _shifted(v, -1), lambda v: _shifted(v, 1))
#: a dimension or an index that is negative if it is counted from the end
SIGNED_INDEX = Change(lambda v: v - 1 if v > 0 else v, lambda v: v + 1 if v >= 0 else v)
#: the ignored target: an index, or -100, which ignores no target in both
IGNORED_TARGET = Change(lambda v: v - (v != -100), lambda v: v + (v != -100))
#: sizes: a ``torch.LongStorage`` in Lua, a tuple in Python
SIZE = Change(
    lambda v: tuple(v.numpy().tolist()) if isinstance(v, LuaStorage) else v,
    lambda v: v if isinstance(v, LuaStorage) else size_storage(v),
)

#: an optional number of dimensions: nil in Lua, 0 in Python
OPTIONAL = Change(lambda v: v, lambda v: v or None)

#: class -> Lua field -> field of ``torch.legacy.nn``
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
#: class -> field of ``torch.legacy.nn`` -> conversion of its value
CHANGED: dict[str, dict[str, Change]] = {
    "ClassNLLCriterion": {"ignore_index": IGNORED_TARGET},
    "Concat": {"dimension": SIGNED_INDEX},
    "DepthConcat": {"dimension": SIGNED_INDEX, "outputSize": SIZE},
    "Index": {"dimension": SIGNED_INDEX},
    "JoinTable": {"dimension": SIGNED_INDEX},
    "LookupTable": {"paddingValue": INDEX},
    "Max": {"dimension": SIGNED_INDEX},
    "Mean": {"dimension": SIGNED_INDEX},
    "Min": {"dimension": SIGNED_INDEX},
    "MixtureTable": {"dim": SIGNED_INDEX, "size": SIZE},
    "Narrow": {"dimension": SIGNED_INDEX, "index": SIGNED_INDEX},
    "NarrowTable": {"offset": SIGNED_INDEX},
    "Padding": {"dim": SIGNED_INDEX, "index": SIGNED_INDEX, "nInputDim": OPTIONAL},
    "Parallel": {"inputDimension": SIGNED_INDEX, "outputDimension": SIGNED_INDEX},
    "PartialLinear": {"allcolumns": INDEX, "partition": INDEX},
    "Replicate": {"dim": SIGNED_INDEX},
    "Reshape": {"size": SIZE},
    "Select": {"dimension": SIGNED_INDEX, "index": SIGNED_INDEX},
    "SelectTable": {"index": SIGNED_INDEX},
    "SpatialClassNLLCriterion": {"ignore_index": IGNORED_TARGET},
    "SpatialConvolutionMap": {"connTable": INDEX},
    "SpatialFullConvolutionMap": {"connTable": INDEX},
    "SplitTable": {"dimension": SIGNED_INDEX},
    "Squeeze": {"dim": SIGNED_INDEX},
    "Sum": {"dimension": SIGNED_INDEX},
    "Transpose": {"permutations": INDEX},
    "Unsqueeze": {"dim": SIGNED_INDEX},
    "View": {"size": SIZE},
}
#: class -> fields that are None if they are missing in the file
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
#: class -> field that ``torch.legacy.nn`` did not have -> value if the file lacks it, value in new objects
ADDED: dict[str, dict[str, tuple[Any, Any]]] = {"Dropout": {"v2": (False, True)}}
#: class -> setting that Torch7's class does not have -> the value that corresponds to Torch7's computation
_ONLY_PYTORCH: dict[str, dict[str, Any]] = {
    **{name: {"dim": None} for name in ("LogSoftMax", "SoftMax", "SoftMin")},
    "SpatialClassNLLCriterion": {"ignore_index": -100},
    "VolumetricAveragePooling": {"padT": 0, "padW": 0, "padH": 0, "ceil_mode": False, "count_include_pad": True},
}


def only_pytorch(class_name: str, fields: dict[Any, Any]) -> bool:
    """Return whether an object has a setting that Torch7's class of the same name does not support."""
    return any(fields.get(name, value) != value for name, value in _ONLY_PYTORCH.get(class_name, {}).items())


def to_legacy(class_name: str, fields: dict[Any, Any]) -> dict[Any, Any]:
    """Convert Lua fields to the fields of an object in PyTorch 0.4.

    Args:
        class_name: name of the class in ``torch.legacy.nn``.
        fields: Lua fields with Lua values.
    """
    names, changes = RENAMED.get(class_name, {}), CHANGED.get(class_name, {})
    found = {names.get(k, k): v for k, v in fields.items()}
    for name, change in changes.items():
        if found.get(name) is not None:
            found[name] = change.to_legacy(found[name])
    absent = {name: value for name, (value, _) in ADDED.get(class_name, {}).items()}
    return {**dict.fromkeys(NONE.get(class_name, ())), **absent, **found}


def to_lua(class_name: str, fields: dict[Any, Any]) -> dict[Any, Any]:
    """Convert the fields of an object of ``torch.legacy.nn`` to Lua fields; fields that are None are omitted."""
    names, changes = {v: k for k, v in RENAMED.get(class_name, {}).items()}, CHANGED.get(class_name, {})
    present = {k: v for k, v in fields.items() if v is not None}
    found = {names.get(k, k): changes[k].to_lua(v) if k in changes else v for k, v in present.items()}
    added = {name: value for name, (_, value) in ADDED.get(class_name, {}).items()}
    return {**added, **{k: v for k, v in found.items() if v is not None}}
