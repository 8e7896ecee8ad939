"""Noise-contrastive estimation: NCEModule, NCECriterion; and Bigrams, which samples successors of words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass, empty_tensors
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.conversion.tracing import is_traced
from dpnn_bridge.modules.nn.criterion import Criterion
from dpnn_bridge.modules.nn.indices import explains_index_base
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_gradient_of


def alias_table(probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Build Walker's alias table, which samples from K categories in constant time.

    Args:
        probabilities: probabilities of shape :math:`(K)`, with sum 1.

    Returns:
        ``(alias, keep)``, both of shape :math:`(K)`. A uniformly drawn category k is kept with probability ``keep[k]``
        and otherwise replaced by ``alias[k]``.
    """
    keep = (probabilities.double() * len(probabilities)).tolist()
    alias = list(range(len(keep)))
    smaller = [k for k, q in enumerate(keep) if q < 1]
    larger = [k for k, q in enumerate(keep) if q >= 1]
    while smaller and larger:
        small, large = smaller.pop(), larger.pop()
        alias[small] = large
        keep[large] -= 1 - keep[small]
        (smaller if keep[large] < 1 else larger).append(large)
    for k in smaller + larger:  # these differ from 1 only by rounding
        keep[k] = 1.0
    device = probabilities.device
    return torch.tensor(alias, device=device), torch.tensor(keep, dtype=torch.float64, device=device)


def draw(alias: Tensor, keep: Tensor, *shape: int) -> Tensor:
    """Draw 0-based categories from an alias table, as a tensor of shape ``shape``."""
    index = torch.randint(len(alias), shape, device=alias.device)
    kept = torch.rand(shape, dtype=keep.dtype, device=keep.device) < keep.take(index)
    return torch.where(kept, index, alias.take(index))


