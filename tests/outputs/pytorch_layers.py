"""Layers and losses of torch.nn with their options: what Torch7 can compute, and what it cannot."""

# pyright: reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

ROW, MATRIX, SEQUENCE, IMAGE, VOLUME = (4,), (3, 4), (2, 4, 7), (2, 4, 8, 8), (2, 4, 5, 5, 5)

#: options of convolutions of all dimensions
CONVOLUTIONS: list[dict[str, Any]] = [
    {}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2}, {"groups": 4}, {"groups": 2, "dilation": 2},
    {"padding": "same"}, {"padding": "valid"}, {"bias": False}, {"padding": 1, "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate"}, {"padding": 1, "padding_mode": "circular"},
]  # fmt: skip
TRANSPOSED: list[dict[str, Any]] = [
    {}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2}, {"bias": False},
]  # fmt: skip
RECURRENT: list[dict[str, Any]] = [
    {}, {"batch_first": True}, {"num_layers": 2}, {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]  # fmt: skip
NORMS = [{}, {"affine": False}]

#: layers for each shape of input
BY_SHAPE: dict[tuple[int, ...], list[nn.Module]] = {
    ROW: [nn.Softmax(0), nn.Softmax(-1), nn.LogSoftmax(0)],
    MATRIX: [
        nn.Sequential(), nn.Linear(4, 3), nn.Linear(4, 3, bias=False),
        nn.LayerNorm(4), nn.LayerNorm(4, elementwise_affine=False),
        nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False), nn.BatchNorm1d(4, track_running_stats=False),
        *(kind(dim) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin) for dim in (0, 1, -1, -2)),
        nn.GroupNorm(2, 4), nn.Flatten(), nn.Flatten(-2), nn.Unflatten(1, (2, 2)), nn.GLU(), nn.PReLU(4),
        parametrizations.weight_norm(nn.Linear(4, 3)), parametrizations.weight_norm(nn.Linear(4, 3), dim=1),
        parametrizations.spectral_norm(nn.Linear(4, 3)), parametrizations.orthogonal(nn.Linear(4, 4)),
    ],
    SEQUENCE: [
        *(nn.Conv1d(4, 8, 3, **options) for options in CONVOLUTIONS),
        *(nn.ConvTranspose1d(4, 6, 3, **options) for options in TRANSPOSED),
        *(kind(dim) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin) for dim in (0, 1, 2, -1, -2, -3)),
        nn.LayerNorm(7), nn.LayerNorm(7, bias=False), nn.LayerNorm((4, 7)),
        nn.LayerNorm((4, 7), elementwise_affine=False), nn.GroupNorm(1, 4), nn.GroupNorm(2, 4), nn.GroupNorm(4, 4),
        nn.GroupNorm(2, 4, affine=False), nn.InstanceNorm1d(4), nn.InstanceNorm1d(2), nn.InstanceNorm1d(4, affine=True),
        nn.GLU(1), nn.Flatten(-2), nn.Unflatten(-1, (7, 1)), nn.Dropout1d(0.3), nn.PReLU(4),
        nn.MaxPool1d(2), nn.MaxPool1d(3, 2, 1, ceil_mode=True), nn.MaxPool1d(3, dilation=2), nn.AvgPool1d(3, 2, 1),
        nn.AvgPool1d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.LPPool1d(2, 3),
        nn.LPPool1d(2, 3, stride=2, ceil_mode=True), nn.AdaptiveAvgPool1d(2), nn.AdaptiveAvgPool1d(1),
        nn.AdaptiveMaxPool1d(3), nn.Upsample(scale_factor=2, mode="linear"),
        nn.Upsample(scale_factor=2, mode="linear", align_corners=True),
        nn.Upsample(size=13, mode="linear", align_corners=True), nn.ZeroPad1d((1, 2)), nn.ConstantPad1d((1, 2), 2.0),
        nn.ConstantPad1d((-1, 2), 2.0), nn.ReflectionPad1d(1), nn.ReplicationPad1d((1, 2)), nn.CircularPad1d((2, 1)),
        nn.CircularPad1d((-1, 2)), nn.CircularPad1d((1, -1)), nn.CircularPad1d((-1, -2)),
        nn.LocalResponseNorm(3), nn.LocalResponseNorm(5, 1e-3, 0.5, 2), nn.Sequential(nn.Tanh(), nn.Sequential()),
        nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.SELU(), nn.CELU(0.5), nn.GELU("tanh"), nn.SiLU(),
        nn.Mish(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.Softplus(2, 25), nn.Softsign(), nn.Hardtanh(),
        nn.Hardtanh(-2, 1), nn.Hardshrink(0.8), nn.Softshrink(0.2), nn.Tanhshrink(), nn.LogSigmoid(),
        nn.Threshold(0.1, -1), nn.Hardsigmoid(), nn.Hardswish(), nn.PReLU(), nn.RReLU(), nn.Identity(), nn.Dropout(0.3),
        *(kind(7, 5, **options) for kind in (nn.LSTM, nn.GRU, nn.RNN) for options in RECURRENT),
        nn.LSTM(7, 5, proj_size=3), nn.LSTM(7, 5, 2, dropout=0.5), nn.GRU(7, 5, bias=False),
        nn.RNN(7, 5, nonlinearity="relu"), nn.RNN(7, 5, bias=False),
        parametrizations.weight_norm(nn.Conv1d(4, 3, 3)),
        parametrizations.weight_norm(nn.LSTM(7, 5), "weight_ih_l0"),
    ],
    IMAGE: [
        *(nn.Conv2d(4, 8, 3, **options) for options in CONVOLUTIONS), nn.Conv2d(4, 6, 4, padding="same"),
        nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0)),
        *(nn.ConvTranspose2d(4, 6, 3, **options) for options in TRANSPOSED),
        *(kind(dim) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin) for dim in (0, 1, 2, 3, -1, -2, -3)),
        nn.Softmax2d(), nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.MaxPool2d(2, 2, dilation=2),
        nn.MaxPool2d((3, 2), (1, 2)), nn.AvgPool2d(2), nn.AvgPool2d(2, divisor_override=3),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), nn.LPPool2d(2, 3),
        nn.LPPool2d(3, 2, stride=1), nn.LPPool2d(2, (2, 3), ceil_mode=True),
        *(kind(size) for kind in (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
          for size in (1, (2, 3), (None, 2), (3, None), (None, None))),
        nn.Flatten(), nn.Flatten(0), nn.Flatten(-2), nn.Flatten(-3), nn.Unflatten(-1, (2, 4)),
        nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=3, mode="bilinear"), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Upsample(size=(15, 13), mode="bilinear", align_corners=True), nn.UpsamplingNearest2d(scale_factor=2),
        nn.UpsamplingBilinear2d(scale_factor=2), nn.UpsamplingBilinear2d(size=15),
        *(nn.BatchNorm2d(4, **options) for options in (*NORMS, {"momentum": 0.3}, {"track_running_stats": False})),
        *(nn.GroupNorm(2, 4, **options) for options in NORMS), *(nn.InstanceNorm2d(4, **options) for options in NORMS),
        nn.LayerNorm((4, 8, 8)), nn.LayerNorm((8, 8)), nn.LayerNorm(8), nn.LocalResponseNorm(3),
        nn.LocalResponseNorm(5, 1e-3, 0.5, 2), nn.ZeroPad2d((1, 2, 0, 1)), nn.ZeroPad2d(-1),
        nn.ZeroPad2d((-8, 1, 3, -2)), nn.ConstantPad2d((1, 2, 0, 3), 2.0),
        nn.ReflectionPad2d((1, 2, 0, 1)), nn.ReplicationPad2d((1, 2, 0, 1)),
        nn.CircularPad2d((1, 0, 2, 1)), nn.CircularPad2d((-1, 1, 0, -2)),
        nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.Dropout2d(0.3), nn.PReLU(4),
        nn.GLU(1), nn.GLU(-2), nn.GLU(-3), nn.Upsample(scale_factor=1), nn.Upsample(scale_factor=1, mode="bilinear"),
        parametrizations.weight_norm(nn.Conv2d(4, 3, 3)), parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=2)),
        parametrizations.weight_norm(nn.ConvTranspose2d(4, 3, 3)), parametrizations.spectral_norm(nn.Conv2d(4, 3, 3)),
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                      nn.Linear(3, 2), nn.LogSoftmax(1)),
        nn.DataParallel(nn.Sequential(nn.Conv2d(4, 3, 3), nn.LogSoftmax(1))),
    ],
    VOLUME: [
        *(nn.Conv3d(4, 8, 3, **options) for options in CONVOLUTIONS),
        *(nn.ConvTranspose3d(4, 6, 2, **options) for options in TRANSPOSED),
        nn.Softmax(1), nn.LogSoftmax(1), nn.Softmax(2), nn.Softmax(-1), nn.MaxPool3d(2),
        nn.MaxPool3d(3, 2, 1, ceil_mode=True), nn.MaxPool3d(2, 2, dilation=2, ceil_mode=True),
        nn.MaxPool3d(2, (3, 2, 1), 1, dilation=(1, 2, 1), ceil_mode=True), nn.AvgPool3d(2),
        nn.AvgPool3d(2, stride=1, padding=1), nn.AvgPool3d(2, count_include_pad=False),
        nn.AvgPool3d(2, divisor_override=5), nn.AvgPool3d(3, 2, 1, count_include_pad=False),
        *(kind(size) for kind in (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d) for size in (1, (2, 3, 2), (None, 2, 1))),
        *(nn.BatchNorm3d(4, **options) for options in NORMS), *(nn.InstanceNorm3d(4, **options) for options in NORMS),
        nn.GroupNorm(2, 4), nn.ReplicationPad3d(1), nn.ReflectionPad3d((1, 2, 0, 1, 1, 0)), nn.ConstantPad3d(1, 2.0),
        nn.ZeroPad3d((1, 0, 0, 1, 2, 0)), nn.CircularPad3d(1), nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="trilinear"),
        nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True),
        nn.Upsample(size=(6, 7, 8), mode="trilinear", align_corners=True), nn.Flatten(), nn.Flatten(-3),
        nn.Dropout3d(0.3),
    ],
}  # fmt: skip
if hasattr(nn, "RMSNorm"):
    BY_SHAPE[SEQUENCE] += [nn.RMSNorm(7), nn.RMSNorm((4, 7)), nn.RMSNorm(7, elementwise_affine=False)]
