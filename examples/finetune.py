"""Fine-tune a Torch7 classifier on new classes, and export it to Torch7.

    python examples/finetune.py [output folder]

The digit classifier of torch/demos (``train-on-mnist.lua``) keeps its convolutions. A new last layer learns to
distinguish the direction of stripes. Takes a few seconds on a CPU.
"""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import dpnn_bridge

CHECKPOINT = Path(__file__).parent.parent / "fixtures" / "samples" / "torch-demos__mnist_convnet" / "model.t7"
DIRECTIONS = 4


def stripes(n: int) -> tuple[Tensor, Tensor]:
    """``n`` noisy images of stripes, shape (n, 1, 32, 32), and the number of each one's direction."""
    direction = torch.randint(DIRECTIONS, (n,))
    angle, phase = direction * math.pi / DIRECTIONS, torch.rand(n) * 2 * math.pi
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    along = x * angle.cos().view(-1, 1, 1) + y * angle.sin().view(-1, 1, 1)
    images = (0.8 * along + phase.view(-1, 1, 1)).sin() + 0.5 * torch.randn(n, 32, 32)
    return images.unsqueeze(1), direction


def accuracy(model: nn.Module, n: int = 256) -> float:
    """Share of new images whose direction the model finds."""
    model.eval()
    images, direction = stripes(n)
    with torch.no_grad():
        return (model(images).argmax(1) == direction).float().mean().item()


def finetune(steps: int = 60) -> tuple[nn.Sequential, float, float]:
    """Return the tuned model, its accuracy before and after."""
    model = dpnn_bridge.load(CHECKPOINT)
    assert isinstance(model, nn.Sequential)
    model.requires_grad_(False)
    head = nn.Linear(200, DIRECTIONS)
    model[9] = head  # was Linear(200, 10); LogSoftMax follows
    before = accuracy(model)

    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    model.train()
    for _ in range(steps):
        images, direction = stripes(32)
        optimizer.zero_grad()
        nn.functional.nll_loss(model(images), direction).backward()
        optimizer.step()
    return model, before, accuracy(model)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    model, before, after = finetune()
    print(f"accuracy {before:.0%} before, {after:.0%} after")

    dpnn_bridge.save(folder / "tuned.pt", model)
    dpnn_bridge.write_t7(folder / "tuned.t7", model)  # in Torch7: torch.load('tuned.t7'):forward(x)
    images, _ = stripes(8)
    for name in ("tuned.pt", "tuned.t7"):
        difference = (dpnn_bridge.load(folder / name)(images) - model(images)).abs().max()
        print(f"{folder / name}: differs by {difference:.1g}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as name:
            main(Path(name))
