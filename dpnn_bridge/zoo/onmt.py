"""Layers of OpenNMT (``onmt.*``). Encoders and decoders are in :mod:`dpnn_bridge.zoo.onmt_model`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.lua_class import LuaClass, ParameterSite, empty_sizes, empty_table
from dpnn_bridge.conversion.lua_values import fresh
from dpnn_bridge.conversion.memory import decorated_memory
from dpnn_bridge.conversion.noise import noise_of
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.modules.nn.run_buffers import RunBuffers
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

#: OpenNMT's name of the softmax in an attention layer
ATTENTION = "softmaxAttn"


@lua_class(
    "onmt.Network",
    "onmt.LSTM",
    "onmt.GRU",
    "onmt.GlobalAttention",
    "onmt.NoAttention",
    "onmt.FeaturesEmbedding",
    "onmt.Bridge",
)
class Network(nn.Sequential):
    """Container of one network, usually a graph.

    Args:
        *modules: the network, or no argument.

    Shape:
        - Input, output: as for the network; an empty container returns None.

    Lua:
        ``onmt.Network(net)``, OpenNMT onmt/modules/Network.lua, and the classes derived from it
    """

    def forward(self, input: Any) -> Any:  # type: ignore[override]
        return self[0](input) if len(self) else None

    class Lua(LuaClass):
        """The fields ``net`` and ``modules[1]`` are the same object."""

        output_memory = decorated_memory
        computed_fields = ("net",)
        container = True

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade old files, which lack the table of modules."""
            if "modules" in obj or "net" not in obj:
                return obj
            return obj.changed(modules=LuaTable.from_list([obj["net"]]))

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            return {**fields, "net": fields["modules"][1]} if len(fields["modules"]) else fields


@lua_class("onmt.MaskedSoftmax")
class MaskedSoftmax(Network.Lua):
    """A softmax that gives no weight to the padding of one batch.

    A saved decoder contains the mask of its last batch, which is dropped on import:
    :class:`~dpnn_bridge.zoo.onmt_model.Decoder` masks the padding of every batch.
    """

    torch_type = Network
    import_only = True

    @classmethod
    def upgrade(cls, obj: LuaObject) -> LuaObject:
        """Replace the masked softmax in a decoder by ``nn.SoftMax``, as OpenNMT's ``Decoder.load`` does."""
        if obj.get("name") != ATTENTION:
            return super().upgrade(obj)
        softmax = fresh("nn.SoftMax", obj["_type"])
        return obj.changed(net=softmax, modules=LuaTable.from_list([softmax]))


