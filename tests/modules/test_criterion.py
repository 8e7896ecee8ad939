"""Criterions beyond the fixtures: numbering of classes, edges, fresh modules as Lua objects, old files, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, manifest
from torch import nn

import dpnn_bridge
from dpnn_bridge import read_t7, to_lua, to_torch
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.conversion.noise import has_noise, replayed
from dpnn_bridge.modules.dpnn.criterion import BinaryLogisticRegression, ModuleCriterion
from dpnn_bridge.modules.nn.criterion import CriterionTable, MultiCriterion, ParallelCriterion
from dpnn_bridge.modules.nn.criterion_classification import (
    ClassNLLCriterion,
    CrossEntropyCriterion,
    SpatialClassNLLCriterion,
    SpatialCrossEntropyCriterion,
    VolumetricCrossEntropyCriterion,
)
from dpnn_bridge.modules.nn.criterion_embedding import (
    CosineEmbeddingCriterion,
    DistanceRatioCriterion,
    HingeEmbeddingCriterion,
    L1HingeEmbeddingCriterion,
    MarginRankingCriterion,
)
from dpnn_bridge.modules.nn.criterion_margin import (
    BCECriterion,
    ClassSimplexCriterion,
    MarginCriterion,
    MultiLabelMarginCriterion,
    MultiLabelSoftMarginCriterion,
    MultiMarginCriterion,
    SoftMarginCriterion,
)
from dpnn_bridge.modules.nn.criterion_regression import (
    AbsCriterion,
    DistKLDivCriterion,
    L1Cost,
    MSECriterion,
    SmoothL1Criterion,
    SpatialAutoCropMSECriterion,
    WeightedMSECriterion,
)
from dpnn_bridge.modules.nnx.criterion import DistMarginCriterion
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor

INDEXED = {
    "nn.ClassNLLCriterion",
    "nn.CrossEntropyCriterion",
    "nn.SpatialClassNLLCriterion",
    "nn.MultiMarginCriterion",
    "nn.MultiLabelMarginCriterion",
    "nn.ClassSimplexCriterion",
}
FRESH = [
    AbsCriterion("sum"),
    BCECriterion(torch.ones(3)),
    ClassNLLCriterion(torch.ones(3), ignore_index=2),
    ClassSimplexCriterion(3),
    CosineEmbeddingCriterion(0.5),
    CrossEntropyCriterion(torch.ones(3), reduction="sum"),
    DistKLDivCriterion(),
    DistanceRatioCriterion("sum"),
    HingeEmbeddingCriterion(0.5),
    L1Cost(),
    L1HingeEmbeddingCriterion(2),
    MSECriterion(),
    MarginCriterion(2),
    MarginRankingCriterion(0.25, "sum"),
    MultiLabelMarginCriterion(),
    MultiLabelSoftMarginCriterion(torch.ones(3)),
    MultiMarginCriterion(2, 0.5, torch.ones(3)),
    SmoothL1Criterion(),
    SoftMarginCriterion(),
    SpatialAutoCropMSECriterion(),
    SpatialClassNLLCriterion(torch.ones(3)),
    SpatialCrossEntropyCriterion(torch.ones(3), "sum"),
    VolumetricCrossEntropyCriterion(torch.ones(3), "sum"),
    WeightedMSECriterion(torch.ones(3)),
    MultiCriterion([MSECriterion(), AbsCriterion()], [0.5, 2]),
    ParallelCriterion([MSECriterion(), ClassNLLCriterion()], [0.5, 2], repeat_target=True),
    CriterionTable(MSECriterion()),
]


def gradient(criterion: torch.nn.Module, input: torch.Tensor, target: Any) -> list[float]:
    input = input.clone().requires_grad_()
    criterion(input, target).backward()
    assert input.grad is not None
    return input.grad.flatten().tolist()


# ---------------------------------------------------------------------- both directions
@pytest.mark.parametrize("criterion", FRESH, ids=lambda c: type(c).__name__)
def test_a_fresh_module_survives_lua(criterion: torch.nn.Module, tmp_path: Any) -> None:
    obj = to_lua(criterion)
    assert obj.class_name.partition(".")[2] == type(criterion).__name__
    dpnn_bridge.write_t7(tmp_path / "c.t7", obj)
    again = to_torch(read_t7(tmp_path / "c.t7"))
    assert repr(again) == repr(criterion)
    for name in ("reduction", "margin", "p", "ignore_index", "weights", "repeat_target", "n_classes", "index_base"):
        assert getattr(again, name, None) == getattr(criterion, name, None)
    torch.testing.assert_close(again.state_dict(), criterion.state_dict(), rtol=0, atol=0)


def test_buffers_that_torch7_needs_have_one_element() -> None:
    obj = to_lua(ClassNLLCriterion())
    assert [obj[k].shape for k in ("output_tensor", "total_weight_tensor", "target")] == [(1,)] * 3
    assert obj["target"].class_name == "torch.LongTensor"
    pair = to_lua(CosineEmbeddingCriterion())["gradInput"]
    assert [t.shape for t in pair.as_list()] == [(1,), (1,)]


def test_a_used_criterion_is_written_without_its_last_results() -> None:
    entry = next(e for e in manifest(kind="criterion") if e["class"] == "nn.CosineEmbeddingCriterion")
    obj = to_lua(to_torch(read_t7(FIXTURES / entry["file"])["after"]))
    assert not {"_y", "_idx", "buffer", "w1"} & set(obj)


def test_the_tensor_type_of_a_criterion_is_kept() -> None:
    entry = next(e for e in manifest(kind="criterion", dtype="double") if e["class"] == "nn.CrossEntropyCriterion")
    obj = to_lua(to_torch(read_t7(FIXTURES / entry["file"])["module"]))
    assert obj["gradInput"].class_name == obj["nll"]["output_tensor"].class_name == "torch.DoubleTensor"


# ---------------------------------------------------------------------- numbering of classes
@pytest.mark.parametrize(
    "entry",
    [e for e in manifest(kind="criterion", set="nn") if e["class"] in INDEXED],
    ids=lambda e: e["name"],
)
def test_zero_based_targets_give_the_same_loss(entry: dict[str, Any]) -> None:
    fixture = read_t7(FIXTURES / entry["file"])
    input, target = to_value(fixture["input"]), to_value(fixture["target"])
    if isinstance(target, torch.Tensor):
        target = torch.where(target == -100, target, target - 1)
    else:
        target -= 1
    loss = to_torch(fixture["module"], index_base=0)(input, target)
    assert loss.item() == pytest.approx(fixture["output"], rel=1e-6)


@pytest.mark.parametrize("base", [0, 1])
def test_the_ignored_class_is_numbered_like_the_targets(base: int) -> None:
    obj = to_lua(ClassNLLCriterion(ignore_index=2))
    criterion = to_torch(obj, index_base=base)
    assert criterion(torch.tensor([[-1.0, -2.0], [-3.0, -5.0]]), torch.tensor([base, base + 1])) == 1
    assert to_lua(criterion)["ignoreIndex"] == 2


def test_minus_100_is_no_class_in_either_numbering() -> None:
    criterion = to_torch(to_lua(ClassNLLCriterion()), index_base=0)
    assert criterion(torch.tensor([[-1.0, -2.0], [-3.0, -5.0]]), torch.tensor([0, -100])) == 1
    assert to_lua(criterion)["ignoreIndex"] == -100


# ---------------------------------------------------------------------- edges
def test_nothing_counts() -> None:
    x = torch.randn(2, 3).log_softmax(1)
    assert ClassNLLCriterion()(x, torch.tensor([-100, -100])) == 0
    assert gradient(ClassNLLCriterion(), x, torch.tensor([-100, -100])) == [0] * 6
    zero = ClassNLLCriterion(torch.tensor([0.0, 1, 1]))
    assert zero(x, torch.tensor([1, 1])) == 0
    assert gradient(zero, x, torch.tensor([1, 1])) == [0] * 6


def test_spatial_targets_are_never_ignored() -> None:
    with pytest.raises(IndexError):
        SpatialClassNLLCriterion()(torch.randn(1, 3, 1, 1), torch.full((1, 1, 1), -99))


def test_volumetric_cross_entropy_is_that_of_each_place() -> None:
    x, t = torch.randn(2, 3, 2, 2, 2), torch.randint(1, 4, (2, 2, 2, 2))
    rows = x.permute(0, 2, 3, 4, 1).reshape(-1, 3)
    expected = CrossEntropyCriterion()(rows, t.reshape(-1))
    torch.testing.assert_close(VolumetricCrossEntropyCriterion()(x, t), expected)


def test_gradients_at_the_kinks() -> None:
    one, x = torch.ones(1), torch.ones(1)
    assert gradient(AbsCriterion(), x, one) == [1]
    assert gradient(MarginCriterion(1), x, one) == [0]
    assert gradient(HingeEmbeddingCriterion(1), x, -1) == [-1]
    assert gradient(L1Cost(), torch.zeros(1), None) == [0]
    assert gradient(DistMarginCriterion(), torch.tensor([1.0, 0.0]), torch.tensor([1, 0])) == [0, 0]
    a, b = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    MarginRankingCriterion(1)([a, b], 1).backward()
    assert (a.grad, b.grad) == (torch.tensor([-1.0]), torch.tensor([1.0]))


def test_equal_inputs_have_a_random_l1_gradient() -> None:
    torch.manual_seed(0)
    a, b = torch.zeros(64, requires_grad=True), torch.zeros(64)
    L1HingeEmbeddingCriterion()([a, b], 1).backward()
    assert a.grad is not None
    assert set(a.grad.tolist()) == {-1.0, 1.0}


def test_equal_vectors_have_no_cosine_gradient() -> None:
    a = torch.tensor([[3.0, 4.0]], requires_grad=True)
    CosineEmbeddingCriterion()([a, a.detach().clone()], torch.ones(1)).backward()
    assert a.grad is not None
    assert a.grad.abs().max() < 1e-7


def test_a_logarithm_of_zero_with_target_zero_counts_nothing() -> None:
    x = torch.tensor([-float("inf"), 0.0])
    assert DistKLDivCriterion()(x, torch.tensor([0.0, 1.0])) == 0
    assert gradient(DistKLDivCriterion(), x, torch.tensor([0.0, 1.0])) == [0, -0.5]


def test_ranking_averages_over_the_first_dimension() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(2, 3)
    assert MarginRankingCriterion(1)([a, b], torch.ones(2, 3)) == 3


def test_targets_of_another_shape_are_paired_in_order() -> None:
    x = torch.arange(6.0).view(2, 3)
    for criterion in (MSECriterion(), AbsCriterion(), SmoothL1Criterion(), SoftMarginCriterion(), MarginCriterion()):
        torch.testing.assert_close(criterion(x, x.view(3, 2)), criterion(x, x))


def test_a_criterion_table_ignores_the_gradient_from_above() -> None:
    x, t = torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    (3 * CriterionTable(MSECriterion())([x, t])).backward()
    assert x.grad is not None
    assert (x.grad.tolist(), t.grad) == ([1, 1], None)


def test_a_simplex_has_unit_vectors_at_equal_angles() -> None:
    vertices = ClassSimplexCriterion(5).double().simplex
    torch.testing.assert_close(vertices @ vertices.t(), torch.full_like(vertices, -0.25).fill_diagonal_(1))
    assert ClassSimplexCriterion(5).top_prediction(vertices.float()).tolist() == [1, 2, 3, 4, 5]


# ---------------------------------------------------------------------- autograd and compilation
def test_gradients_can_be_differentiated() -> None:
    x = (torch.rand(3, 4, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()
    t = torch.randint(0, 2, (3, 4)).double()
    assert torch.autograd.gradgradcheck(BCECriterion(), (x, t))
    assert torch.autograd.gradcheck(DistKLDivCriterion(), (x, torch.rand(3, 4, dtype=torch.float64)))
    assert torch.autograd.gradcheck(
        lambda a, b: CosineEmbeddingCriterion()([a, b], torch.ones(3)), (x, x.detach() ** 2)
    )


@pytest.mark.parametrize("criterion", [BCECriterion(), ClassNLLCriterion(), CosineEmbeddingCriterion()], ids=repr)
def test_no_graph_breaks(criterion: torch.nn.Module) -> None:
    x = torch.rand(3, 4).requires_grad_()
    arguments = {
        BCECriterion: (x, torch.ones(3, 4)),
        ClassNLLCriterion: (x, torch.tensor([1, 2, 4])),
        CosineEmbeddingCriterion: ([x, torch.rand(3, 4)], torch.tensor([1, -1, 1])),
    }[type(criterion)]
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), criterion(*arguments))


# ---------------------------------------------------------------------- old files
def old(class_name: str, **fields: Any) -> torch.nn.Module:
    return to_torch(LuaObject(class_name, LuaTable({"gradInput": LuaTensor.empty(), "output": 0, **fields})))


def test_fields_that_old_files_lack() -> None:
    assert old("nn.ClassNLLCriterion", sizeAverage=True).ignore_index == -100
    assert old("nn.MultiMarginCriterion", sizeAverage=True).p == 1
    assert old("nn.HingeEmbeddingCriterion").reduction == "mean"
    assert old("nn.CosineEmbeddingCriterion", margin=0.5).reduction == "sum"


@pytest.mark.parametrize(
    ("own", "before", "inner", "expected"),
    [(True, True, True, "mean"), (True, True, False, "sum"), (False, True, True, "sum"), (None, None, False, "sum")],
)
def test_cross_entropy_averages_as_its_parts_say(own: Any, before: Any, inner: bool, expected: str) -> None:
    nll = LuaObject("nn.ClassNLLCriterion", LuaTable({"sizeAverage": inner}))
    flags = {k: v for k, v in (("sizeAverage", own), ("oldSizeAverage", before)) if v is not None}
    assert old("nn.CrossEntropyCriterion", nll=nll, **flags).reduction == expected


# ---------------------------------------------------------------------- errors
def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match=r"expected a target with 3 elements.*, found shape \(2,\)"):
        MSECriterion()(torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match=r"found \(2, 3\) and \(2, 1\)"):
        ClassNLLCriterion()(torch.ones(2, 3), torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"expected a target of shape .* for 3 weights"):
        BCECriterion(torch.ones(3))(torch.rand(2, 2), torch.ones(2, 2))
    with pytest.raises(ValueError, match="2 dimensions after C"):
        SpatialClassNLLCriterion()(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match="of equal shape"):
        DistKLDivCriterion()(torch.ones(2), torch.ones(2, 1))
    with pytest.raises(ValueError, match="expected 2 weights, one per criterion, found 1"):
        MultiCriterion([MSECriterion(), MSECriterion()], [1])
    with pytest.raises(ValueError, match="expected reduction 'mean' or 'sum'"):
        AbsCriterion("none")


def test_dist_margin_sends_its_gradient_to_the_first_listed_of_equal_targets() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64, requires_grad=True)
    DistMarginCriterion()(scores, torch.tensor([[2, 1, 0]])).backward()
    assert scores.grad is not None
    torch.testing.assert_close(scores.grad, torch.tensor([[0, -1, 1]], dtype=torch.float64) / 3)


def test_a_module_in_a_criterion_takes_the_noise_of_torch7() -> None:
    criterion = ModuleCriterion(nn.MSELoss(reduction="sum"), nn.Dropout(0.5))
    after = to_lua(criterion)
    after["inputModule"]["noise"] = LuaTensor.from_numpy(np.array([2.0, 0.0, 2.0]))
    assert has_noise(criterion, after)
    with replayed(criterion, after):
        assert float(criterion(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))) == 4 + 36


def test_a_cast_that_fails_leaves_the_modules_of_a_criterion() -> None:
    def refuse(tensor: torch.Tensor) -> torch.Tensor:
        raise TypeError("no")

    criterion = ModuleCriterion(nn.MSELoss(), nn.Linear(2, 2), nn.Linear(3, 2), cast_target=False)
    with pytest.raises(TypeError):
        criterion._apply(refuse)
    assert isinstance(criterion.target_module, nn.Linear)


def test_a_matrix_of_scores_is_named_with_its_shape() -> None:
    with pytest.raises(ValueError, match=r"expected target of shape \(N\), \(N, 1\) or \(1, N\), found \(2, 2\)"):
        BinaryLogisticRegression()(torch.zeros(4), torch.ones(2, 2))


def test_one_number_is_the_class_of_a_batch_of_one() -> None:
    scores = torch.tensor([[0.5, -1.0, 2.0]])
    assert float(ClassNLLCriterion()(scores, 3)) == -2.0
    with pytest.raises(ValueError, match=r"found \(2, 3\) and \(1,\)"):
        ClassNLLCriterion()(scores.repeat(2, 1), 3)


def test_the_mean_of_cosines_divides_by_the_first_size_of_the_target() -> None:
    pair = [torch.eye(3), torch.tensor([[1.0, 1, 0], [0, 1, 0], [1, 0, 1]])]
    loss = 2 * (1 - 0.5**0.5)
    criterion = CosineEmbeddingCriterion()
    for shape, count in (((3,), 3), ((1, 3), 1), ((3, 1), 3)):
        torch.testing.assert_close(criterion(pair, torch.ones(shape)), torch.tensor(loss / count))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("MSE", "sum"), ("MarginRanking", "mean"), ("CosineEmbedding", "mean"), ("MultiLabelSoftMargin", "mean")],
)
def test_a_flag_that_is_0_is_true_where_lua_tests_it(name: str, expected: str) -> None:
    """The kernels take 0 as false; the numbers of Torch7."""
    module = to_torch(LuaObject(f"nn.{name}Criterion", LuaTable({"sizeAverage": 0, "margin": 0.1})))
    assert module.reduction == expected
