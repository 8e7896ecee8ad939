"""densecap's detection pipeline: boxes, drawing and whole models, against numbers worked out by hand."""
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportOptionalCall=false

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FIXTURES
from formula import DOUBLE, agree
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.activation import LogSoftMax
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.criterion_classification import ClassNLLCriterion
from dpnn_bridge.modules.nn.nngraph import GModule, GraphNode
from dpnn_bridge.modules.nn.reshape import Reshape, Transpose
from dpnn_bridge.modules.nn.table import FlattenTable
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.zoo import (
    ApplyBoxTransform,
    BatchBilinearSamplerBHWD,
    BilinearRoiPooling,
    BoxIoU,
    BoxRegressionCriterion,
    BoxToAffine,
    InvertBoxTransform,
    LogisticCriterion,
    MakeAnchors,
    OurCrossEntropyCriterion,
    PosSlicer,
    RegularizeLayer,
    ReshapeBoxFeatures,
)
from dpnn_bridge.zoo.densecap_boxes import clip, corners, nms
from dpnn_bridge.zoo.densecap_model import DenseCapModel, LocalizationLayer
from dpnn_bridge.zoo.densecap_sampler import BoxSampler, BoxSamplerHelper
from dpnn_bridge.zoo.stn import AffineGridGeneratorBHWD
from dpnn_bridge.zoo.torch_rnn import TemporalCrossEntropyCriterion

Boxes = list[list[float]]


# ---------------------------------------------------------------------- suppression and clipping
def kept(boxes: Boxes, scores: list[float], *options: Any) -> list[int]:
    return nms(torch.tensor(boxes), torch.tensor(scores), *options).tolist()


def test_a_box_removes_worse_ones_that_overlap_more_than_allowed() -> None:
    boxes = [[1, 1, 4, 4], [1, 1, 4, 2], [3, 1, 6, 4], [10, 10, 11, 11]]  # of 16, 8, 16, 4 pixels
    scores = [0.9, 0.8, 0.7, 0.95]
    assert kept(boxes, scores, 0.4) == [3, 0, 2]


def test_overlap_at_the_threshold_is_allowed() -> None:
    boxes: Boxes = [[1, 1, 4, 4], [1, 1, 4, 2]]
    assert kept(boxes, [0.9, 0.8], 0.5) == [0, 1]
    assert kept(boxes, [0.9, 0.8], 0.499) == [0]


def test_suppressed_boxes_suppress_nothing_and_the_number_is_bounded() -> None:
    chain: Boxes = [[1, 1, 4, 1], [3, 1, 6, 1], [5, 1, 8, 1], [7, 1, 10, 1]]  # neighbours share 2 of 6 pixels
    assert kept(chain, [0.9, 0.8, 0.7, 0.6], 0.3) == [0, 2]
    assert kept(chain, [0.9, 0.8, 0.7, 0.6], 0.4, 3) == [0, 1, 2]
    assert nms(torch.empty(0, 4), torch.empty(0), 0.5).tolist() == []


def test_equal_scores_come_in_the_order_of_torch7s_sort() -> None:
    apart: Boxes = [[10 * i, 1, 10 * i + 1, 1] for i in range(4)]
    assert kept(apart, [0.5, 0.5, 0.5, 0.5], 0.5) == [
        3,
        2,
        1,
        0,
    ]  # an insertion sort, read backwards


def test_clipped_boxes_are_a_pixel_smaller() -> None:
    boxes = torch.tensor([[5.0, 5, 4, 4], [1, 1, 6, 6], [30, 5, 4, 4], [5, 5, -4, 4]])
    clipped, valid = clip(boxes, 10, 20)
    expected = [[5, 5, 3, 3], [2.25, 2.25, 2.5, 2.5], [19.5, 5, 1, 3], [5, 5, -5, 3]]
    assert clipped.tolist() == expected
    assert valid.tolist() == [True, True, True, False]


# ---------------------------------------------------------------------- drawing
SAMPLED: Boxes = [[5, 5, 10, 10], [5, 5, 10, 5], [50, 50, 10, 10], [5, 5, 4, 4], [1, 1, 10, 10]]
TRUE: Boxes = [[5, 5, 10, 10], [53, 50, 10, 10]]


