"""Random layers have the distribution they say, in training only, and evaluation is what Torch7 makes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpnn_bridge.modules.dpnn.category import CategoricalEntropy, OneHot
from dpnn_bridge.modules.dpnn.color import PCAColorTransform, SimpleColorTransform, SpatialFeatNormalization
from dpnn_bridge.modules.dpnn.glimpse import SpatialUniformCrop
from dpnn_bridge.modules.dpnn.noise import SpatialRegionDropout, TotalDropout, WhiteNoise


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_white_noise() -> None:
    noise = WhiteNoise(mean=2, std=0.5)(torch.zeros(100_000))
    assert float(noise.mean()) == pytest.approx(2, abs=0.01)
    assert float(noise.std()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(WhiteNoise(mean=2).eval()(torch.zeros(3)), torch.full((3,), 2.0))


def test_total_dropout_drops_all_or_nothing() -> None:
    layer = TotalDropout(0.3)
    kept = torch.stack([layer(torch.ones(5)) for _ in range(4000)])
    assert bool((kept == kept[:, :1]).all())
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.04)


def test_region_dropout_drops_one_side_of_all_images() -> None:
    layer, counts = SpatialRegionDropout(0.4), [0] * 4
    for _ in range(2000):
        kept = layer(torch.ones(2, 3, 5, 10))
        sides = [kept[..., :2, :], kept[..., 3:, :], kept[..., :4], kept[..., 6:]]
        (side,) = [i for i, s in enumerate(sides) if not s.any()]
        counts[side] += 1
        assert float(kept.sum()) == pytest.approx(2 * 3 * 5 * 10 * 0.6 / 0.6)
    assert all(400 < c < 600 for c in counts)
    with pytest.raises(ValueError, match="less than one"):
        layer(torch.ones(1, 2, 2, 2))


def test_crops_start_at_every_place_but_the_last() -> None:
    rows = torch.arange(6.0)[:, None].expand(6, 9)
    crop = SpatialUniformCrop(3, 4)
    first = crop((rows * 10 + torch.arange(9.0)).expand(20_000, 1, 6, 9))[:, 0, 0, 0]
    places, counts = first.unique(return_counts=True)
    assert places.tolist() == [10.0 * y + x for y in range(3) for x in range(5)]
    assert float((counts.float() / 20_000 - 1 / 15).abs().max()) < 0.01
    assert float(crop.eval()((rows * 10 + torch.arange(9.0))[None])[0, 0, 0]) == 12
    with pytest.raises(ValueError, match="larger than 3 x 4"):
        crop(torch.zeros(1, 3, 4))


def test_scaled_crops_stay_inside_and_keep_their_size() -> None:
    crop = SpatialUniformCrop(4, 4, scale=(0.9, 1.2))
    assert crop(torch.randn(50, 2, 12, 12)).shape == (50, 2, 4, 4)


def test_color_noise_is_one_number_for_each_channel() -> None:
    noise = SimpleColorTransform(torch.tensor([0.1, 0.2, 0.3]))(torch.zeros(5000, 3, 2, 2))
    assert bool((noise == noise[..., :1, :1]).all())
    assert bool((noise.abs().amax((0, 2, 3)) <= torch.tensor([0.1, 0.2, 0.3])).all())
    torch.testing.assert_close(noise.std((0, 2, 3)), torch.tensor([0.1, 0.2, 0.3]) / 3**0.5, rtol=0.05, atol=0)


def test_pca_noise_has_the_components_in_its_columns() -> None:
    vectors, values = torch.randn(3, 3), torch.tensor([0.9, 0.4, 0.1])
    noise = PCAColorTransform(vectors, values, std=0.5)(torch.zeros(200_000, 3, 1, 1)).flatten(1)
    expected = vectors @ (0.25 * values**2).diag() @ vectors.t()
    torch.testing.assert_close(noise.t().cov(), expected, rtol=0.05, atol=0.002)


@pytest.mark.parametrize(
    "layer",
    [
        WhiteNoise(),
        TotalDropout(),
        SpatialRegionDropout(),
        SimpleColorTransform(torch.ones(2)),
        PCAColorTransform(torch.eye(2), torch.ones(2)),
    ],
)
def test_backward_in_evaluation_is_refused(layer: nn.Module) -> None:
    x = torch.ones(1, 2, 6, 6, requires_grad=True)
    with pytest.raises(RuntimeError, match=f"{type(layer).__name__}: .* the backward pass requires training mode"):
        layer.eval()(x).sum().backward()
    layer.train()(x).sum().backward()
    assert x.grad is not None


def test_feature_normalization_checks_its_channels() -> None:
    layer = SpatialFeatNormalization(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
    assert torch.equal(layer(torch.ones(2, 1, 1)).flatten(), torch.tensor([0.0, -0.25]))
    with pytest.raises(ValueError, match="2 channels"):
        layer(torch.ones(3, 4, 4))


def test_entropy_rises_along_the_gradient() -> None:
    layer, scores = CategoricalEntropy(), nn.Parameter(torch.randn(6, 4) * 3)
    entropies = []
    for _ in range(50):
        (gradient,) = torch.autograd.grad(layer(scores.softmax(1)).sum() * 0, scores)
        entropies.append(float(layer.entropy))
        scores.data -= 20 * gradient
    assert entropies[-1] > entropies[0] + 0.1


def test_one_hot_refuses_what_is_no_category() -> None:
    with pytest.raises(IndexError, match="expected indices from 1 to 3, found 4"):
        OneHot(3)(torch.tensor([1, 4]))
    assert OneHot(3, index_base=0)(torch.tensor([0.0])).tolist() == [[1.0, 0.0, 0.0]]