LAYERS = [(layer, shape) for shape, layers in BY_SHAPE.items() for layer in layers]

#: layers that are right once an example says how many dimensions there are
WITH_EXAMPLE: list[tuple[nn.Module, tuple[int, ...], str]] = [
    (nn.Linear(7, 3), SEQUENCE, "nn.Bottle"),
    (nn.LayerNorm(4), ROW, "nn.Sequential"),
    (nn.BatchNorm1d(4), SEQUENCE, "nn.Sequential"),
    (nn.SyncBatchNorm(4).eval(), IMAGE, "nn.SpatialBatchNormalization"),
    (nn.Softmax(1), MATRIX, "nn.SoftMax"),
    (nn.LogSoftmax(1), IMAGE, "nn.LogSoftMax"),
    (nn.Softmax(1), SEQUENCE, "nn.Sequential"),
    (nn.LogSoftmax(2), SEQUENCE, "nn.Bottle"),
    (nn.LocalResponseNorm(3), IMAGE, "nn.SpatialCrossMapLRN"),
    (nn.Upsample(scale_factor=2), SEQUENCE, "nn.Sequential"),
    (nn.Upsample(scale_factor=2), IMAGE, "nn.SpatialUpSamplingNearest"),
    (nn.Flatten(2), IMAGE, "nn.Bottle"),
    (nn.Flatten(1, 3), IMAGE, "nn.Collapse"),
    (nn.Unflatten(1, (2, 2)), SEQUENCE, "nn.Sequential"),
    # one sample, or more dimensions than a batch
    *((nn.Conv1d(4, 8, 3, **options), (4, 7), "nn.Sequential") for options in CONVOLUTIONS),
    *((nn.ConvTranspose1d(4, 6, 3, **options), (4, 7), "nn.Sequential") for options in TRANSPOSED),
    (nn.Conv2d(4, 6, 3, groups=2), (4, 8, 8), "nn.Concat"), (nn.Conv3d(4, 6, 3, groups=2), (4, 5, 5, 5), "nn.Concat"),
    (nn.MaxPool1d(3, 2, 1, ceil_mode=True), (4, 7), "nn.Sequential"),
    (nn.AvgPool1d(3, 2, 1), (4, 7), "nn.Sequential"), (nn.AdaptiveAvgPool1d(2), (4, 7), "nn.Sequential"),
    (nn.AdaptiveMaxPool1d(3), (4, 7), "nn.Sequential"), (nn.AvgPool3d(2, padding=1), (4, 5, 5, 5), "nn.Sequential"),
    (nn.ReplicationPad1d((1, 2)), (4, 7), "nn.Sequential"), (nn.CircularPad1d((2, 1)), (4, 7), "nn.Sequential"),
    (nn.ConstantPad1d((-1, 2), 2.0), (4, 7), "nn.Sequential"),
    (nn.ConstantPad1d((-1, 2), 2.0), (2, 4, 1), "nn.Sequential"), (nn.ZeroPad1d(1), (1, 2, 4, 7), "nn.Sequential"),
    (nn.ConstantPad2d((1, 2, 0, 3), 2.0), (4, 8, 8), "nn.Sequential"),
    (nn.ZeroPad3d((1, 0, 0, 1, 2, 0)), (1, 2, 4, 5, 5, 5), "nn.Sequential"),
    (nn.InstanceNorm1d(4, affine=True), (4, 8), "nn.Sequential"),
    (nn.InstanceNorm2d(4, affine=True), (4, 8, 8), "nn.Sequential"),
    (nn.UpsamplingNearest2d(scale_factor=2), (2, 4, 7), "nn.Sequential"),
    (nn.LSTM(7, 5), (4, 7), "nn.Sequential"), (nn.LSTM(7, 5, bidirectional=True), (4, 7), "nn.Sequential"),
    (nn.GRU(7, 5, 2, batch_first=True), (4, 7), "nn.Sequential"), (nn.RNN(7, 5), (4, 7), "nn.Sequential"),
    (nn.AdaptiveAvgPool3d(2), (4, 5, 5, 5), "nn.Sequential"),
    (nn.AdaptiveMaxPool2d((2, None)), (4, 8, 8), "nn.Sequential"),
    (nn.MaxPool3d(2, 2, 1, dilation=2, ceil_mode=True), (4, 5, 5, 5), "nn.Sequential"),
    # nn's class omits elements of a window that starts two elements before the input
    (nn.MaxPool3d((3, 4, 3), 1, (0, 2, 1), dilation=(1, 2, 2)), VOLUME, "nn.Sequential"),
    (nn.MaxPool3d(3, 1, 1, dilation=2), VOLUME, "nn.VolumetricDilatedMaxPooling"),
    (nn.ReflectionPad3d(1), (4, 5, 5, 5), "nn.Sequential"), (nn.PixelShuffle(2), (1, 2, 4, 5, 5), "nn.Bottle"),
    (nn.ZeroPad2d((1, 2, 0, 1)), (4, 7), "nn.Sequential"), (nn.ZeroPad2d((1, -2, 0, 0)), (4, 8, 8), "nn.Sequential"),
    (nn.ZeroPad2d((1, 2, -1, 0)), (4, 8, 8), "nn.SpatialZeroPadding"),
]  # fmt: skip

