"""Layers whose outputs the source or the target divides: queries, keys and values of heads, in any arrangement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge import port

D = 12


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend with tensors of shape (batch, time, heads, size); several heads may share a key and a value."""
    repeats = q.shape[2] // k.shape[2]
    q, k, v = (t.transpose(1, 2) for t in (q, k.repeat_interleave(repeats, 2), v.repeat_interleave(repeats, 2)))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Separate(nn.Module):
    """Attention with a layer each for queries, keys and values."""

    scale = 1.0

    def __init__(self, heads: int, shared: int, size: int) -> None:
        super().__init__()
        self.counts, self.size = (heads, shared, shared), size
        self.q, self.k, self.v = (nn.Linear(D, n * size) for n in self.counts)
        self.o = nn.Linear(heads * size, D)

    def forward(self, x: Tensor) -> Tensor:
        parts = zip((self.q, self.k, self.v), self.counts, strict=True)
        q, k, v = (layer(x).view(*x.shape[:2], n, self.size) for layer, n in parts)
        return self.o(attended(q * self.scale, k, v))


class Packed(nn.Module):
    """Attention with one layer, whose outputs lie in one of several arrangements."""

    def __init__(self, heads: int, shared: int, size: int, arrangement: str) -> None:
        super().__init__()
        self.heads, self.shared, self.size, self.arrangement = heads, shared, size, arrangement
        self.qkv, self.o = nn.Linear(D, (heads + 2 * shared) * size), nn.Linear(heads * size, D)

    def parts(self, y: Tensor) -> Any:
        n, g, d, shape = self.heads, self.shared, self.size, y.shape[:2]
        match self.arrangement:
            case "split":
                return (p.view(*shape, -1, d) for p in y.split([n * d, g * d, g * d], -1))
            case "heads":
                return y.view(*shape, n + 2 * g, d).split([n, g, g], 2)
            case "thirds of each head":
                return y.view(*shape, n, 3 * d).chunk(3, -1)
            case "three of each head":
                return (y.view(*shape, n, 3, d)[..., i, :] for i in range(3))
            case _:  # the heads of each group, then its key and its value
                y = y.view(*shape, g, n // g + 2, d)
                return y[:, :, :, :-2].flatten(2, 3), y[:, :, :, -2], y[:, :, :, -1]

    def forward(self, x: Tensor) -> Tensor:
        return self.o(attended(*self.parts(self.qkv(x))))


SIZES = ((2, 2, 8), (6, 6, 4), (4, 2, 8), (8, 2, 4), (4, 1, 8))
CASES = [
    (sizes, arrangement)
    for sizes in SIZES
    for arrangement in ("split", "heads", "thirds of each head", "three of each head", "groups")
    if (sizes[0] == sizes[1]) or arrangement in ("split", "heads", "groups")
]


def proven(source: nn.Module, target: nn.Module, *shape: int) -> bool:
    """Return the verdict; equal means equal on other inputs too."""
    report = port(source, target, torch.randn(*shape, generator=torch.Generator().manual_seed(1)))
    if report.equal:
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(2))
        torch.testing.assert_close(target.eval()(x), source.eval()(x), rtol=1e-4, atol=1e-5)
    return report.equal


@pytest.mark.parametrize(("sizes", "arrangement"), CASES)
def test_queries_keys_and_values(sizes: tuple[int, int, int], arrangement: str) -> None:
    torch.manual_seed(0)
    assert proven(Packed(*sizes, arrangement), Separate(*sizes), 2, 5, D)
    assert proven(Separate(*sizes), Packed(*sizes, arrangement), 2, 5, D)


@pytest.mark.parametrize("arrangement", ["split", "heads", "groups"])
def test_another_scale_is_not_equal(arrangement: str) -> None:
    torch.manual_seed(0)
    separate = Separate(8, 2, 4)
    separate.scale = 1.01
    assert not proven(Packed(8, 2, 4, arrangement), separate, 2, 5, D)
    assert not proven(separate, Packed(8, 2, 4, arrangement), 2, 5, D)


class ConvolutionalAttention(nn.Module):
    """Attention with convolutions of width 1: one for each part, one whose thirds are the parts, or by heads."""

    def __init__(self, form: str, heads: int = 3) -> None:
        super().__init__()
        self.form, self.heads, self.o = form, heads, nn.Conv1d(D, D, 1)
        self.parts = nn.ModuleList([nn.Conv1d(D, D if form == "separate" else 3 * D, 1)] * 1)
        if form == "separate":
            self.parts.extend([nn.Conv1d(D, D, 1), nn.Conv1d(D, D, 1)])

    def forward(self, x: Tensor) -> Tensor:
        n, size, time = len(x) * self.heads, D // self.heads, x.shape[-1]
        if self.form == "by heads":
            q, k, v = self.parts[0](x).reshape(n, 3 * size, time).split(size, 1)
        else:
            parts = [m(x) for m in self.parts] if self.form == "separate" else self.parts[0](x).chunk(3, 1)
            q, k, v = (p.reshape(n, size, time) for p in parts)
        return self.o(torch.bmm(v, torch.bmm(q.transpose(1, 2), k).softmax(-1).transpose(1, 2)).reshape(x.shape))


