"""densecap's detection network: region proposals, and the model that describes regions in words."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.contexts import LuaContext, TorchContext
from dpnn_bridge.conversion.fields import record_of
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import lua_class
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor
from dpnn_bridge.torch7.gradient import with_penalty
from dpnn_bridge.zoo.captioning import DenseCapLanguageModel
from dpnn_bridge.zoo.densecap import ApplyBoxTransform, BilinearRoiPooling
from dpnn_bridge.zoo.densecap_boxes import clip, corners, nms
from dpnn_bridge.zoo.densecap_sampler import BoxSampler, BoxSamplerHelper


class PartsInTables(LuaClass):
    """A mapping for classes with modules and values in tables, which are fields of the object.

    Attributes:
        inside: field of the table -> field in the table -> constructor argument and attribute of the same name.
    """

    indexed = True
    inside: ClassVar[dict[str, dict[str, str]]] = {}

    @classmethod
    def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
        arguments = super().arguments(obj, ctx)
        for table, fields in cls.inside.items():
            for name, attribute in fields.items():
                value = obj[table][name]
                arguments[attribute] = ctx.to_torch(value, table, name) if isinstance(value, LuaObject) else value
        return arguments

    @classmethod
    def to_lua(cls, module: nn.Module, ctx: LuaContext) -> dict[str, Any]:
        fields, record = super().to_lua(module, ctx), record_of(module)
        for table, names in cls.inside.items():
            fields[table] = ctx.restore(record.fields[table]) if record else LuaTable()
            for name, attribute in names.items():
                value = getattr(module, attribute)
                fields[table][name] = ctx.to_lua(value) if isinstance(value, nn.Module) else value
        return fields


@lua_class("nn.LocalizationLayer")
class LocalizationLayer(nn.Module):
    """Proposes regions of an image and pools the features in these regions.

    Training requires targets. The regions are drawn at random, positive regions first. The backward pass adds the
    gradients of the losses of the proposals (``losses``) to the gradient of the features.

    Args:
        rpn: maps features to ``[boxes, anchors, transforms, scores]``, :math:`(1, B, D)` each.
        box_sampler_helper: draws regions in training.
        roi_pooling: maps ``[features, boxes]`` to :math:`(N, C, H', W')`.
        invert_box_transform: maps ``[anchors, targets]`` to the transforms between them.
        obj_crit_pos, obj_crit_neg: losses of the scores of positive and of negative boxes.
        box_reg_crit: loss of the transforms.
        objectness_weight, box_reg_weight: factors of the losses.
        remove_outbounds: in training, 1 to draw only boxes inside the image.
        clip_boxes: in evaluation, clip boxes to the image.
        nms_thresh: in evaluation, the largest overlap of two boxes.
        max_proposals: in evaluation, the maximum number of boxes; -1 for all.
        image_height, image_width: size of the image; set both before each call.
        index_base: index of the first class in the targets of the losses.

    Attributes:
        losses: losses of the last call in training: ``obj_loss_pos``, ``obj_loss_neg``, ``box_reg_loss``.

    Shape:
        - Input: features :math:`(1, C, H, W)`; in training also boxes :math:`(1, B, 4)` and labels :math:`(1, B, L)`.
        - Output: ``[features, boxes, target_boxes, target_labels]``, of shapes :math:`(N, C, H', W')`,
          :math:`(N, 4)`, :math:`(P, 4)` and :math:`(P, L)`. The targets belong to the first P boxes and are empty in
          evaluation. Boxes are (xc, yc, w, h) in pixels counted from 1; in evaluation, the best box is first.

    Lua:
        ``nn.LocalizationLayer(opt)``, densecap LocalizationLayer.lua

    Raises:
        ValueError: the input is not one image; ``image_height`` or ``image_width`` is not set; in training, targets are
            missing or the numbers of labels and boxes differ.
    """

    fx_leaf = True

    def __init__(
        self,
        rpn: nn.Module,
        box_sampler_helper: nn.Module,
        roi_pooling: nn.Module,
        invert_box_transform: nn.Module,
        obj_crit_pos: nn.Module,
        obj_crit_neg: nn.Module,
        box_reg_crit: nn.Module,
        *,
        objectness_weight: float,
        box_reg_weight: float,
        remove_outbounds: int = 1,
        clip_boxes: bool = True,
        nms_thresh: float = 0.7,
        max_proposals: int = 300,
        image_height: float | None = None,
        image_width: float | None = None,
        index_base: int = 1,
    ) -> None:
        super().__init__()
        self.rpn, self.box_sampler_helper, self.roi_pooling = rpn, box_sampler_helper, roi_pooling
        self.invert_box_transform = invert_box_transform
        self.obj_crit_pos, self.obj_crit_neg, self.box_reg_crit = obj_crit_pos, obj_crit_neg, box_reg_crit
        self.objectness_weight, self.box_reg_weight = objectness_weight, box_reg_weight
        self.remove_outbounds, self.clip_boxes = remove_outbounds, clip_boxes
        self.nms_thresh, self.max_proposals = nms_thresh, max_proposals
        self.image_height, self.image_width, self.index_base = image_height, image_width, index_base
        self.losses: dict[str, Tensor] = {}

    def forward(self, input: Tensor, boxes: Tensor | None = None, labels: Tensor | None = None) -> list[Tensor]:
        if self.image_height is None or self.image_width is None:
            raise ValueError("LocalizationLayer: set image_height and image_width to the size of the image first")
        if input.dim() != 4 or len(input) != 1:
            raise ValueError(f"LocalizationLayer takes features of one image (1, C, H, W), found {tuple(input.shape)}")
        proposed = self.rpn(input)
        if not self.training:
            regions = self._select_proposals(proposed[0][0], proposed[3][0], self.image_height, self.image_width)
            return [self._pool(input, regions), regions, input.new_empty(0), input.new_empty(0)]
        if boxes is None or labels is None:
            raise ValueError("LocalizationLayer: training needs boxes and labels: pass them, or call eval() first")
        if boxes.shape[:2] != labels.shape[:2]:
            shapes = f"{tuple(boxes.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"LocalizationLayer: each box needs one label, found boxes and labels of shapes {shapes}")
        positive, targets, negative = self._draw_regions(proposed, [boxes, labels])
        regions = torch.cat([positive[0], negative[0]])
        losses = self._compute_losses(positive, targets[0], negative)
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        features = with_penalty(self._pool(input, regions), torch.stack([*losses.values()]).sum())
        return [features, regions, *targets]

    def _pool(self, input: Tensor, regions: Tensor) -> Tensor:
        assert isinstance(self.roi_pooling, BilinearRoiPooling)
        self.roi_pooling.image_height, self.roi_pooling.image_width = self.image_height, self.image_width
        return self.roi_pooling([input[0], regions])

    def _select_proposals(self, boxes: Tensor, scores: Tensor, height: float, width: float) -> Tensor:
        if self.clip_boxes:
            boxes, valid = clip(boxes, height, width)
            boxes, scores = boxes[valid], scores[valid]
        positive, negative = scores.exp().unbind(1)
        probability = (positive + negative).reciprocal() * positive
        count = None if self.max_proposals == -1 else self.max_proposals
        return boxes[nms(corners(boxes), probability, self.nms_thresh, count)]

    def _draw_regions(self, proposed: list[Tensor], targets: list[Tensor]) -> list[list[Tensor]]:
        assert isinstance(self.box_sampler_helper, BoxSamplerHelper)
        sampler = self.box_sampler_helper.box_sampler
        if self.remove_outbounds == 1:
            assert isinstance(sampler, BoxSampler)
            sampler.bounds = (1, 1, self.image_width, self.image_height)
        return self.box_sampler_helper([proposed, targets])

    def _compute_losses(self, positive: list[Tensor], targets: Tensor, negative: list[Tensor]) -> dict[str, Tensor]:
        _, anchors, transforms, scores = positive
        expected = self.invert_box_transform([anchors, targets]).detach()
        far = (expected.abs() > 10).any(1, keepdim=True)
        regression = self.box_reg_crit(transforms.masked_fill(far, 0), expected.masked_fill(far, 0))
        first = torch.full((len(scores),), self.index_base, device=scores.device)
        second = torch.full((len(negative[3]),), self.index_base + 1, device=scores.device)
        return {
            "obj_loss_pos": self.objectness_weight * self.obj_crit_pos(scores, first),
            "obj_loss_neg": self.objectness_weight * self.obj_crit_neg(negative[3], second),
            "box_reg_loss": self.box_reg_weight * regression,
        }

    class Lua(PartsInTables):
        inside = {
            "nets": {
                name: name
                for name in (
                    *("rpn", "box_sampler_helper", "roi_pooling", "invert_box_transform"),
                    *("obj_crit_pos", "obj_crit_neg", "box_reg_crit"),
                )
            },
            "opt": {
                "mid_objectness_weight": "objectness_weight",
                "mid_box_reg_weight": "box_reg_weight",
                "train_remove_outbounds_boxes": "remove_outbounds",
            },
        }
        scalars = {
            "test_clip_boxes": "clip_boxes",
            "test_nms_thresh": "nms_thresh",
            "test_max_proposals": "max_proposals",
            "image_height": "image_height",
            "image_width": "image_width",
        }
        defaults = {"image_height": None, "image_width": None}
        scratch = (
            *("rpn_out", "rpn_boxes", "rpn_anchors", "rpn_trans", "rpn_scores", "roi_features", "roi_boxes"),
            *("pos_data", "pos_boxes", "pos_anchors", "pos_trans", "pos_scores", "pos_labels", "pos_trans_targets"),
            *("pos_target_data", "pos_target_boxes", "pos_target_labels"),
            *("neg_data", "neg_boxes", "neg_scores", "neg_labels", "gt_boxes", "gt_labels"),
        )
        constants = dict.fromkeys(("roi_boxes", "pos_labels", "neg_labels", "pos_trans_targets"), LuaTensor.empty)
        checked_by = "formula"
        test = "test_the_best_proposals_are_pooled"


@lua_class("DenseCapModel")
class DenseCapModel(nn.Module):
    """Detects regions of an image and describes each region in words.

    The channels of the image are BGR, 0 to 255, minus densecap's mean pixel (103.939, 116.779, 123.68). Boxes are
    (xc, yc, w, h) in pixels; the centre of the top left pixel is (1, 1).

    Args:
        net: two parts of a convolutional network, a :class:`LocalizationLayer` and the recognition network.
        parts: name of a module in Lua's table ``nets`` -> path of the module in ``net``, as for ``get_submodule``.
        objectness_crit, box_reg_crit, lm_crit: losses of the final scores, boxes and words.
        end_objectness_weight, captioning_weight: factors of the losses.
        final_nms_thresh: in evaluation, the largest overlap of two described boxes; 0 keeps all boxes.
        finetune_cnn: train the second part of the convolutional network. The first part is never trained.
        index_base: token of the first word.

    Shape:
        - Input: image :math:`(1, 3, H, W)`; in training also boxes :math:`(1, B, 4)` and captions :math:`(1, B, L)`.
        - Output in evaluation, for N proposals of which non-maximum suppression keeps K: ``[objectness, proposals,
          transforms, boxes, words, empty, empty]``, of shapes :math:`(K, 1)`, :math:`(N, 4)`, :math:`(N, 4)`,
          :math:`(K, 4)` and :math:`(K, L)`. The words are sampled.
        - Output in training, for M drawn regions of which P are positive: ``[objectness, regions, transforms, boxes,
          word scores, target boxes, target captions]``, of shapes :math:`(M, 1)`, three times :math:`(P, 4)`,
          :math:`(P, L + 2, V + 1)`, :math:`(P, 4)` and :math:`(P, L)`.

    Differs from PyTorch:
        The image gets no gradient.

    Lua:
        ``DenseCapModel(opt)``, densecap DenseCapModel.lua

    Raises:
        ValueError: the input is not one image, or targets are missing in training.
    """

    fx_leaf = True

    def __init__(
        self,
        net: nn.Sequential,
        parts: dict[str, str],
        objectness_crit: nn.Module,
        box_reg_crit: nn.Module,
        lm_crit: nn.Module,
        *,
        end_objectness_weight: float,
        captioning_weight: float,
        final_nms_thresh: float = 0.3,
        finetune_cnn: bool = False,
        index_base: int = 1,
    ) -> None:
        super().__init__()
        self.net, self.parts = net, parts
        self.objectness_crit, self.box_reg_crit, self.lm_crit = objectness_crit, box_reg_crit, lm_crit
        self.end_objectness_weight, self.captioning_weight = end_objectness_weight, captioning_weight
        self.final_nms_thresh, self.finetune_cnn, self.index_base = final_nms_thresh, finetune_cnn, index_base

    @property
    def localization_layer(self) -> LocalizationLayer:
        layer = self._part("localization_layer")
        assert isinstance(layer, LocalizationLayer)
        return layer

    @property
    def language_model(self) -> DenseCapLanguageModel:
        model = self._part("language_model")
        assert isinstance(model, DenseCapLanguageModel)
        return model

    def _part(self, name: str) -> nn.Module:
        return self.net.get_submodule(self.parts[name])

    def forward(self, input: Tensor, boxes: Tensor | None = None, labels: Tensor | None = None) -> list[Tensor]:
        output = list(self.net[3](self._regions(input, boxes, labels)))
        if not self.training and self.final_nms_thresh > 0:
            output[3], output[0] = output[3].float().to(output[3]), output[0].float().to(output[0])  # as in Torch7
            kept = self._suppress(output[3], output[0])
            for i in (0, 3, 4):
                output[i] = output[i][kept]
        return output

    def _regions(self, input: Tensor, boxes: Tensor | None, labels: Tensor | None) -> list[Tensor]:
        if input.dim() != 4 or input.shape[:2] != (1, 3):
            raise ValueError(f"DenseCapModel takes one image (1, 3, H, W), found {tuple(input.shape)}")
        layer = self.localization_layer
        layer.image_height, layer.image_width = input.shape[2:]
        with torch.no_grad():
            features = self.net[0](input)
        with torch.set_grad_enabled(self.finetune_cnn and torch.is_grad_enabled()):
            features = self.net[1](features)
        return layer(features, boxes, labels)

    def _suppress(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return nms(corners(boxes.float()), scores[:, 0], self.final_nms_thresh)

    @torch.no_grad()
    def forward_test(self, image: Tensor) -> tuple[Tensor, Tensor, list[str]]:
        """Switch to evaluation mode and return boxes :math:`(K, 4)`, objectness :math:`(K, 1)` and K captions."""
        output = self.eval()(image)
        return output[3], output[0], self.language_model.decode(output[4])

    @torch.no_grad()
    def extract_features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes :math:`(K, 4)` and their features :math:`(K, D)`; call ``eval()`` first."""
        pooled, regions, _, _ = self._regions(image, None, None)
        features = self._part("recog_base")(pooled)
        boxes = ApplyBoxTransform()([regions, self._part("box_reg_branch")(features)])
        kept = self._suppress(boxes, self._part("objectness_branch")(features))
        return boxes.float().to(boxes)[kept], features.float().to(features)[kept]

    def set_test_args(
        self, rpn_nms_thresh: float = 0.7, final_nms_thresh: float = 0.3, num_proposals: int = 1000
    ) -> None:
        """Set which boxes evaluation keeps; the defaults are densecap's.

        Args:
            rpn_nms_thresh: largest overlap of two proposals.
            final_nms_thresh: largest overlap of two described boxes.
            num_proposals: number of proposals; -1 for all.
        """
        layer = self.localization_layer
        layer.clip_boxes, layer.nms_thresh, layer.max_proposals = True, rpn_nms_thresh, num_proposals
        self.final_nms_thresh = final_nms_thresh

    def losses(self, image: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Switch to training mode and return the losses of one image.

        The backward pass of ``total_loss`` computes densecap's gradients.

        Args:
            image: :math:`(1, 3, H, W)`.
            boxes: ground truth boxes, :math:`(1, B, 4)`.
            labels: a caption for each box, :math:`(1, B, L)`.
        """
        scores, regions, transforms, _, words, target_boxes, target_labels = self.train()(image, boxes, labels)
        positive = torch.full((len(scores),), self.index_base - 1, device=scores.device)
        positive[: len(regions)] = self.index_base
        target = self.language_model.target(target_labels)
        end = {
            "end_objectness_loss": self.end_objectness_weight * self.objectness_crit(scores, positive),
            "end_box_reg_loss": self.box_reg_crit([regions, transforms], target_boxes),
            "captioning_loss": self.captioning_weight * self.lm_crit(words, target),
        }
        proposals = self.localization_layer.losses
        middle = {
            "mid_objectness_loss": proposals["obj_loss_pos"] + proposals["obj_loss_neg"],
            "mid_box_reg_loss": proposals["box_reg_loss"],
        }
        return {**middle, **end, "total_loss": torch.stack([*middle.values(), *end.values()]).sum()}

    class Lua(PartsInTables):
        members = ("net",)
        inside = {
            "crits": {name: name for name in ("objectness_crit", "box_reg_crit", "lm_crit")},
            "opt": {name: name for name in ("end_objectness_weight", "captioning_weight", "final_nms_thresh")},
        }
        scalars = ("finetune_cnn",)
        defaults = {"finetune_cnn": False}
        scratch = ("gt_boxes", "gt_labels")
        checked_by = "formula"
        test = "test_a_model_describes_the_boxes_that_are_left"

        @classmethod
        def arguments(cls, obj: LuaObject, ctx: TorchContext) -> dict[str, Any]:
            arguments = super().arguments(obj, ctx)
            paths = {id(module): path for path, module in arguments["net"].named_modules()}
            names = ("localization_layer", "recog_base", "objectness_branch", "box_reg_branch", "language_model")
            parts = {name: ctx.to_torch(obj["nets"][name], "nets", name) for name in names}
            outside = [name for name, part in parts.items() if id(part) not in paths]
            if outside:
                raise ctx.error(f"the modules {outside} of the table 'nets' are not in the network 'net'", obj)
            return {**arguments, "parts": {name: paths[id(part)] for name, part in parts.items()}}

        @classmethod
        def to_lua(cls, module: DenseCapModel, ctx: LuaContext) -> dict[str, Any]:
            fields, record = super().to_lua(module, ctx), record_of(module)
            nets = ctx.restore(record.fields["nets"]) if record else LuaTable()
            nets.update({name: ctx.to_lua(module._part(name)) for name in module.parts})
            return {**fields, "nets": nets}