REFUSED: list[tuple[nn.Module, str]] = [
    (nn.ConvTranspose2d(3, 4, 3, dilation=2), "zeros between the weights"),
    (nn.LocalResponseNorm(4), "use an odd size"),
    (nn.LocalResponseNorm(1), "use an odd size of at least 3"),
    (nn.ELU(-0.5), "alpha=0 and more"),
    (nn.CELU(-0.5), "alpha=0 and more"),
    (nn.Softplus(2, 5), "threshold=20 and more"),
    (nn.Dropout(1.0), "p < 1"),
    (nn.LSTM(3, 4, 2, dropout=1.0), "below 1"),
    (nn.BCELoss(weight=torch.ones(2, 3)), "one factor for each column"),
    (nn.BCEWithLogitsLoss(weight=torch.ones(2, 3)), "one factor for each column"),
    (nn.EmbeddingBag(5, 3, scale_grad_by_freq=True), "without these"),
    (nn.GELU(), "GELU(approximate='tanh')"),
    (nn.LSTM(3, 4, bias=False), "set bias=True"),
    (nn.Flatten(1, 2), "end_dim=-1"),
    (nn.Flatten(2), "input=tensor"),
    (nn.Upsample(scale_factor=2, mode="bicubic"), "'nearest' with an integer scale_factor"),
    (nn.Upsample(scale_factor=1.5), "'nearest' with an integer scale_factor"),
    (nn.Upsample(scale_factor=(2, 3)), "'nearest' with an integer scale_factor"),
    (nn.Upsample(size=16), "'nearest' with an integer scale_factor"),
    (nn.Upsample(size=(16, 16), mode="bilinear"), "mode='bilinear', size=(16, 16)"),
    (nn.BatchNorm2d(3, momentum=None), "set momentum to a number"),
    (nn.InstanceNorm2d(3, track_running_stats=True), "track_running_stats=False"),
    (nn.SyncBatchNorm(3), "BatchNorm1d, BatchNorm2d and BatchNorm3d"),
    (nn.AvgPool2d(3, 2, ceil_mode=True, divisor_override=3), "each of the two options alone"),
    (nn.AvgPool3d(2, ceil_mode=True), "ceil_mode=False"),
    *(
        (kind(2, return_indices=True), "return_indices=False")
        for kind in (nn.AdaptiveMaxPool2d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
    ),
    *(
        (kind(1, 3, ceil_mode=True), "stride above")
        for kind in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d)
    ),
    (nn.LPPool2d(2, 2, stride=3, ceil_mode=True), "stride above"),
    (nn.MaxPool3d(2, (4, 1, 1), padding=(0, 1, 0), dilation=2, ceil_mode=True), "stride above"),
    (nn.LPPool2d(float("inf"), 2), "MaxPool2d"),
    (nn.LPPool3d(2, 2), "AvgPool3d"),
    (nn.FractionalMaxPool2d(2, output_size=3, return_indices=True), "return_indices=False can be exported"),
    (nn.MaxUnpool2d(2), "ConvTranspose2d"),
    (nn.ChannelShuffle(2), "nn.Index in Lua"),
    (nn.Fold((4, 4), 2), "fixed weights"),
    (nn.Unfold(2), "fixed weights"),
    (nn.AlphaDropout(), "Dropout can be exported"),
    (nn.Dropout2d(1.0), "p < 1"),
    (nn.Unflatten(2, (2, 2)), "Unflatten(-1, sizes)"),
    (nn.MultiheadAttention(4, 2), "nn.MM"),
    (nn.TransformerEncoderLayer(4, 2), "LayerNorm"),
    (nn.CosineSimilarity(), "nn.CosineDistance in Lua"),
    (nn.LazyLinear(3), "run the model once"),
    (nn.MSELoss(reduction="none"), "'mean' and 'sum'"),
    (nn.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing=0"),
    (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), "one factor for each column"),
    (nn.KLDivLoss(reduction="batchmean"), "'mean' and 'sum'"),
    (nn.KLDivLoss(log_target=True), "log_target=False"),
    (nn.SmoothL1Loss(beta=2.0), "beta=1"),
    (nn.HuberLoss(delta=2.0), "delta=1"),
    (nn.MultiLabelSoftMarginLoss(reduction="sum"), "'sum' with weight=torch.ones"),
    (nn.CTCLoss(), "warp-ctc"),
    (nn.TripletMarginLoss(), "MarginRankingLoss"),
    (nn.PoissonNLLLoss(), "MSELoss"),
]