@lua_class("onmt.Generator", "onmt.FeaturesGenerator")
class Generator(Network):
    """Log probabilities of the words, and of the word features if there are any.

    Args:
        *modules: one network that returns a list: log probabilities of the words, then of each feature.

    Shape:
        - Input: :math:`(N, H)`, or a list whose first entry is used.
        - Output: list of :math:`(N, V_i)`.

    Lua:
        ``onmt.Generator(opt, sizes)``, OpenNMT onmt/modules/Generator.lua
    """

    def forward(self, input: Any) -> Any:
        return super().forward(input[0] if isinstance(input, (list, tuple)) else input)

    class Lua(Network.Lua):
        computed_fields = ("version",)

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade to version 2, whose network returns a table, as OpenNMT's ``Generator.load`` does.

            Earlier files have one softmax, or a generator of the words inside the generator of the features.
            """
            obj = super().upgrade(obj)
            if obj.get("version") is not None:
                return obj
            net = obj["net"]
            branches = net["modules"].as_list() if net.class_name == "nn.ConcatTable" else [net]
            words = (branches[0].get("modules") or {}).get(1)
            if isinstance(words, LuaObject) and words.class_name == "onmt.Generator":
                branches[0] = words["net"]
            modules = LuaTable.from_list(branches)
            net = LuaObject("nn.ConcatTable", LuaTable({"_type": obj.get("_type"), "modules": modules}))
            return obj.changed(net=net, modules=LuaTable.from_list([net]), version=2)

        @classmethod
        def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            several = "net" in fields and fields["net"].class_name == "nn.ConcatTable"
            return {**fields, "version": 2} if several else fields


@lua_class("onmt.WordEmbedding")
class WordEmbedding(Network):
    """Word vectors, of which all or the first columns may be excluded from training.

    Args:
        *modules: the look-up table.
        fix: columns that are not trained: False for none, True for all, ``"pretrained"`` for the first columns.
        fixed_columns: number of columns for ``"pretrained"``; None for all.

    Shape:
        - Input: indices :math:`(*)`.
        - Output: :math:`(*, D)`.

    Lua:
        ``onmt.WordEmbedding(vocabSize, vecSize, preTrained, fix)``, OpenNMT onmt/modules/WordEmbedding.lua
    """

    def __init__(self, *modules: nn.Module, fix: bool | str = False, fixed_columns: int | None = None) -> None:
        super().__init__(*modules)
        self.fix, self.fixed_columns = fix, fixed_columns
        if self.all_fixed:
            self.requires_grad_(False)

    @property
    def all_fixed(self) -> bool:
        """Whether no column is trained."""
        if not self.fix:
            return False
        return self.fix != "pretrained" or self.fixed_columns in (None, next(self.parameters()).shape[1])

    def forward(self, input: Tensor) -> Tensor:
        vectors = super().forward(input)
        if self.all_fixed or not self.fix:
            return vectors
        return torch.cat([vectors[..., : self.fixed_columns].detach(), vectors[..., self.fixed_columns :]], -1)

    class Lua(Network.Lua):
        scalars = {"fix": "fix", "preTrainedVecSize": "fixed_columns"}
        defaults = {"fix": False, "preTrainedVecSize": None}

        @classmethod
        def upgrade(cls, obj: LuaObject) -> LuaObject:
            """Upgrade files of March to May 2017: the vectors are fixed if the look-up table has no gradient."""
            obj = super().upgrade(obj)
            return obj if "fix" in obj or "gradWeight" in obj["modules"][1] else obj.changed(fix=True)

        @classmethod
        def parameters(
            cls, module: WordEmbedding, inner: Callable[[nn.Module], Iterator[ParameterSite]]
        ) -> Iterator[ParameterSite]:
            return iter(()) if module.all_fixed else super().parameters(module, inner)


@lua_class("onmt.PositionEmbedding")
class PositionEmbedding(nn.Module):
    """Embedding of the positions in sequences that are padded on the left.

    Args:
        max_position: last position with its own vector; later positions use this vector too.
        size: length D of the vectors.

    Shape:
        - Input: ``[x, lengths]``, :math:`(N, T, *)` and :math:`(N)`.
        - Output: :math:`(N, T, D)`.

    Attributes:
        weight: :math:`(max\\_position + 1, D)`; the first row is for padding and is not trained.

    Lua:
        ``onmt.PositionEmbedding(dimension, nIndex, nOutput)``, OpenNMT onmt/modules/PositionEmbedding.lua
    """

    def __init__(self, max_position: int, size: int, device: Any = None) -> None:
        super().__init__()
        self.max_position = max_position
        self.weight = nn.Parameter(torch.randn(max_position + 1, size, device=device))

    def forward(self, input: list[Tensor]) -> Tensor:
        x, lengths = input
        T = x.shape[1]
        position = torch.arange(T, device=x.device) - (T - lengths.to(x.device).long()[:, None]) + 1
        return F.embedding(position.clamp(0, self.max_position), self.weight, padding_idx=0)

    def extra_repr(self) -> str:
        return f"{self.max_position}, {self.weight.shape[1]}"

    class Lua(LuaClass):
        scalars = {"max_pos": "max_position"}
        tensors = ("weight",)
        sizes = {"weight": (None, "size")}
        scratch = ("input",)
        constants = {"dimension": 2, "input": LuaTensor.empty}


@lua_class("onmt.VariationalDropout")
class VariationalDropout(RunBuffers):
    """Dropout that uses the same mask until :meth:`reset_mask` is called.

    Args:
        p: probability that an element is set to 0.

    Shape:
        - Input, output: :math:`(*)`.

    Attributes:
        mask: factors of the elements, a buffer, or None before the first step.

    Lua:
        ``onmt.VariationalDropout(p)``, OpenNMT onmt/modules/VariationalDropout.lua
    """

    mask: Tensor | None

    run_buffers = ("mask",)

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p
        self.register_buffer("mask", None)

    def forward(self, input: Tensor) -> Tensor:
        if self.p <= 0 or not self.training:
            return input
        if self.mask is None:
            self.mask = torch.empty_like(input).bernoulli_(1 - self.p) / (1 - self.p)
        return input * self.mask

    def reset_mask(self) -> None:
        """Discard the mask. Call this method before every sequence."""
        self.mask = None

    class Lua(LuaClass):
        """The field ``sharedNoise`` is the mask if ``noiseInit[1]`` is 1."""

        computed_fields = ("noiseInit",)
        scalars = ("p",)
        scratch = ("sharedNoise",)

        @classmethod
        def fill(cls, module: VariationalDropout, obj: LuaObject, ctx: TorchContext) -> None:
            drawn, mask = obj.get("noiseInit"), obj.get("sharedNoise")
            if isinstance(drawn, LuaTensor) and drawn.size and drawn.numpy()[0] and isinstance(mask, LuaTensor):
                module.mask = mask.torch().clone()

        @classmethod
        def to_lua(cls, module: VariationalDropout, ctx: LuaContext) -> dict[str, Any]:
            drawn = torch.tensor([0.0 if module.mask is None else 1.0])
            noise = torch.zeros(1, 1) if module.mask is None else module.mask
            buffers = {"noiseInit": drawn, "sharedNoise": noise}
            typed = {name: ctx.typed_constant(tensor, module) for name, tensor in buffers.items()}
            return {**super().to_lua(module, ctx), **typed}

        @classmethod
        def replay(cls, module: VariationalDropout, after: LuaObject) -> Callable[..., Any] | None:
            if module.p <= 0 or not module.training:
                return None

            def forward(input: Tensor) -> Tensor:
                module.mask = noise_of(after, "sharedNoise", input)
                return input * module.mask

            return forward


def reset_masks(module: nn.Module) -> None:
    """Make every :class:`VariationalDropout` in ``module`` draw a new mask at its next step."""
    for child in module.modules():
        if isinstance(child, VariationalDropout):
            child.reset_mask()


@lua_class("onmt.JoinReplicateTable")
class JoinReplicateTable(nn.Module):
    """Repeats tensors of size 1 along one dimension, and concatenates all tensors along another dimension.

    Args:
        dimension_replicate: dimension along which tensors of size 1 are repeated, counted from 1, or backwards from -1.
        dimension_join: dimension along which the tensors are concatenated.
        n_input_dims: number of dimensions of one sample. If the input has one more, both dimensions are counted after
            the batch dimension. None: there is no batch dimension.

    Shape:
        - Input: list of tensors.
        - Output: the concatenated tensor.

    Differs from Torch7:
        The gradient of every repeated tensor is summed over the copies. Torch7 does not sum it if the tensor before it
        in the list is not repeated.

    Lua:
        ``onmt.JoinReplicateTable(dimensionReplicate, dimensionJoin, nInputDims)``, OpenNMT
        onmt/modules/JoinReplicateTable.lua
    """

    def __init__(self, dimension_replicate: int, dimension_join: int, n_input_dims: int | None = None) -> None:
        super().__init__()
        self.dimension_replicate, self.dimension_join = dimension_replicate, dimension_join
        self.n_input_dims = n_input_dims

    def forward(self, input: list[Tensor]) -> Tensor:
        dims = input[0].dim()
        moved = self.n_input_dims is not None and dims == self.n_input_dims + 1
        replicate, join = (
            d + dims if d < 0 else d - 1 + moved for d in (self.dimension_replicate, self.dimension_join)
        )
        size = max(x.shape[replicate] for x in input)
        return torch.cat([x.expand(*x.shape[:replicate], size, *x.shape[replicate + 1 :]) for x in input], join)

    class Lua(LuaClass):
        scalars = {
            "dimensionReplicate": "dimension_replicate",
            "dimensionJoin": "dimension_join",
            "nInputDims": "n_input_dims",
        }
        defaults = {"nInputDims": None}
        scratch = ("size",)
        constants = {"size": empty_sizes, "gradInput": empty_table}
