"""A comparison takes what the files are worth too, also of views that repeat one element many times."""

from __future__ import annotations

import resource
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpnn_bridge.compare.differences import Tolerance, compare, compare_tensor
from dpnn_bridge.compare.limited import limited_comparisons
from dpnn_bridge.compare.nested import backward, map_tensors
from dpnn_bridge.conversion.limits import ResourceLimits
from dpnn_bridge.errors import ConversionLimitError, VerificationError
from dpnn_bridge.loaders import write_t7
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.parity.bounded import comparing, run_limits
from dpnn_bridge.parity.verify import verify

SIZE = 1 << 12
LIMIT = "comparing the results takes more than"


def view(shape: tuple[int, ...], strides: tuple[int, ...], stored: int = 1, value: float = 2.0) -> LuaTensor:
    storage = LuaStorage("torch.FloatStorage", stored, np.full(stored, value, np.float32))
    return LuaTensor("torch.FloatTensor", shape, strides, 0, storage)


def layer(name: str, **fields: Any) -> LuaObject:
    return LuaObject(f"nn.{name}", LuaTable({"_type": "torch.FloatTensor", "train": False, **fields}))


def replicate(count: int) -> LuaObject:
    return layer("Replicate", nfeatures=count, dim=1, ndim=1)


def fixture(path: Path, module: LuaObject, input: LuaTensor, output: Any) -> Path:
    write_t7(path, LuaTable({"module": module, "input": input, "output": output}))
    return path


def memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.parametrize("value", [1.0, 2.0])
def test_an_element_that_both_repeat_is_compared_once(tmp_path: Path, value: float) -> None:
    one = view((1,), (1,), value=1.0)
    path = fixture(tmp_path / "m.t7", replicate(1 << 26), one, view((1 << 26, 1), (0, 0), value=value))
    before = memory()
    if value == 1.0:
        assert verify(path).ok
    else:
        with pytest.raises(ConversionLimitError, match=LIMIT):  # a mask of the elements that differ is too large
            verify(path)
    assert memory() - before < 500
    small = fixture(tmp_path / "s.t7", replicate(1 << 16), one, view((1 << 16, 1), (0, 0), value=value))
    result = verify(small)
    assert result.ok == (value == 1.0)
    assert sum(result.histogram.values()) == 1 << 16
    if not result.ok:
        assert "65536 of 65536 elements differ" in result.whole[0].message


def unlike_views() -> dict[str, tuple[LuaObject, LuaTensor, LuaTensor]]:
    vector = view((SIZE,), (1,), SIZE, 1.0)
    tanh = layer("Sequential", modules=LuaTable.from_list([replicate(1 << 23), layer("Tanh")]))
    return {
        "other strides": (replicate(SIZE), vector, view((SIZE, SIZE), (1, 0), SIZE, 1.0)),
        "windows": (replicate(SIZE), vector, view((SIZE, SIZE), (1, 1), 2 * SIZE, 1.0)),
        "a copy": (tanh, view((1,), (1,)), view((1 << 23, 1), (0, 0))),
    }


@pytest.mark.parametrize("name", unlike_views())
@pytest.mark.parametrize("nested", [False, True])
def test_views_that_are_unlike_are_limited(tmp_path: Path, name: str, nested: bool) -> None:
    module, given, expected = unlike_views()[name]
    output: Any = expected
    if nested:
        module = layer("ConcatTable", modules=LuaTable.from_list([module, module]))
        output = LuaTable.from_list([expected, expected])
    before = memory()
    with pytest.raises(ConversionLimitError, match=LIMIT):
        verify(fixture(tmp_path / "m.t7", module, given, output))
    assert memory() - before < 500


def test_many_comparisons_of_one_storage_are_limited_together() -> None:
    tensors = [torch.ones(1000)] * 100
    with limited_comparisons(1 << 20, 32 * 100_000, "ask"):
        assert all(d.ok for d in compare("output", tensors, tensors))
    with limited_comparisons(1 << 20, 32 * 99_999, "ask"), pytest.raises(ConversionLimitError, match=r"steps.*: ask"):
        compare("output", tensors, tensors)
    with comparing(run_limits(ResourceLimits())), limited_comparisons(1 << 10, 1 << 22, ""), comparing(nullcontext):
        assert compare("output", tensors, tensors)[0].ok


def test_a_reference_with_memory_is_never_too_large() -> None:
    lua = LuaTable({"output": LuaTensor.from_numpy(np.ones(1 << 22, np.float32))})
    with comparing(run_limits(ResourceLimits()), lua):
        for _ in range(10):
            assert compare("output", torch.ones(1 << 22), torch.ones(1 << 22))[0].ok


@pytest.mark.parametrize("found", [torch.ones(3, 1), torch.arange(3.0)[:, None], torch.ones(1, 1)])
def test_repeated_elements_give_the_differences_of_their_copies(found: Tensor) -> None:
    found, expected = found.expand(3, 4), torch.tensor([[1.0], [1.5], [1.0]]).expand(3, 4)
    views = compare_tensor("a", found, expected, Tolerance())
    copies = compare_tensor("a", found.clone(), expected.clone(), Tolerance())
    assert views.differing is not None
    assert copies.differing is not None
    assert views.differing.equal(copies.differing)
    names = ["error", "message", "absolute", "index", "expected", "found"]
    assert [getattr(views, n) for n in names] == [getattr(copies, n) for n in names]
    assert views.cosine == pytest.approx(copies.cosine)
    assert views.snr == pytest.approx(copies.snr)


def test_gradients_of_an_input_without_any_take_no_memory() -> None:
    from dpnn_bridge.parity.gradients import compare_grad_input

    inputs = torch.zeros(1).expand(1 << 26).requires_grad_()
    before = memory()
    assert compare_grad_input("gradInput", inputs, torch.zeros(1).expand(1 << 26), Tolerance())[0].ok
    assert memory() - before < 500


class Unprintable(torch.Tensor):
    def __repr__(self, **_: Any) -> str:
        raise AssertionError("a message formats a complete tensor")


def test_a_message_formats_no_complete_value() -> None:
    tensor = torch.ones(3).as_subclass(Unprintable)
    many = {f"key{i}" * 100: tensor for i in range(1000)}
    for actual, expected in [
        ([tensor] * 1000, torch.ones(1)),
        ([tensor] * 1000, [1.0]),
        (many, 1.0),
        (many, {"a": 1.0}),
        ({"a": [tensor]}, many),
        ("x" * 100_000, None),
        (tensor, "x" * 100_000),
        ([tensor], True),
    ]:
        (found,) = compare("output", actual, expected)
        assert not found.ok
        assert len(found.message) < 2000
    with pytest.raises(VerificationError) as caught:
        map_tensors(torch.add, many, [tensor])
    assert len(str(caught.value)) < 2000
    with pytest.raises(VerificationError) as caught:
        backward(torch.ones(1, requires_grad=True), [many])
    assert len(str(caught.value)) < 2000