@pytest.mark.parametrize("source", ["separate", "thirds", "by heads"])
@pytest.mark.parametrize("target", ["separate", "thirds", "by heads"])
def test_convolutional_attention(source: str, target: str) -> None:
    torch.manual_seed(0)
    assert proven(ConvolutionalAttention(source), ConvolutionalAttention(target), 2, D, 7)


class Gated(nn.Module):
    """A gated layer: two layers, or one whose outputs are divided."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.a, self.o = form, nn.Linear(D, 20 if form == "separate" else 40), nn.Linear(20, D)
        self.b = nn.Linear(D, 20) if form == "separate" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.b is not None:
            gate, value = self.a(x), self.b(x)
        else:
            y = self.a(x)
            gate, value = y.unflatten(-1, (-1, 2)).unbind(-1) if self.form == "alternating" else y.chunk(2, -1)
        return self.o(F.silu(gate) * value)


@pytest.mark.parametrize("source", ["separate", "halves", "alternating"])
@pytest.mark.parametrize("target", ["separate", "halves", "alternating"])
def test_gated(source: str, target: str) -> None:
    torch.manual_seed(0)
    assert proven(Gated(source), Gated(target), 2, 5, D)


class Unequal(nn.Module):
    """The input map of a state space model: five parts of unequal sizes."""

    sizes = (20, 20, 6, 6, 2)

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.maps = nn.ModuleList(nn.Linear(D, n) for n in ([sum(self.sizes)] if packed else self.sizes))
        self.step, self.o = nn.Linear(2, 20), nn.Linear(20, D)

    def forward(self, x: Tensor) -> Tensor:
        z, u, b, c, t = self.maps[0](x).split(self.sizes, -1) if self.packed else (m(x) for m in self.maps)
        return self.o((c @ b.transpose(-1, -2)).tril() @ (u * F.softplus(self.step(t))) * F.silu(z))


@pytest.mark.parametrize("packed", [True, False])
def test_unequal_parts(packed: bool) -> None:
    torch.manual_seed(0)
    assert proven(Unequal(packed), Unequal(not packed), 2, 5, D)


def test_the_report_names_the_outputs() -> None:
    torch.manual_seed(0)
    report = port(Packed(8, 2, 4, "split"), Separate(8, 2, 4), torch.randn(2, 5, D))
    assert "k: split: outputs 33 to 40 (qkv)" in report.notes
    report = port(Separate(2, 2, 8), Packed(2, 2, 8, "thirds of each head"), torch.randn(2, 5, D))
    assert "qkv: joined: q, k, v, interleaved (q)" in report.notes


class Cell(nn.Module):
    """Two gates of an index and a state: each with a layer of its own, or both with one."""

    def __init__(self, words: str, states: str) -> None:
        super().__init__()
        maps = {"one-hot": lambda n: nn.Linear(9, n), "embedding": lambda n: nn.Embedding(9, n)}
        self.words, self.one_hot = words, words.startswith("one-hot")
        new = maps[words.split()[0]]
        self.x = nn.ModuleList([new(12)] if words.endswith("joined") else [new(6), new(6)])
        self.h = nn.ModuleList([nn.Linear(6, 12)] if states == "joined" else [nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, index: Tensor, h: Tensor) -> Tensor:
        x = F.one_hot(index, 9).to(h) if self.one_hot else index
        a, b = torch.cat([m(x) for m in self.x], 1).chunk(2, 1)
        c, d = torch.cat([m(h) for m in self.h], 1).chunk(2, 1)
        return torch.tanh(a + c) * torch.sigmoid(b + d)


@pytest.mark.parametrize("words", ["embedding joined", "embedding separate", "one-hot joined", "one-hot separate"])
@pytest.mark.parametrize("states", ["joined", "separate"])
def test_biases_of_maps_of_one_hot_vectors(words: str, states: str) -> None:
    torch.manual_seed(0)
    source, target = Cell("one-hot separate", "separate"), Cell(words, states)
    example = torch.randint(9, (5,)), torch.randn(5, 6)
    report = port(source, target, example, source=lambda net, inputs: net(*inputs))
    assert report.equal, report.first
    indices, h = torch.arange(9), torch.randn(9, 6)
    torch.testing.assert_close(target(indices, h), source(indices, h))