@lua_class("nn.NCEModule")
class NCEModule(nn.Linear):
    r"""A linear layer and softmax over many classes, trained to distinguish the target from k noise samples.

    Args:
        in_features: size of the input, :math:`D`.
        out_features: number of classes, :math:`V`.
        k: number of noise samples.
        unigrams: frequency of each class, of shape :math:`(V)`; noise is drawn from it after normalization.
        Z: normalization constant of the softmax; if 0 or negative, the first batch estimates it.
        batch_noise: all samples of a batch share their noise samples.
        normalized: return the softmax over all classes in evaluation mode.
        log_softmax: return its logarithm instead.
        index_base: index of the first class.

    Attributes:
        unigrams, alias, keep: the noise distribution and its alias table; casts do not change the dtype.
        Z: normalization constant, of shape (1).

    Shape:
        - Input: ``[input, target]`` of shapes :math:`(N, D)` and :math:`(N)`. In evaluation mode with
          ``normalized``, the target is ignored and may have another length.
        - Output: :math:`(N, V)` in evaluation mode with ``normalized``; otherwise four tensors of shapes
          :math:`(N), (N, k), (N), (N, k)`: the probabilities of targets and noise in the model, then those in the noise
          distribution.

    Lua:
        ``nn.NCEModule(inputSize, outputSize, k, unigrams, Z)``, NCEModule.lua

    References:
        Chen et al., Recurrent Neural Network Language Model Training with Noise Contrastive Estimation, 2015
    """

    unigrams: Tensor
    alias: Tensor
    keep: Tensor
    Z: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        k: int,
        unigrams: Tensor,
        Z: float = -1,
        *,
        batch_noise: bool = True,
        normalized: bool = False,
        log_softmax: bool = False,
        index_base: int = 1,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, device=device, dtype=dtype)
        self.k, self.batch_noise, self.index_base = k, batch_noise, index_base
        self.normalized, self.log_softmax = normalized, log_softmax
        unigrams = unigrams.double() / unigrams.double().sum()
        alias, keep = alias_table(unigrams)
        for name, tensor in (("unigrams", unigrams), ("alias", alias), ("keep", keep)):
            self.register_buffer(name, tensor.to(self.weight.device))
        self.register_buffer("Z", torch.full((1,), float(Z), dtype=self.weight.dtype, device=device))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.bias, -math.log(self.out_features))

    def forward(self, input: list[Tensor]) -> Tensor | list[Tensor]:  # type: ignore[override]
        x, target = input[0], input[1]
        scored = self.normalized and not self.training  # all classes, regardless of the target
        if x.dim() != 2 or target.dim() != 1 or not (scored or len(target) == len(x)):
            shapes = [tuple(x.shape), tuple(target.shape)]
            raise ValueError(f"NCEModule: expected shapes [(N, {self.in_features}), (N)], found {shapes}")
        if scored:
            scores = super().forward(x)
            return scores.log_softmax(1) if self.log_softmax else scores.softmax(1)
        noise = draw(self.alias, self.keep, *((self.k,) if self.batch_noise else (len(x), self.k)))
        return self.contrasted(x, target.long() - self.index_base, noise)

    @explains_index_base
    def contrasted(self, x: Tensor, target: Tensor, noise: Tensor) -> list[Tensor]:
        """Return the four probabilities for the given 0-based target and noise."""
        weight = F.embedding(target, self.weight)  # unlike self.weight[target], raises for negative indices
        noise_weight = F.embedding(noise, self.weight)
        scores = (x * weight).sum(1) + self.bias.take(target)
        if self.batch_noise:
            noise_scores = F.linear(x, noise_weight, self.bias.take(noise))
        else:
            noise_scores = torch.einsum("nd,nkd->nk", x, noise_weight) + self.bias.take(noise)
        p_target, p_noise = scores.exp(), noise_scores.exp()
        Z = self._normalization(p_target.detach(), p_noise.detach())
        q_target, q_noise = self.unigrams.take(target).to(x.dtype), self.unigrams.take(noise).to(x.dtype)
        return [p_target / Z, p_noise / Z, q_target, q_noise.expand_as(p_noise)]

    def _normalization(self, p_target: Tensor, p_noise: Tensor) -> Tensor:
        """Return the normalization constant; estimate and store it on the first batch."""
        mean = p_noise.mean() if self.batch_noise else torch.cat([p_target[:, None], p_noise], 1).mean()
        Z = torch.where(self.Z > 0, self.Z, mean * self.out_features)
        if not is_traced():
            self.Z.copy_(Z)
        return Z

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NCEModule:
        double = {name: self._buffers[name] for name in ("unigrams", "keep")}
        super()._apply(fn, recurse)
        for name, value in double.items():
            cast = self._buffers[name]
            assert value is not None
            assert cast is not None
            self._buffers[name] = cast if cast.dtype == value.dtype else value.to(cast.device)
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k}, batch_noise={self.batch_noise}, normalized={self.normalized}"

    class Lua(LuaClass):
        computed_fields = ("testedtargets",)
        scalars = {
            "k": "k",
            "batchnoise": "batch_noise",
            "normalized": "normalized",
            "logsoftmax": "log_softmax",
        }
        defaults = {"batchnoise": False, "normalized": False, "logsoftmax": False}
        tensors = ("weight", "bias", "unigrams", "Z")
        sizes = {"weight": ("out_features", "in_features")}
        scratch = ("addBuffer", "linout", "sampleidx", "sampleprob")

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> NCEModule:
            arguments = cls.arguments(obj, ctx)
            outputs = arguments["out_features"]
            unigrams = torch.ones(outputs, dtype=torch.float64)  # replaced by fill; the alias table is set below
            module = NCEModule(unigrams=unigrams, index_base=ctx.index_base, **arguments)
            table = obj.get("aliasmultinomial")
            if isinstance(table, LuaObject):
                own = torch.arange(outputs)
                alias = table["J"].torch() - 1
                module.alias.copy_(torch.where(alias < 0, own, alias))
                module.keep.copy_(table["q"].torch())
            else:
                alias, keep = alias_table(obj["unigrams"].torch())
                module.alias.copy_(alias)
                module.keep.copy_(keep)
            return module

        @classmethod
        def to_lua(cls, module: NCEModule, ctx: LuaContext) -> dict[str, Any]:
            fields, tensor_class = super().to_lua(module, ctx), ctx.type_of(module)
            fields["output"] = LuaTable.from_list(LuaTensor.empty(tensor_class) for _ in range(4))
            fields["gradInput"] = LuaTable.from_list(LuaTensor.empty(tensor_class) for _ in range(2))
            record, table = record_of(module), LuaObject("torch.AliasMultinomial")
            kept = record.fields.get("aliasmultinomial") if record else None  # its tensors would be cast
            alias = LuaTensor.from_numpy((module.alias + 1).cpu().numpy())
            table["J"] = kept["J"] if isinstance(kept, LuaObject) else alias
            table["q"] = LuaTensor.from_numpy(module.keep.cpu().numpy())
            table["dpnn_parameters"] = LuaTable.from_list(["J", "q"])
            return {**fields, "aliasmultinomial": table}

        @classmethod
        def replay(cls, module: NCEModule, after: LuaObject) -> Callable[[Any], Any] | None:
            if (module.normalized and not module.training) or not isinstance(after.get("sampleidx"), LuaTensor):
                return None
            index = after["sampleidx"].torch().long() - 1

            def forward(input: list[Tensor]) -> list[Tensor]:
                x, target = input[0], input[1].long() - module.index_base
                noise = index[: module.k] if module.batch_noise else index[:, 1:]
                return module.contrasted(x, target, noise.to(x.device))

            return forward


