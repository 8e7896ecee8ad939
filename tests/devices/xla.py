"""What torch_xla 2.9 computes otherwise than PyTorch on the CPU; docs/parity.md shows each fault with stock code."""

from __future__ import annotations

_VARIANCE = "the running variance of a batch normalization is updated with the biased variance"

#: Lua class -> fault of XLA that its fixture shows
FAULTS = {
    "nn.BatchNormalization": "rounds 1 / sqrt(variance) to 10 digits in double precision",
    **dict.fromkeys(("nn.VolumetricBatchNormalization", "nn.DenseConnectLayerCustom", "nn.ResidualDrop"), _VARIANCE),
    **dict.fromkeys(("nn.JointTrainModule", "nn.MSDNet_Layer", "nn.MSDNet_Layer_first"), _VARIANCE),
    "nn.ELU": "the gradient of elu takes the input for the output",
    "nn.VolumetricDilatedMaxPooling": "max_pool3d with dilation has no gradient",
    "nn.PixelSort": "pixel_unshuffle of an image without a batch has no gradient",
}
