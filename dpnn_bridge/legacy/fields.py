"""Convert fields between Torch7 and PyTorch 0.4's ``torch.legacy.nn``: names, indices from 0, sizes.

``read_lua_file.py`` in PyTorch 0.4 contains the same tables. Does not import PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dpnn_bridge.objects import LuaStorage, LuaTable, LuaTensor, elements


class Change(NamedTuple):
    """Two functions that convert the value of a field, or each value in it. They are not called for None.

    Attributes:
        levels: levels of tables, lists and tensors whose content is converted instead of themselves. A tensor contains
            its storage, so a tensor that repeats elements still repeats them.
    """

    to_legacy: Callable[[Any], Any]
    to_lua: Callable[[Any], Any]
    levels: int = 0


def _shifted(value: Any, by: int) -> Any:
    if isinstance(value, LuaStorage):
        return LuaStorage(value.class_name, value.size, elements(value) + value.dtype.type(by))
    return value + by


def size_storage(sizes: Any) -> LuaStorage:
    """Return the sizes as a ``torch.LongStorage``, in which Torch7 stores them."""
    array = np.fromiter((int(n) for n in sizes), np.int64)
    return LuaStorage("torch.LongStorage", array.size, array)


#: an index or a table of indices: from 1 in Lua, from 0 in Python
INDEX = Change(lambda v: _shifted(v, -1), lambda v: _shifted(v, 1), levels=3)
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


class FieldConverter:
    """Converter of the fields of all objects of a file.

    Each value whose form changes is converted once. Objects that share the value share the result, because a small file
    can refer to a long list or string from many objects.
    """

    def __init__(self) -> None:
        self._done: dict[tuple[Any, int, int], tuple[Any, Any]] = {}

    def once(self, function: Callable[[Any], Any], value: Any, levels: int = 0) -> Any:
        """Return ``function(value)``, or the result of an earlier call for the same object.

        Args:
            function: the conversion.
            value: the value. It is kept, so that no later object has its ``id``.
            levels: see :class:`Change`.
        """
        if isinstance(value, (int, float)):
            return function(value)
        key = (function, id(value), levels)
        if key not in self._done:
            self._done[key] = value, self._converted(function, value, levels)
        return self._done[key][1]

    def _converted(self, function: Callable[[Any], Any], value: Any, levels: int) -> Any:
        if levels and isinstance(value, (LuaTable, list, tuple)):
            values = value.as_list() if isinstance(value, LuaTable) else value
            return [self.once(function, v, levels - 1) for v in values]
        if levels and isinstance(value, LuaTensor):
            storage = None if value.storage is None else self.once(function, value.storage)
            return LuaTensor(value.class_name, value.shape, value.stride, value.offset, storage)
        return function(value)

    def to_legacy(self, class_name: str, fields: dict[Any, Any]) -> dict[Any, Any]:
        """Convert Lua fields to the fields of an object in PyTorch 0.4.

        Args:
            class_name: name of the class in ``torch.legacy.nn``.
            fields: Lua fields with Lua values.
        """
        names, changes = RENAMED.get(class_name, {}), CHANGED.get(class_name, {})
        found = {names.get(k, k): v for k, v in fields.items()}
        for name, change in changes.items():
            if found.get(name) is not None:
                found[name] = self.once(change.to_legacy, found[name], change.levels)
        absent = {name: value for name, (value, _) in ADDED.get(class_name, {}).items()}
        return {**dict.fromkeys(NONE.get(class_name, ())), **absent, **found}

    def to_lua(self, class_name: str, fields: dict[Any, Any]) -> dict[Any, Any]:
        """Convert the fields of an object of ``torch.legacy.nn`` to Lua fields; fields that are None are omitted."""
        names, changes = {v: k for k, v in RENAMED.get(class_name, {}).items()}, CHANGED.get(class_name, {})
        found = {}
        for name, value in fields.items():
            if value is not None and name in changes:
                value = self.once(changes[name].to_lua, value, changes[name].levels)
            if value is not None:
                found[names.get(name, name)] = value
        added = {name: value for name, (_, value) in ADDED.get(class_name, {}).items()}
        return {**added, **found}
