"""ResNet-50 of fb.resnet.torch to bottlenecks as torchvision writes them."""

from corpus import EQUAL, randn
from torch import nn

model = "port/resnet_bottleneck.t7"
expect = EQUAL


class Bottleneck(nn.Module):
    expansion = 4
    strides = (1, 2)  # which convolution takes the stride of a stage: the second

    def __init__(self, inplanes, planes, stride):
        super().__init__()
        first, second = (1, stride) if self.strides == (1, 2) else (stride, 1)
        self.conv1 = nn.Conv2d(inplanes, planes, 1, stride=first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=second, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(
            nn.Conv2d(inplanes, planes * 4, 1, stride=stride, bias=False), nn.BatchNorm2d(planes * 4)
        )

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNet(nn.Module):
    block = Bottleneck

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self.block(4, 2, 1)
        self.layer2 = self.block(8, 4, 2)
        self.layer3 = self.block(16, 8, 2)
        self.layer4 = self.block(32, 16, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).view(len(x), -1))


target = ResNet


def example(seed):
    return randn(2, 3, 64, 64, seed=seed)
