"""No network is called equal that is not: what is called equal computes the same on inputs that were not used.

``DPNN_PORT_CHANGES=200`` makes 200 changes; by default there are three for each network.
"""

from __future__ import annotations

import copy
import os
import random
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import corpus
import perturbation
import pytest
import torch
from conftest import FIXTURES
from corpus import pair
from torch import nn

import dpnn_bridge
from dpnn_bridge.porting import judge

NETS = (
    "resnet_basic",
    "cifar_nin",
    "densenet_bc",
    "dcgan_discriminator",
    "cyclegan_generator",
    "squeezenet",
    "openface",
    "tdnn_highway",
    "constants",
    "adain_decoder",
)
COUNT = max(1, int(os.environ.get("DPNN_PORT_CHANGES", "30")) // len(NETS))


def output(name: str, model: nn.Module, seed: int) -> torch.Tensor | None:
    """What the model computes, or None where it cannot."""
    try:
        with torch.no_grad():
            return corpus.flat(corpus.run_source(name, model, pair(name).example(seed)))
    except (RuntimeError, ValueError):
        return None


def changed(name: str, count: int) -> list[tuple[str, nn.Module]]:
    """The Torch7 model of a pair with one thing changed that moves its output and keeps its shape, several times."""
    rng, found = random.Random(zlib.crc32(name.encode())), []
    before = output(name, corpus.source_of(name), 0)
    number = len(list(perturbation.changes(corpus.source_of(name))))
    for i in rng.sample(range(number), number):
        model = corpus.source_of(name)
        what, change = list(perturbation.changes(model))[i]
        change()
        after = output(name, model, 0)
        if after is not None and after.shape == before.shape and not torch.equal(after, before):
            found.append((what, model))
        if len(found) == count:
            break
    return found


def port(name: str, model: nn.Module, run: Callable[[nn.Module, Any], Any]) -> tuple[nn.Module, Any]:
    """A port of a model into the user's module of a pair, and its report."""
    module = corpus.target_of(name)
    target = partial(corpus.run_target, name)
    return module, dpnn_bridge.port(model, module, pair(name).example(0), source=run, target=target)


def farthest(name: str, module: nn.Module, model: nn.Module) -> float:
    """How far a filled module is from a model on two inputs that the engine has not seen."""
    module.double().eval()
    with torch.no_grad():
        computed = [corpus.flat(corpus.run_target(name, module, pair(name).example(seed))) for seed in (3, 4)]
    return max(corpus.difference(c, output(name, model, seed)) for c, seed in zip(computed, (3, 4), strict=True))


@pytest.mark.parametrize("name", NETS)
def test_changed_option(name: str) -> None:
    called_equal = 0
    for what, model in (cases := changed(name, COUNT)):
        module, report = port(name, model, partial(corpus.run_source, name))
        if report.equal:
            called_equal += 1
            assert farthest(name, module, model) < 1e-9, what
        else:
            assert report.first.reason, what
    assert cases
    # other weights can undo few changes; who calls everything equal fails above
    assert called_equal < len(cases) or COUNT < 5


class ChangedLater:
    """Runs the model of a pair, with one weight changed from the second run on."""

    def __init__(self, name: str, change: Callable[[nn.Module], None]) -> None:
        self.name, self.change, self.runs = name, change, 0

    def __call__(self, model: nn.Module, example: Any) -> Any:
        if self.runs:
            self.change(model)
        self.runs += 1
        return corpus.run_source(self.name, model, example)


@pytest.mark.parametrize("name", NETS)
def test_changed_weight(name: str) -> None:
    """The weights that fit the first input do not fit the second one."""
    rng = random.Random(zlib.crc32(name.encode()))
    for _ in range(COUNT):
        model = corpus.source_of(name)
        what, change = perturbation.weight(model, rng)
        run = ChangedLater(name, change)
        module, report = port(name, model, run)
        assert run.runs > 1, "the engine ran the model once"
        if report.equal:
            change(model)
            assert farthest(name, module, model) < 1e-9, what


@pytest.mark.parametrize("name", NETS)
def test_changed_weight_of_the_module(name: str) -> None:
    """A proven port is judged to be equal, and no longer when one of its weights is another one."""
    options = {"source": partial(corpus.run_source, name), "target": partial(corpus.run_target, name)}
    model, rng = FIXTURES / pair(name).model, random.Random(zlib.crc32(name.encode()))
    module = corpus.target_of(name)
    assert dpnn_bridge.port(model, module, pair(name).example(0), **options).equal
    assert judge(model, module, pair(name).example(0), **options).equal
    for _ in range(COUNT):
        wrong = copy.deepcopy(module)
        what, change = perturbation.weight(wrong, rng)
        change(wrong)
        if judge(model, wrong, pair(name).example(0), **options).equal:  # a dead channel, a bias before a norm
            assert farthest(name, wrong, corpus.source_of(name)) < 1e-9, what
