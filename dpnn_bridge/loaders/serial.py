"""Convert a graph of objects to the form that dpnn's ``nn.Serial`` writes: heavy, medium or light, optionally cast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.graph import is_criterion, is_module, without_entries
from dpnn_bridge.errors import OptionError
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor, element_dtype, elements

Mode = Literal["heavy", "medium", "light"]

_MEDIUM = ("output", "gradInput", "momGradParams", "dpnn_input")
_LIGHT = ("gradWeight", "gradBias")
_BATCH_NORMALIZATION = ("buffer", "buffer2", "centered", "std", "normalized", "output", "gradInput")
_CONVOLUTION = (
    "finput",
    "fgradinput",
    "_input",
    "_gradOutput",
)  # dpnn misspells fgradInput
_NCE = ("sampleidx", "sampleprob", "_noiseidx", "_noiseprob", "_weight", "_gradWeight", "_gradOutput", "_tgradOutput")
#: class -> fields that medium and light mode empty in addition to ``_MEDIUM`` (``dpnn_mediumEmpty`` of the class, which
#: subclasses inherit)
_EMPTIED = {
    **dict.fromkeys(
        ("nn.BatchNormalization", "nn.SpatialBatchNormalization", "nn.VolumetricBatchNormalization"),
        _BATCH_NORMALIZATION,
    ),
    **dict.fromkeys(
        (
            "nn.SpatialConvolution",
            "nn.SpatialConvolutionMM",
            "nn.SpatialDilatedConvolution",
            "nn.SpatialBinaryConvolution",
            "cudnn.SpatialConvolution",
        ),
        _CONVOLUTION,
    ),
    "nn.SpatialMaxPooling": ("indices",),
    "nn.SpatialDilatedMaxPooling": ("indices",),
    "nn.NCEModule": _NCE,
}

_EUCLIDEAN = ("_input", "_output", "_gradOutput", "_weight", "_div", "_sum", "_expand", "_expand2", "_expand3")
#: class -> fields that its ``type`` method empties instead of casting them
_EMPTIED_BY_CAST = {
    **dict.fromkeys(
        (
            "nn.SpatialBinaryConvolution",
            "nn.SpatialConvolution",
            "nn.SpatialConvolutionLocal",
            "nn.SpatialConvolutionMM",
            "nn.SpatialDepthWiseConvolution",
            "nn.SpatialDilatedConvolution",
            "nn.SpatialFullConvolution",
            "nn.TemporalRowConvolution",
            "nn.VolumetricConvolution",
            "nn.VolumetricDilatedConvolution",
            "nn.VolumetricFullConvolution",
        ),
        ("finput", "fgradInput"),
    ),
    "nn.CAdd": ("_gradBias", "_expand", "_output", "_bias", "_repeat", "output", "gradInput"),
    "nn.CMul": (
        *("_input", "_output", "_weight", "_gradWeight", "_expand", "_repeat", "_sum"),
        *("output", "gradInput"),
    ),
    "nn.CosineEmbeddingCriterion": ("_idx",),
    "nn.Euclidean": (*_EUCLIDEAN, "_repeat", "_repeat2", "output", "gradInput"),
    "nn.FlattenTable": ("input_map", "output", "gradInput"),
    **dict.fromkeys(("nn.LookupTable", "nn.LookupTableMaskZero"), ("_count", "_input")),
}
#: class -> fields that its ``type`` method replaces by an empty table
_TABLES_BY_CAST = {
    **dict.fromkeys(("nn.JoinTable", "nn.ParallelCriterion"), ("gradInput",)),
    **dict.fromkeys(("nn.NarrowTable", "nn.SelectTable"), ("output", "gradInput")),
}
_MASKS = ("zeroMask", "_zeroMask", "_maskbyte", "_maskindices")
#: class -> fields that its ``type`` method removes
_REMOVED_BY_CAST = {
    **dict.fromkeys(("nn.Max", "nn.Min", "nn.Normalize"), ("_indices",)),
    **dict.fromkeys(("nn.MaskZero", "nn.SeqGRU", "nn.SeqLSTM", "nn.TrimZero"), _MASKS),
    "nn.BinaryClassReward": ("_binary", "_target"),
    "nn.BinaryLogisticRegression": ("_baseExponents", "_coeff", "_logCoeff"),
    "nn.Convert": ("_input", "_gradInput", "__input", "__output", "__gradInput", "__gradOutput"),
    "nn.Cosine": ("_input", "_weight", "_inputNorm", "_weightNorm", "_gradOutput", "_sum"),
    "nn.DistanceRatioCriterion": (
        *("_expMinusX", "_expMinusY", "_sumExpMinusXY", "_logSumExpMinusXY"),
        *("loss", "dX", "dY"),
    ),
    "nn.Kmeans": (
        *("_expandedSamples", "_clusterDistances", "_temp", "_tempExpanded", "_tempWeight", "_tempWeightExp"),
        *("_expandedWeight", "_minScore", "_minIndx", "_cscAdder"),
    ),
    "nn.LookupTableMaskZero": ("__input",),
    "nn.MaskZeroCriterion": ("zeroMask", "_zeroMask", "__zeroMask", "input", "target", "_gradInput"),
    "nn.MixtureTable": ("_gaterView", "_expert", "_expertView", "_sum", "_expert2", "_expertView2"),
    "nn.NCEModule": (*_NCE, "_metaidx"),
    "nn.OneHot": ("_single", "_input"),
    "nn.PCAColorTransform": (
        *("noise", "alphas", "_tempLambda", "_tempLambdaExpanded"),
        *("_tempNoise", "_tempNoiseExpanded"),
    ),
    "nn.RecurrentAttention": ("_input", "_actions", "_crop", "_pad", "_byte"),
    "nn.ReinforceCategorical": ("_index",),
    "nn.ReinforceGamma": ("_logOutput", "_logScale"),
    "nn.SeqReverseSequence": ("outputIndices", "gradIndices"),
    "nn.SimpleColorTransform": ("noise", "_tempNoise", "_tempNoiseExpanded", "_tempNoiseSamples"),
    "nn.SoftMaxTree": (
        *("_nodeUpdateHost", "_nodeUpdateCuda", "_paramUpdateHost", "_paramUpdateCuda"),
        *("parentChildrenCuda", "childParentCuda", "_gradOutput"),
    ),
    "nn.SpatialBinaryConvolution": (
        *("tempWeight", "alphas", "gradInputAlphas", "wmask"),
        *("_tempAlphas", "_tempAlphasExpanded", "_tempAlphasSamples"),
        *("_tempGradAlphas", "_tempGradAlphasExpanded", "_tempGradAlphasSamples"),
    ),
    "nn.SpatialUniformCrop": ("coord",),
    "nn.VRClassReward": ("_maxVal", "_maxIdx", "__maxIdx", "_target"),
    "nn.WeightedEuclidean": (*_EUCLIDEAN, "_expand4", "_repeat", "_repeat2", "_repeat3"),
}
#: class -> fields that its ``type`` method does not change; ``_type`` is the tensor type of the module itself
_KEPT_BY_CAST = {
    "nn.ArgMax": ("_indices",),
    "nn.BinaryClassReward": ("module",),
    "nn.DontCast": ("modules", "module", "_input", "_gradOutput", "_type"),
    "nn.FlattenTable": ("_type", "output", "gradInput"),
    "nn.CosineEmbeddingCriterion": ("_idx",),
    "nn.MaskedSelect": ("_maskIndexBuffer", "_maskIndices", "_gradMask"),
    "nn.NCEModule": ("unigrams", "aliasmultinomial"),
    "nn.PullTable": ("_push",),
    "nn.PushTable": ("_pulls",),
    "nn.SoftMaxTree": ("hierarchy", "parentChildren", "childParent", "_gradTarget", "childIds", "parentIds"),
    **dict.fromkeys(("nn.LookupTable", "nn.LookupTableMaskZero"), ("_count", "_input")),
    "nn.VRClassReward": ("module",),
}


@checks_arguments
def serial_form(module: LuaObject, mode: Mode | None = None, tensor_type: str | None = None) -> LuaObject:
    """Return the object that Torch7 writes for ``nn.Serial(module, tensor_type)`` after ``heavySerial()`` or similar.

    Shared values stay shared. ``module`` is not changed.

    Args:
        module: an ``nn.Serial``, or a module to wrap in an ``nn.Serial``.
        mode: ``"heavy"`` keeps all fields; ``"medium"`` empties outputs and buffers, for further training; ``"light"``
            also empties gradients, for inference. None: the field ``dpnn_serialEmpty`` of each object decides.
        tensor_type: type that all tensors are cast to, such as ``"torch.FloatTensor"``; None: the type of the
            ``nn.Serial``.

    Returns:
        An ``nn.Serial`` for :func:`write_t7`.

    Raises:
        OptionError: ``mode`` or ``tensor_type`` is invalid.

    Examples:
        >>> write_t7("light.t7", serial_form(model, "light", "torch.FloatTensor"))
    """
    if tensor_type is not None and (element_dtype(tensor_type) is None or not tensor_type.endswith("Tensor")):
        raise OptionError(f"tensor_type: expected a tensor type such as 'torch.FloatTensor', found {tensor_type!r}")
    if module.class_name != "nn.Serial":
        module = _decorate(module)
    copier = _Copier(mode)
    serial = copier.copy(module, tensor_type or module.get("tensortype"))
    copier.finish()
    if tensor_type is not None:
        serial["tensortype"] = tensor_type
    return serial


def _decorate(module: LuaObject) -> LuaObject:
    tensor_class = module.get("_type") or "torch.DoubleTensor"
    fields = LuaTable({"module": module, "modules": LuaTable.from_list([module]), "_type": tensor_class})
    fields.update({name: LuaTensor.empty(tensor_class) for name in ("output", "gradInput")})
    fields["train"] = module.get("train", True)
    return LuaObject("nn.Serial", fields)


def _is_module(obj: LuaObject) -> bool:
    return is_module(obj) and not is_criterion(obj.class_name)


class _Copier:
    """Copier of a graph. Each object is copied once per tensor type."""

    def __init__(self, mode: Mode | None) -> None:
        self.mode = mode
        self.lists: dict[tuple[str, ...], LuaTable] = {}
        self.copies: dict[tuple[int, str | None], Any] = {}
        self.pending: list[Callable[[], None]] = []

    def finish(self) -> None:
        """Fill the copies, without recursion, because a graph may be deep."""
        while self.pending:
            self.pending.pop()()

    def copy(self, value: Any, cast: str | None) -> Any:
        """Return a copy of a value with tensors of type ``cast``; :meth:`finish` fills tables and objects."""
        if isinstance(value, LuaObject) and value.class_name == "nn.Serial" and value.get("tensortype"):
            cast = cast if not self.copies else value["tensortype"]  # an inner nn.Serial has its own type
        key = id(value), cast
        if isinstance(value, LuaStorage):  # a storage in a field is not cast
            return value
        if key in self.copies:
            return self.copies[key]
        if isinstance(value, LuaTable):
            copy: Any = LuaTable()
            self.pending.append(lambda: self.fill_table(copy, value, cast))
        elif isinstance(value, LuaObject) and isinstance(value.payload, LuaTable):
            copy = without_entries(value)
            self.pending.append(lambda: self.fill(copy, value, cast))
        elif isinstance(value, LuaTensor) and cast is not None and value.class_name != cast:
            storage = value.storage and self.storage(value.storage, cast)
            copy = LuaTensor(cast, value.shape, value.stride, value.offset, storage)
        else:
            return value
        self.copies[key] = copy
        return copy

    def storage(self, storage: LuaStorage, cast: str) -> LuaStorage:
        """Return the storage of a tensor, cast to the type of its class."""
        key = id(storage), cast
        if key not in self.copies:
            dtype = element_dtype(cast)
            name = cast.replace("Tensor", "Storage")
            self.copies[key] = LuaStorage(name, storage.size, lambda: elements(storage).astype(dtype))
        return self.copies[key]

    def fill_table(self, copy: LuaTable, table: LuaTable, cast: str | None) -> None:
        """Set the entries of the copy of a table, whose keys may be tables too, as in nngraph's ``mapindex``."""
        copy.update({self.copy(k, cast): self.copy(v, cast) for k, v in table.items()})

    def fill(self, copy: LuaObject, obj: LuaObject, cast: str | None) -> None:
        """Set the fields of the copy of an object."""
        name = obj.class_name
        emptied = self.emptied(copy, obj) if _is_module(obj) else ()
        removed = _REMOVED_BY_CAST.get(name, ()) if cast else ()
        if name == "nn.GPU" and cast and "Cuda" not in cast:
            removed = ("output", "gradInput", "_input", "_gradOutput")
        kept = _KEPT_BY_CAST.get(name, ()) if cast else ()
        if cast and name == "nn.Copy" and obj.get("dontCast"):
            kept = tuple(k for k in obj if isinstance(k, str))
        for key, value in obj.items():
            if key in removed or key == "dpnn_serialEmpty":
                continue
            field_cast = None if key in kept else cast
            if cast and key in _TABLES_BY_CAST.get(name, ()):
                copy[key] = LuaTable()
            elif key in emptied or (cast and key in _EMPTIED_BY_CAST.get(name, ())):
                copy[key] = _emptied(value, field_cast)
            else:
                copy[self.copy(key, cast)] = self.copy(value, field_cast)
        if cast and (_is_module(obj) or "_type" in obj) and "_type" not in kept:
            copy["_type"] = cast
        if cast and name == "nn.ArgMax" and obj.get("asLong"):
            copy["output"] = LuaTensor.empty("torch.LongTensor")
        if cast and name == "nn.GPU" and obj.header:
            copy.header = (LuaTable({**obj.header[0], 1: cast}),)
        if _is_module(obj):
            copy["dpnn_typename"] = name

    def emptied(self, copy: LuaObject, obj: LuaObject) -> tuple[str, ...]:
        """Return the names of the fields to empty, and store them in a field of the copy, as Torch7 does."""
        if self.mode is None:
            table = obj.get("dpnn_serialEmpty")
            if not isinstance(table, LuaTable):
                return ()
            copy["dpnn_serialEmpty"] = self.copy(table, None)
            return tuple(table.values())
        names: tuple[str, ...] = ()
        if self.mode != "heavy":
            own = obj.get("dpnn_mediumEmpty")  # nn.Sequencer stores its names in the object
            names = tuple(own.values()) if isinstance(own, LuaTable) else (*_MEDIUM, *_EMPTIED.get(obj.class_name, ()))
        if self.mode == "light":
            names += _LIGHT
            copy["dpnn_serialEmpty"] = LuaTable.from_list(names)
        else:  # one table for all modules of a class
            copy["dpnn_serialEmpty"] = self.lists.setdefault(names, LuaTable.from_list(names))
        return names


def _emptied(value: Any, cast: str | None) -> Any:
    if isinstance(value, LuaTensor):
        return LuaTensor.empty(cast or value.class_name)
    return LuaTable() if isinstance(value, LuaTable) else value