@lua_class("nn.NCECriterion")
class NCECriterion(Criterion):
    r"""Noise-contrastive loss of the output of :class:`NCEModule`.

    Args:
        size_average: divide by the batch size.

    Shape:
        - Input: the four outputs of :class:`NCEModule`, of shapes :math:`(N), (N, k), (N), (N, k)`.
        - Target: ignored.
        - Output: the loss, a number.

    Lua:
        ``nn.NCECriterion()``, NCECriterion.lua

    Differs from PyTorch:
        As in Torch7, 1e-7 is added to each divisor of the gradient's formula, so the gradient is slightly different
        from the derivative.
    """

    epsilon = 1e-7

    def __init__(self, size_average: bool = True) -> None:
        super().__init__()
        self.size_average = size_average

    def forward(self, input: list[Tensor], target: Any = None) -> Tensor:
        if len(input) != 4 or [t.dim() for t in input] != [1, 2, 1, 2]:
            shapes = [tuple(t.shape) for t in input]
            raise ValueError(
                "NCECriterion: expected the four outputs of NCEModule, of shapes (N), (N, k), (N), (N, k), "
                f"found {shapes}"
            )
        model, model_noise, p, p_noise = input
        k, n = model_noise.shape[1], len(model) if self.size_average else 1
        with torch.no_grad():
            divisor, noise_divisor = model + k * p + self.epsilon, model_noise + k * p_noise + self.epsilon
            loss = -((model / divisor).log().sum() + (k * p_noise / noise_divisor).log().sum()) / n
            gradient = -k * p / divisor / (model + self.epsilon) / n
            noise_gradient = model_noise / noise_divisor / (model_noise + self.epsilon) / n
        return with_gradient_of(loss, (gradient * model).sum() + (noise_gradient * model_noise).sum())

    class Lua(Criterion.Lua):
        scalars = {"sizeAverage": "size_average"}
        constants = {"output": 0, "gradInput": empty_tensors(4)}


