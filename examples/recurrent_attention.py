"""Train the recurrent attention model of dpnn's README on scikit-learn's digits.

    pip install -e ".[examples]"
    python examples/recurrent_attention.py

The model sees an image of 8 x 8 pixels only through a window of 3 x 3. After each window it selects the next location.
After the last window it names the digit. The location is a sample (ReinforceNormal), which no gradient passes: the
reward for a correct answer trains it (VRClassReward). Everything else is an ordinary PyTorch training loop. Takes
about a minute on a CPU.

Mnih et al., Recurrent Models of Visual Attention, https://arxiv.org/abs/1406.6247
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from dpnn_bridge.modules.dpnn import ReinforceNormal, SpatialGlimpse, VRClassReward


class RecurrentAttention(nn.Module):
    """A recurrent network that chooses what it sees.

    Args:
        window: height and width of what it sees at once.
        looks: how often it looks.
        hidden: size of the state.
        classes: number of classes.

    Shape:
        - Input: :math:`(N, 1, H, W)`.
        - Output: log probabilities :math:`(N, classes)` and the expected reward :math:`(N, 1)`.
    """

    def __init__(self, window: int = 3, looks: int = 5, hidden: int = 96, classes: int = 10) -> None:
        super().__init__()
        self.looks, self.hidden = looks, hidden
        self.glimpse = SpatialGlimpse(window, depth=1)
        self.what, self.where = nn.Linear(window * window, hidden), nn.Linear(2, hidden)
        self.sensor = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.recurrent = nn.GRUCell(hidden, hidden)
        self.locator = nn.Sequential(nn.Linear(hidden, 2), nn.Tanh(), ReinforceNormal(0.15), nn.Hardtanh())
        self.classifier = nn.Sequential(nn.Linear(hidden, classes), nn.LogSoftmax(1))
        self.baseline = nn.Parameter(torch.zeros(1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        state = images.new_zeros(len(images), self.hidden)
        for _ in range(self.looks):
            location = self.locator(state)
            seen = self.glimpse([images, location]).flatten(1)
            state = self.recurrent(self.sensor(self.what(seen) + self.where(location)), state)
        return self.classifier(state), self.baseline.expand(len(images), 1)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (N, 1, 8, 8) and digits for training, and for testing."""
    pixels, target = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 8 - 1
    labels, order = torch.from_numpy(target), torch.randperm(len(target))
    train, test = order[:1400], order[1400:]
    return images[train], labels[train], images[test], labels[test]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that the model names, looking where it means to."""
    model.eval()
    return float((model(images)[0].argmax(1) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    images, labels, test_images, test_labels = digits()
    model = RecurrentAttention()
    reward = VRClassReward(model, index_base=0)
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, epochs)
    print(f"before: {accuracy(model, test_images, test_labels):.0%} of the test images")
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in torch.randperm(len(labels)).split(50):
            prediction, expected = model(images[batch])
            loss = F.nll_loss(prediction, labels[batch]) + reward([prediction, expected], labels[batch])
            adam.zero_grad()
            loss.backward()
            adam.step()
        schedule.step()
        if epoch % 10 == 0 or epoch == epochs:
            print(
                f"epoch {epoch}: {accuracy(model, test_images, test_labels):.0%}, baseline {model.baseline.item():.2f}"
            )


if __name__ == "__main__":
    main()