def drawn(**options: Any) -> list[list[int]]:
    sampler = to_torch(to_lua(BoxSampler(BoxIoU(), **options)))
    return [sorted(i.tolist()) for i in sampler([torch.tensor([SAMPLED]), torch.tensor([TRUE])])]


def test_boxes_are_positive_above_the_threshold_or_as_the_best_of_a_target() -> None:
    positive, target, negative = drawn(low_thresh=0.3, high_thresh=0.9, batch_size=8)
    assert positive == [1, 3]  # the first is a target; the third, of IoU 63/137, is the best of the other
    assert target == [1, 2]
    assert set(negative) <= {4, 5}  # (3 * 3) / (100 + 16 - 9) and less than 0.3; the second, 36/114, is neither
    assert len(negative) == 6  # with replacement


def test_boxes_beyond_the_image_are_not_drawn() -> None:
    _, _, negative = drawn(low_thresh=0.3, high_thresh=0.9, batch_size=8, bounds=(1, 1, 60, 60))
    assert set(negative) == {4}


def test_negative_boxes_are_all_others_where_none_is_far_away() -> None:
    positive, _, negative = drawn(low_thresh=0.0, high_thresh=0.9, batch_size=4)
    assert positive == [1, 3]
    assert set(negative) <= {2, 4, 5}
    assert len(set(negative)) == 2  # without replacement


def test_a_batch_holds_at_most_half_positive_boxes() -> None:
    positive, target, negative = drawn(low_thresh=0.3, high_thresh=0.01, batch_size=2)
    assert len(positive) == len(target) == len(negative) == 1


def test_a_negative_box_that_is_drawn_twice_gets_the_gradient_of_the_last() -> None:
    helper = to_torch(to_lua(BoxSamplerHelper(BoxSampler(BoxIoU()))))
    helper.box_sampler.forward = lambda input: [torch.tensor([2]), torch.tensor([1]), torch.tensor([3, 1, 3])]
    boxes, scores = torch.rand(1, 3, 4), torch.rand(1, 3, 2, requires_grad=True)
    positive, targets, negative = helper([[boxes, scores], [torch.rand(1, 1, 4), torch.tensor([[[7.0]]])]])
    assert torch.equal(positive[1], scores[0, [1]])
    assert torch.equal(negative[0], boxes[0, [2, 0, 2]])
    assert targets[1].tolist() == [[7]]
    (positive[1].sum() + (negative[1] * torch.tensor([[2.0], [3], [5]])).sum()).backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[[3, 3], [1, 1], [5, 5]]]


# ---------------------------------------------------------------------- a small model
WIDTH, HEIGHT = 8, 6


