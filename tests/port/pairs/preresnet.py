"""Pre-activation ResNet of fb.resnet.torch; modules in another order than they run."""

from corpus import EQUAL, randn
from torch import nn

model = "port/preresnet.t7"
expect = EQUAL


class Unit(nn.Module):
    def __init__(self, cin, cout, kind):
        super().__init__()
        stride = 1 if cin == cout else 2
        self.kind = kind
        self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False) if cin != cout else nn.Identity()
        self.norms = nn.ModuleList([nn.BatchNorm2d(cin), nn.BatchNorm2d(cout)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.Conv2d(cout, cout, 3, 1, 1, bias=False)]
        )

    def forward(self, x):
        h = self.norms[0](x).relu()
        x = h if self.kind == "both" else x  # the first unit of a stage activates the shortcut too
        h = self.convs[0](h)
        h = self.convs[1](self.norms[1](h).relu())
        return h + self.shortcut(x)


class PreResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.units = nn.Sequential(
            Unit(4, 4, "both"),
            Unit(4, 4, "plain"),
            Unit(4, 6, "both"),
            Unit(6, 6, "plain"),
            Unit(6, 8, "both"),
            Unit(8, 8, "plain"),
        )
        self.classify = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(8, 10))
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.last = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.classify(self.last(self.units(self.stem(x))).relu())


target = PreResNet


def example(seed):
    return randn(2, 3, 32, 32, seed=seed)
