"""Networks as Torch7's own repositories build them: ResNet-20 of fb.resnet.torch, the generator of CycleGAN."""

from __future__ import annotations

import torch
from torch import nn

from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.modules.nn.arithmetic import CAddTable
from dpnn_bridge.modules.nn.container import ConcatTable
from dpnn_bridge.modules.nn.padding import Padding
from dpnn_bridge.modules.nn.reshape import View
from dpnn_bridge.modules.nn.unpooling import MaxUnpooling


def resnet20() -> nn.Module:
    """models/resnet.lua for CIFAR-10, depth 20, shortcut type B, after some training steps."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    before = 16
    for planes, first_stride in ((16, 1), (32, 2), (64, 2)):
        for i in range(3):
            stride = first_stride if i == 0 else 1
            inner = nn.Sequential(
                nn.Conv2d(before, planes, 3, stride, 1),
                nn.BatchNorm2d(planes),
                nn.ReLU(inplace=True),
                nn.Conv2d(planes, planes, 3, 1, 1),
                nn.BatchNorm2d(planes),
            )
            shortcut: nn.Module = nn.Identity()
            if before != planes:
                shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride), nn.BatchNorm2d(planes))
            layers.append(nn.Sequential(ConcatTable(inner, shortcut), CAddTable(), nn.ReLU(inplace=True)))
            before = planes
    layers += [nn.AvgPool2d(8, 1), View(64, num_input_dims=3), nn.Linear(64, 10)]
    return _as_read(nn.Sequential(*layers))


def cyclegan() -> nn.Module:
    """models/architectures.lua, ``defineG_resnet_6blocks`` with a third of its width and two blocks."""
    width = 16

    def block(planes: int) -> nn.Module:
        inner = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(planes, planes, 3),
            nn.InstanceNorm2d(planes, affine=True),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(planes, planes, 3),
            nn.InstanceNorm2d(planes, affine=True),
        )
        return nn.Sequential(ConcatTable(inner, nn.Identity()), CAddTable())

    def normalized(*layers: nn.Module, planes: int) -> list[nn.Module]:
        return [*layers, nn.BatchNorm2d(planes), nn.ReLU(inplace=True)]

    return _as_read(
        nn.Sequential(
            *normalized(nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), planes=width),
            *normalized(nn.Conv2d(width, 2 * width, 3, 2, 1), planes=2 * width),
            block(2 * width),
            block(2 * width),
            *normalized(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), planes=width),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, 3, 7),
            nn.Tanh(),
        )
    )


def _as_read(net: nn.Module) -> nn.Module:
    """The network as it comes out of a file, its statistics settled by a few batches."""
    torch.manual_seed(0)
    net.train()
    for _ in range(3):
        net(torch.randn(4, 3, 32, 32))
    return to_torch(to_lua(net)).eval()


def unpooling_network(width: int = 8) -> nn.Module:
    """A small ENet: pooling beside convolutions, padded channels, and unpooling that takes the pooling's indices."""
    pool = nn.MaxPool2d(2, 2)
    unpool = MaxUnpooling(pool)
    convolutions = nn.Sequential(
        nn.Conv2d(4, width, 2, 2), nn.BatchNorm2d(width), nn.PReLU(width), nn.Conv2d(width, width, 3, padding=1)
    )
    padded = nn.Sequential(pool, Padding(1, width - 4, n_input_dim=3))
    main = nn.Sequential(nn.Conv2d(width, 4, 1), nn.BatchNorm2d(4), unpool)
    wide = nn.Sequential(nn.Conv2d(width, 4, 1), nn.PReLU(4), nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), nn.BatchNorm2d(4))
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sequential(ConcatTable(convolutions, padded), CAddTable(), nn.PReLU(width)),
        nn.Sequential(ConcatTable(main, wide), CAddTable(), nn.ReLU()),
        nn.ConvTranspose2d(4, 5, 2, 2),
    ).eval()