def picture(*peaks: tuple[float, int, int]) -> Tensor:
    """Channels: x and y from 0, and a map that is -5 but at peaks (value, x, y)."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    image = torch.stack([x, y, torch.full_like(x, -5)]).to(DOUBLE)
    for value, column, row in peaks:
        image[2, row, column] = value
    return image[None]


def convolution(outputs: int, bias: list[float]) -> nn.Conv2d:
    layer = nn.Conv2d(3, outputs, 1, dtype=DOUBLE)
    layer.weight = nn.Parameter(torch.zeros_like(layer.weight))
    layer.bias = nn.Parameter(torch.tensor(bias, dtype=DOUBLE))
    return layer


def localization(**options: Any) -> LocalizationLayer:
    """Proposes at each pixel a box of 3 x 3, scored by the third channel, and a hopeless one of 5 x 1."""
    anchors = MakeAnchors(torch.tensor([[3, 5], [3, 1]], dtype=DOUBLE), 1, 1, 1, 1)
    both = ConcatTable(nn.Sequential(anchors, ReshapeBoxFeatures(2)), ReshapeBoxFeatures(2))
    moved = nn.Sequential(convolution(8, [0] * 8), RegularizeLayer(0.0), both)
    moved.append(ConcatTable(ApplyBoxTransform(), nn.Identity()))
    scores = nn.Sequential(convolution(4, [0, 0, -100, 0]), ReshapeBoxFeatures(2))
    with torch.no_grad():
        scores[0].weight[0, 2] = 1
    affine = BoxToAffine()
    grids = nn.Sequential(affine, AffineGridGeneratorBHWD(2, 2).double())
    pooling = nn.Sequential(ParallelTable(Transpose((1, 2), (2, 3)), grids), BatchBilinearSamplerBHWD())
    pooling.append(Transpose((3, 4), (2, 3)))
    return LocalizationLayer(
        nn.Sequential(ConcatTable(moved, scores), FlattenTable()),
        BoxSamplerHelper(BoxSampler(BoxIoU(), 0.3, 0.5, 4)),
        BilinearRoiPooling(pooling, affine),
        InvertBoxTransform(),
        *[OurCrossEntropyCriterion(LogSoftMax(), ClassNLLCriterion()) for _ in range(2)],
        nn.SmoothL1Loss(),
        objectness_weight=0.5,
        box_reg_weight=2.0,
        image_height=HEIGHT,
        image_width=WIDTH,
        **options,
    )


def test_the_best_proposals_are_pooled() -> None:
    layer = to_torch(to_lua(localization(nms_thresh=0.3, max_proposals=2).eval()))
    image = picture((2, 2, 2), (1.5, 3, 2), (1, 5, 4))  # clipped boxes of 2 x 2: neighbours have an IoU of 2 / 6
    features, boxes, targets, labels = layer(image)
    agree(boxes, [[3, 3, 2, 2], [6, 5, 2, 2]])
    x, y = 2 * (WIDTH - 1) / (2 * WIDTH), 2 * (HEIGHT - 1) / (2 * HEIGHT)  # half of the part that the grid covers
    agree(features[0, 0], [[2 - x, 2 + x], [2 - x, 2 + x]])
    agree(features[1, 1], [[4 - y, 4 - y], [4 + y, 4 + y]])
    assert targets.numel() == labels.numel() == 0
    layer.nms_thresh = 0.34
    agree(layer(image)[1], [[3, 3, 2, 2], [4, 3, 2, 2]])


def test_without_clipping_boxes_stay_and_all_may_be_proposed() -> None:
    layer = localization(clip_boxes=False, nms_thresh=1.0, max_proposals=-1).eval()
    boxes = layer(picture((2, 0, 0)))[1]
    assert len(boxes) == 2 * WIDTH * HEIGHT
    agree(boxes[0], [1, 1, 3, 3])


def test_proposals_are_trained_by_the_gradient_of_their_losses() -> None:
    layer = to_torch(to_lua(localization()))
    image, sampler = picture((2, 2, 2)), layer.box_sampler_helper.box_sampler
    pixel = 2 * WIDTH + 2 + 1  # the number of the first box at the peak, whose centre is (3, 3)
    sampler.forward = lambda input: [torch.tensor([pixel]), torch.tensor([1]), torch.tensor([1, 1, 1])]
    true, labels = torch.tensor([[[6.0, 3, 3, 6]]], dtype=DOUBLE), torch.tensor([[[4, 2]]])
    features, boxes, targets, found = layer(image, true, labels)
    agree(boxes, [[3, 3, 3, 3], [1, 1, 3, 3], [1, 1, 3, 3], [1, 1, 3, 3]])
    agree(targets, true[0])
    assert found.tolist() == [[4, 2]]
    assert features.shape == (4, 3, 2, 2)
    assert sampler.bounds == (1, 1, WIDTH, HEIGHT)
    chance = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-5))]  # of positive, of negative
    agree(layer.losses["obj_loss_pos"], -0.5 * math.log(chance[0]))
    agree(layer.losses["obj_loss_neg"], -0.5 * math.log(chance[1]))
    agree(layer.losses["box_reg_loss"], 2 * (0.5 + 0.5 * math.log(2) ** 2) / 4)  # moved by 1 width, twice as high
    (0 * features).sum().backward()
    box, score = layer.rpn[0][0][0], layer.rpn[0][1][0]
    agree(box.bias.grad, [-2 / 4, 0, 0, -2 * math.log(2) / 4, 0, 0, 0, 0])
    # of three equal negative boxes only the last counts, by a third
    positive = -0.5 * (1 - chance[0]) + 0.5 * (1 - chance[1]) / 3
    agree(score.bias.grad, [positive, -positive, 0, 0])


def test_a_new_loss_of_boxes_has_what_torch7_needs() -> None:
    obj = to_lua(BoxRegressionCriterion(nn.SmoothL1Loss()))
    assert obj["invert_transform"].class_name == "nn.InvertBoxTransform"
    assert len(obj["gradInput"].as_list()) == 2


def test_a_trained_layer_can_be_copied() -> None:
    layer = localization()
    true, labels = torch.tensor([[[6.0, 3, 3, 6]]], dtype=DOUBLE), torch.tensor([[[4, 2]]])
    layer(picture((2, 2, 2)), true, labels)
    again = copy.deepcopy(layer)
    assert again.losses == layer.losses
    with pytest.raises(ValueError, match="each box needs one label"):
        layer(picture(), true, labels.expand(1, 2, 2))
    with pytest.raises(ValueError, match="one image"):
        layer.eval()(picture().expand(2, -1, -1, -1))


def test_what_is_missing_is_said() -> None:
    layer = localization()
    with pytest.raises(ValueError, match=r"training needs boxes and labels: .* or call eval\(\)"):
        layer(picture())
    layer.image_width = None
    with pytest.raises(ValueError, match="image_height and image_width"):
        layer(picture())


def language_model() -> Any:
    fixture = dpnn_bridge.read_t7(FIXTURES / "third/densecap/nn.LanguageModel/LanguageModel__sample__double_eval.t7")
    assert isinstance(fixture, LuaTable)
    return to_torch(fixture["module"])


def model() -> DenseCapModel:
    """Codes of five numbers; boxes move by one code, and a caption follows from them."""
    torch.manual_seed(0)
    base = nn.Sequential(Reshape(12), nn.Linear(12, 5))
    scored, moved = nn.Linear(5, 1), nn.Linear(5, 4)
    parts = [base.double(), scored.double(), moved.double(), PosSlicer(), PosSlicer(), ApplyBoxTransform()]
    nodes = [
        GraphNode(splits=4),
        *[GraphNode((0,), select=i) for i in (1, 2, 3, 4)],  # 1: features, 2: boxes, 3: true boxes, 4: labels
        GraphNode((1,), "0"),
        GraphNode((5,), "1"),
        GraphNode((5, 4), "3"),
        GraphNode((2, 3), "4"),
        GraphNode((7,), "2"),
        GraphNode((8, 9), "5"),
        GraphNode((7, 4), "6"),
        GraphNode((6, 8, 9, 10, 11, 3, 4)),
    ]
    recognition = GModule(*parts, language_model(), nodes=nodes, num_inputs=4)
    return DenseCapModel(
        nn.Sequential(nn.Conv2d(3, 3, 1).double(), nn.Conv2d(3, 3, 1).double(), localization(), recognition),
        {
            "localization_layer": "2",
            "recog_base": "3.0",
            "objectness_branch": "3.1",
            "box_reg_branch": "3.2",
            "language_model": "3.6",
        },
        LogisticCriterion(),
        BoxRegressionCriterion(nn.SmoothL1Loss(), 0.3),
        TemporalCrossEntropyCriterion(),
        end_objectness_weight=0.5,
        captioning_weight=0.25,
    )


def test_a_model_describes_the_boxes_that_are_left() -> None:
    net = model().eval()
    image = torch.randn(1, 3, HEIGHT, WIDTH, dtype=DOUBLE)
    net.set_test_args(rpn_nms_thresh=0.5, final_nms_thresh=0.4, num_proposals=10)
    scores, regions, transforms, boxes, words, *targets = net(image)
    assert [t.numel() for t in targets] == [0, 0]
    features, proposed, _, _ = net.localization_layer(net.net[1](net.net[0](image)))
    assert len(proposed) == 10
    agree(regions, proposed)
    base, scored, moved = (net.net[3]._modules[name] for name in "012")
    codes = base(features)
    agree(transforms, moved(codes))
    final, objectness = ApplyBoxTransform()([proposed, moved(codes)]), scored(codes)
    left = nms(corners(final.float()), objectness[:, 0], 0.4)
    assert 1 < len(left) < 10
    agree(boxes, final[left].float().double())
    agree(scores, objectness[left].float().double())
    assert torch.equal(words, net.language_model.sample(codes)[left])
    kept_boxes, kept_codes = net.extract_features(image)
    agree(kept_boxes, boxes)
    agree(kept_codes, codes[left].float().double())
    assert net.train().forward_test(image)[2] == net.language_model.decode(words)
    net.final_nms_thresh = 0
    assert len(net(image)[3]) == 10


def test_a_model_is_the_same_after_t7_and_pt(tmp_path: Path) -> None:
    net = model().eval()
    net.set_test_args(0.6, 0.2, 7)
    image = torch.randn(1, 3, HEIGHT, WIDTH, dtype=DOUBLE)
    expected = net(image)
    dpnn_bridge.write_t7(tmp_path / "model.t7", to_lua(net))
    read = dpnn_bridge.load(tmp_path / "model.t7")
    read.finetune_cnn = True
    dpnn_bridge.save(tmp_path / "model.pt", read)
    for again in (read, dpnn_bridge.load(tmp_path / "model.pt")):
        assert again.final_nms_thresh == 0.2
        assert again.finetune_cnn
        assert again.language_model.words == net.language_model.words
        for value, wanted in zip(again(image), expected, strict=True):
            assert torch.equal(value, wanted)


@pytest.mark.parametrize("finetune", [False, True])
def test_losses_of_a_model_train_what_densecap_trains(finetune: bool) -> None:
    net = model()
    net.finetune_cnn = finetune
    image = torch.randn(1, 3, HEIGHT, WIDTH, dtype=DOUBLE)
    true = torch.tensor([[[3.0, 3, 3, 3], [6, 4, 2, 2]]], dtype=DOUBLE)
    losses = net.losses(image, true, torch.tensor([[[1, 2, 0], [3, 0, 0]]]))
    assert torch.equal(losses["total_loss"], sum(v for k, v in losses.items() if k != "total_loss"))
    proposals = net.localization_layer.losses
    agree(losses["mid_objectness_loss"], proposals["obj_loss_pos"] + proposals["obj_loss_neg"])
    losses["total_loss"].backward()
    trained = [p.grad is not None for part in net.net for p in part.parameters()]
    assert trained == [False, False, finetune, finetune] + [True] * (len(trained) - 4)
    with pytest.raises(ValueError, match="training needs boxes"):
        net(image)
    with pytest.raises(ValueError, match=r"one image \(1, 3, H, W\), found \(2, 3, 6, 8\)"):
        net(image.expand(2, -1, -1, -1))


def test_parts_must_be_those_of_the_network() -> None:
    obj = to_lua(model())
    obj["nets"]["recog_base"] = to_lua(nn.Linear(2, 2))
    with pytest.raises(ConversionError, match=r"recog_base.* not in the network 'net'"):
        to_torch(obj)


# ---------------------------------------------------------------------- captions
def test_captions_end_at_the_end_token_or_where_no_word_is() -> None:
    net = language_model()
    end = net.vocab_size + 1
    assert net.decode(torch.tensor([[1, 2, end, 3], [4, 0, 2, 2], [end, 1, 1, 1]])) == ["w1 w2", "w4", ""]
    assert net.target(torch.tensor([[1, 2, 3], [4, 0, 0]])).tolist() == [[0, 1, 2, 3, end], [0, 4, end, 0, 0]]


def test_beam_search_is_refused() -> None:
    obj = to_lua(language_model())
    obj["beam_size"] = 3
    with pytest.raises(ConversionError, match="beam"):
        to_torch(obj)
