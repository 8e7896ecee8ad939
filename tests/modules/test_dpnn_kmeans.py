"""Clustering: initialisation as Torch7 draws it, and gradient descent that moves centroids to their means."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest

from dpnn_bridge import read_t7, to_torch, training
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.dpnn.kmeans import Kmeans
from dpnn_bridge.parity import compare
from dpnn_bridge.torch7.random import Generator

METHODS = [e for e in manifest(kind="method") if ".kmeans_" in e["name"]]


def torch7_randint(seed: float) -> Any:
    """``torch.randint`` with the numbers that Torch7 draws after ``torch.manualSeed(seed)``."""
    generator = Generator(int(seed))
    return mock.patch(
        "torch.randint", lambda n, size, **_: torch.tensor([generator.randint(1, n) - 1 for _ in range(size[0])])
    )


@pytest.mark.parametrize("entry", [e for e in METHODS if e["name"].endswith("kmeans_init")], ids=fixture_id)
def test_centroids_start_where_torch7_puts_them(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module, samples = to_torch(fixture["module"]), to_value(fixture["samples"])
    assert isinstance(module, Kmeans)
    for step in fixture["steps"].as_list():
        seed, *rest = (step["args"][i] for i in sorted(step["args"]))
        with torch7_randint(seed):
            {"initRandom": module.init_random, "initKmeansPlus": module.init_kmeans_plus}[step["call"]](samples, *rest)
        assert torch.equal(module.weight, to_value(step["after"]["params"][1]))


@pytest.mark.parametrize("entry", [e for e in METHODS if e["name"].endswith("kmeans_iterations")], ids=fixture_id)
def test_iterations_equal_torch7s(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    module, samples = to_torch(fixture["module"]), to_value(fixture["samples"])
    assert isinstance(module, Kmeans)
    with torch7_randint(3):
        module.init_kmeans_plus(samples)
    for step in fixture["steps"].as_list():
        training.zero_grad_parameters(module)
        module(samples).sum().backward()
        assert float(module.loss) == pytest.approx(step["args"][2])
        training.update_parameters(module, 1)
        assert all(d.ok for d in compare("weight", training.parameters(module)[0], to_value(step["after"]["params"])))


@pytest.mark.parametrize("entry", manifest(**{"class": "nn.Kmeans", "kind": "module"}), ids=fixture_id)
def test_an_own_scale_replaces_that_of_backward(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    if "gradParams" not in fixture:
        return
    module = to_torch(fixture["module"])
    module(to_value(fixture["input"])).sum().backward()
    scale = 1 if module.scale is not None else fixture.get("scale") or 1
    gradient = training.parameters(module)[1][0] * scale
    assert all(d.ok for d in compare("gradWeight", gradient, to_value(fixture["gradParams"])[0]))


def test_descent_finds_the_clusters() -> None:
    torch.manual_seed(0)
    centers = torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.0, 6.0]])
    samples = (centers[:, None] + 0.3 * torch.randn(3, 40, 2)).reshape(-1, 2)
    module = Kmeans(3, 2)
    module.init_kmeans_plus(samples)
    sgd = torch.optim.SGD(module.parameters(), lr=1)
    for _ in range(5):
        sgd.zero_grad()
        module(samples).sum().backward()
        sgd.step()
    assert sorted(module.cluster_sample_count.tolist()) == [40, 40, 40]
    found = module(centers).long() - 1
    torch.testing.assert_close(module.weight[found], centers, rtol=0, atol=0.2)


def test_random_centroids_are_samples() -> None:
    samples = torch.randn(10, 4)
    module = Kmeans(3, 4)
    module.init_random(samples)
    assert bool((torch.cdist(module.weight, samples) < 1e-6).any(1).all())
    with pytest.raises(ValueError, match="expected at least 3 samples, one per centroid, found 2"):
        module.init_random(samples[:2])