_SEEDED = torch.Generator().manual_seed(0)
_LOGITS, _OTHER = torch.randn(2, 5, 4, dtype=torch.float64, generator=_SEEDED)
# Torch7 adds 1e-12 to shares before their logarithm
_SHARES, _SIDES = (
    0.01 + 0.98 * torch.rand(5, 4, dtype=torch.float64, generator=_SEEDED),
    torch.tensor([1.0, -1, -1, 1, 1], dtype=torch.float64),
)
_CLASSES, _WEIGHTS = torch.tensor([0, 2, 1, 3, 2]), torch.rand(4, dtype=torch.float64)
_REDUCTIONS = ("mean", "sum")

#: losses, their arguments in PyTorch, the target last
LOSSES: list[tuple[nn.Module, tuple[torch.Tensor, ...]]] = [
    *((kind(reduction=r), (_LOGITS, _OTHER)) for kind in (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
      for r in _REDUCTIONS),
    *((nn.CrossEntropyLoss(**options), (_LOGITS, _CLASSES)) for options in (
        {}, {"reduction": "sum"}, {"weight": _WEIGHTS}, {"ignore_index": 2}, {"ignore_index": 0})),
    *((nn.NLLLoss(**options), (_LOGITS.log_softmax(1), _CLASSES)) for options in (
        {}, {"reduction": "sum"}, {"weight": _WEIGHTS}, {"ignore_index": 2})),
    *((nn.BCELoss(**options), (_SHARES, (_OTHER > 0).double())) for options in ({}, {"reduction": "sum"},
      {"weight": _WEIGHTS})),
    *((nn.BCEWithLogitsLoss(**options), (_LOGITS, (_OTHER > 0).double())) for options in ({}, {"weight": _WEIGHTS})),
    *((nn.KLDivLoss(reduction=r), (_LOGITS.log_softmax(1), _OTHER.softmax(1))) for r in _REDUCTIONS),
    (nn.SoftMarginLoss(), (_LOGITS, _OTHER.sign())),
    *((nn.HingeEmbeddingLoss(margin=m), (_SHARES[:, 0], _SIDES)) for m in (1.0, 0.3)),
    *((nn.MarginRankingLoss(margin=m), (_LOGITS[:, 0], _OTHER[:, 0], _SIDES)) for m in (0.0, 0.5)),
    *((nn.CosineEmbeddingLoss(margin=m), (_LOGITS, _OTHER, _SIDES)) for m in (0.0, 0.2)),
    *((nn.MultiMarginLoss(**options), (_LOGITS, _CLASSES)) for options in (
        {}, {"p": 2, "margin": 0.5}, {"weight": _WEIGHTS}, {"reduction": "sum"})),
    (nn.MultiLabelMarginLoss(), (_LOGITS, torch.tensor([[0, 2, -1, 1]] * 5))),
    *((nn.MultiLabelSoftMarginLoss(**options), (_LOGITS, (_OTHER > 0).double())) for options in (
        {}, {"weight": _WEIGHTS}, {"weight": _WEIGHTS, "reduction": "sum"})),
]  # fmt: skip