@lua_class("nn.Bigrams")
class Bigrams(nn.Module):
    """Samples successors of each word of the input. :func:`bigrams` creates it from probabilities.

    Args:
        n_words: number of words that have successors.
        n_places: largest number of successors of a word.
        nsample: number of samples per word, :math:`S`.
        index_base: index of the first successor of a word.

    Attributes:
        words: word numbers, ascending.
        sizes: number of successors of each word.
        alias, keep: the alias table of each word, one per row.

    Shape:
        - Input: :math:`(N)`, word numbers.
        - Output: :math:`(N, S)`, indices in the word's list of successors.

    Raises:
        KeyError: a word has no successors.

    Lua:
        ``nn.Bigrams(bigrams, nsample)``, Bigrams.lua. As in Torch7, the output contains indices in the word's list of
        probabilities, not the word numbers in the list ``index``.
    """

    alias: Tensor
    keep: Tensor
    sizes: Tensor
    words: Tensor

    def __init__(self, n_words: int, n_places: int, nsample: int, *, index_base: int = 1) -> None:
        super().__init__()
        self.n_words, self.n_places, self.nsample, self.index_base = n_words, n_places, nsample, index_base
        self.register_buffer("words", torch.arange(n_words))
        self.register_buffer("sizes", torch.full((n_words,), n_places))
        self.register_buffer("alias", torch.arange(n_places).repeat(n_words, 1))
        self.register_buffer("keep", torch.ones(n_words, n_places, dtype=torch.float64))

    def forward(self, input: Tensor) -> Tensor:
        row = torch.searchsorted(self.words, input.long().contiguous()).clamp(max=len(self.words) - 1)
        if not torch.compiler.is_compiling() and bool((self.words[row] != input).any()):
            raise KeyError(f"Bigrams has no successors of the words {input[self.words[row] != input].tolist()}")
        uniform = torch.rand(len(input), self.nsample, dtype=torch.float64, device=input.device)
        index = (uniform * self.sizes[row, None]).long()
        kept = torch.rand_like(uniform) < self.keep[row[:, None], index]
        return torch.where(kept, index, self.alias[row[:, None], index]) + self.index_base

    def extra_repr(self) -> str:
        return f"{len(self.words)} words, nsample={self.nsample}"

    class Lua(LuaClass):
        scalars = ("nsample",)

        @classmethod
        def build(cls, obj: LuaObject, ctx: TorchContext) -> Bigrams:
            tables = {}
            for word, table in obj["J"].items():
                alias = table.torch() - 1
                own = torch.arange(len(alias))
                tables[int(word)] = (torch.where(alias < 0, own, alias), obj["q"][word].torch().double())
            return bigrams(tables, obj["nsample"], index_base=ctx.index_base)

        @classmethod
        def to_lua(cls, module: Bigrams, ctx: LuaContext) -> dict[str, Any]:
            fields = super().to_lua(module, ctx)
            if record_of(module) is not None:
                return fields
            fields.update(J=LuaTable(), q=LuaTable())
            rows = zip(module.words.tolist(), module.sizes.tolist(), module.alias.cpu(), module.keep.cpu(), strict=True)
            for word, size, alias, keep in rows:
                fields["J"][word] = LuaTensor.from_numpy((alias[:size] + 1).numpy())
                fields["q"][word] = LuaTensor.from_numpy(keep[:size].numpy())
            return fields

        @classmethod
        def replay(cls, module: nn.Module, after: LuaObject) -> Callable[[Tensor], Tensor] | None:
            output = after.get("output")
            return (lambda x: output.torch().to(x.device)) if isinstance(output, LuaTensor) else None


def bigrams(
    tables: dict[int, tuple[Tensor, Tensor]] | dict[int, Tensor], nsample: int, *, index_base: int = 1
) -> Bigrams:
    """Create :class:`Bigrams`.

    Args:
        tables: word number → probabilities of the word's successors, or their alias table ``(alias, keep)``.
        nsample, index_base: arguments of :class:`Bigrams`.
    """
    rows = {word: alias_table(t / t.sum()) if isinstance(t, Tensor) else t for word, t in sorted(tables.items())}
    sizes = [len(alias) for alias, _ in rows.values()]
    module = Bigrams(len(rows), max(sizes), nsample, index_base=index_base)
    module.words.copy_(torch.tensor(list(rows)))
    module.sizes.copy_(torch.tensor(sizes))
    for row, (alias, keep) in enumerate(rows.values()):
        module.alias[row] = F.pad(alias, (0, module.n_places - len(alias)))
        module.keep[row] = F.pad(keep, (0, module.n_places - len(keep)))
    return module
