"""Train a language model with noise-contrastive estimation on the source code of dpnn_bridge.

    python examples/nce_language_model.py

Each training step compares the next word with 25 noise samples instead of the whole vocabulary (NCEModule,
NCECriterion). The perplexity uses the whole softmax, which the same module returns in evaluation. Takes about a
minute on a CPU.

Chen et al., Recurrent Neural Network Language Model Training with Noise Contrastive Estimation, 2015
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.modules.dpnn import NCECriterion, NCEModule

CONTEXT = 4  # words that predict the next one
RARE = "<rare>"


class LanguageModel(nn.Module):
    """Predicts a word from the ones before it.

    Args:
        unigrams: how often each word occurs.
        features: size of the embeddings.
        hidden: size of the hidden layer.
        noise: number of noise samples.

    Shape:
        - Input: ``[context, target]`` of shapes :math:`(N, CONTEXT)` and :math:`(N)`, numbers of words from 0.
        - Output: see :class:`~dpnn_bridge.modules.dpnn.nce.NCEModule`.
    """

    def __init__(self, unigrams: Tensor, features: int = 48, hidden: int = 128, noise: int = 25) -> None:
        super().__init__()
        words = len(unigrams)
        self.context = nn.Sequential(
            nn.Embedding(words, features), nn.Flatten(), nn.Linear(CONTEXT * features, hidden), nn.Tanh()
        )
        options = {"normalized": True, "log_softmax": True, "index_base": 0}
        self.output = NCEModule(hidden, words, noise, unigrams, Z=1, **options)

    def forward(self, input: list[Tensor]) -> Tensor | list[Tensor]:
        context, target = input
        return self.output([self.context(context), target])


def corpus(words: int) -> tuple[Tensor, Tensor, int]:
    """Training and test text as numbers of words, and the size of the vocabulary."""
    files = sorted(Path(dpnn_bridge.__file__).parent.glob("**/*.py"))
    texts = [re.findall(r"\w+|[^\w\s]", path.read_text(encoding="utf-8")) for path in files]
    counts = Counter(word for text in texts for word in text)
    number = {word: i for i, (word, _) in enumerate([(RARE, 0), *counts.most_common(words - 1)])}
    coded = [torch.tensor([number.get(word, 0) for word in text]) for text in texts if text]
    test = [text for i, text in enumerate(coded) if i % 10 == 0]
    train = [text for i, text in enumerate(coded) if i % 10]
    return torch.cat(train), torch.cat(test), len(number)


def examples(text: Tensor) -> tuple[Tensor, Tensor]:
    """Every place of a text: the words before it (N, CONTEXT) and the word (N)."""
    windows = text.unfold(0, CONTEXT + 1, 1)
    return windows[:, :CONTEXT], windows[:, CONTEXT]


@torch.no_grad()
def perplexity(model: LanguageModel, context: Tensor, target: Tensor) -> float:
    """exp of the mean negative log probability, with the whole softmax."""
    model.eval()
    total = 0.0
    for c, t in zip(context.split(1000), target.split(1000), strict=True):
        log_p = model([c, t])
        assert isinstance(log_p, Tensor)
        total -= float(log_p.gather(1, t[:, None]).sum())
    return float(torch.tensor(total / len(target)).exp())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--places", type=int, default=60_000, help="length of the training text")
    parser.add_argument("--words", type=int, default=2000, help="size of the vocabulary")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    train, test, words = corpus(arguments.words)
    unigrams = train.bincount(minlength=words).double() + 1
    model, criterion = LanguageModel(unigrams), NCECriterion()
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    (context, target), held_out = examples(train[: arguments.places]), examples(test[: arguments.places // 5])
    print(f"{len(target)} places, {words} words; perplexity before: {perplexity(model, *held_out):.0f}")
    for epoch in range(1, arguments.epochs + 1):
        model.train()
        for batch in torch.randperm(len(target)).split(100):
            loss = criterion(model([context[batch], target[batch]]))
            adam.zero_grad()
            loss.backward()
            adam.step()
        print(f"epoch {epoch}: perplexity {perplexity(model, *held_out):.0f}")


if __name__ == "__main__":
    main()
