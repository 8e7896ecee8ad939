"""``torch.legacy.nn.utils``: the functions that modules of scripts use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dpnn_bridge.legacy import install, nn, uninstall
from dpnn_bridge.legacy.nn import utils


@pytest.fixture
def installed() -> Iterator[None]:
    install()
    yield
    uninstall()


class Doubled(nn.Module):
    """A module of a script, as public code writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer, self.parts, self.count = torch.ones(3), [torch.ones(2)], 4

    def updateOutput(self, input: Tensor) -> Tensor:  # noqa: N802
        self.output.resize_as_(input).copy_(input).mul_(2)
        return self.output

    def clearState(self) -> Doubled:  # noqa: N802
        nn.utils.clear(self, "buffer", "parts", "count", "absent")
        return super().clearState()


@pytest.mark.usefixtures("installed")
def test_it_is_importable() -> None:
    import torch.legacy.nn  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]
    from torch.legacy.nn.utils import clear  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports]

    assert clear is utils.clear is torch.legacy.nn.utils.clear


def test_clear_empties_fields_of_a_module_in_a_container() -> None:
    module = Doubled()
    net = nn.Sequential().add(module)
    assert torch.equal(net.forward(torch.ones(3)), torch.full((3,), 2.0))
    assert "nn.Doubled" in repr(net)
    net.clearState()
    assert (module.buffer.numel(), module.parts, module.count) == (0, [], None)
    assert utils.clear(module, ["parts"]) is module
    module.buffer = torch.empty(3, device="meta")
    assert utils.clear(module, "buffer").buffer.shape == (0,)


def test_nested_tensors() -> None:
    source = [torch.ones(2), [torch.full((3,), 2.0)]]
    target, same = utils.recursiveCopy(torch.zeros(1), source)
    assert same is source
    assert [t.tolist() for t in (target[0], target[1][0])] == [[1, 1], [2, 2, 2]]
    utils.recursiveAdd(target, 3, source)
    utils.recursiveAdd(target, source)
    assert [t.tolist() for t in (target[0], target[1][0])] == [[5, 5], [10, 10, 10]]
    assert utils.recursiveFill(target, 7)[1][0].tolist() == [7, 7, 7]
    resized, _ = utils.recursiveResizeAs(None, source)
    assert (resized[0].shape, resized[1][0].shape) == ((2,), (3,))
    with pytest.raises(RuntimeError, match="got str"):
        utils.recursiveFill("text", 1)


def test_types_and_views() -> None:
    first = torch.ones(4)
    cast = utils.recursiveType([first, first.view(2, 2)], "torch.DoubleTensor", {})
    cast[0][1] = 5
    assert cast[1].tolist() == [[1, 5], [1, 1]]
    assert utils.addSingletondimension(first, 0).shape == (1, 4)
    assert utils.addSingletondimension(torch.empty(0), first, 1).shape == (4, 1)
    turned = torch.arange(6.0).view(2, 3).t()
    assert utils.contiguousView(None, turned, 6).tolist() == [0, 3, 1, 4, 2, 5]
    assert utils.contiguousView(None, first, 2, 2).shape == (2, 2)
