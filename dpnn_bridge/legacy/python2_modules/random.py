"""Python 2's ``random``: the integers, choices and permutations that it computes from a seed.

The functions use the generator of Python's ``random``, so that other files continue its sequence.
"""

from __future__ import annotations

import random as _random
from collections.abc import Callable, MutableSequence
from math import ceil, log
from random import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary, reportAssignmentType]
from types import MethodType
from typing import Any, cast

#: without ``jumpahead`` and ``WichmannHill``, which Python 3 does not have
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *("Random", "SystemRandom", "betavariate", "choice", "expovariate", "gammavariate", "gauss", "getrandbits"),
    *("getstate", "lognormvariate", "normalvariate", "paretovariate", "randint", "random", "randrange", "sample"),
    *("seed", "setstate", "shuffle", "triangular", "uniform", "vonmisesvariate", "weibullvariate"),
]


class Random(_random.Random):
    """A generator of its own."""

    def seed(self, a: Any = None, *_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Start the sequence of an integer or of a text; without one, that of a random number."""
        _random.Random.seed(self, int(a) if hasattr(a, "__index__") else a, version=1)

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Choose an element of ``range(start, stop, step)``."""
        first, end = (0, start) if stop is None else (start, stop)
        if any(int(number) != number for number in (first, end, step)):
            raise ValueError("non-integer argument of randrange()")
        if int(step) == 0:
            raise ValueError("zero step for randrange()")
        count = -((int(first) - int(end)) // int(step))
        if count <= 0:
            raise ValueError("empty range for randrange()")
        return int(first) + int(step) * _below(self, count)

    def randint(self, a: int, b: int) -> int:
        """Choose an integer from ``a`` to ``b``."""
        return Random.randrange(self, a, b + 1)

    def choice(self, seq: Any) -> Any:
        """Choose an element of a sequence."""
        return seq[int(self.random() * len(seq))]

    def shuffle(self, x: MutableSequence[Any], random: Callable[[], float] | None = None) -> None:
        """Permute a list in place."""
        draw = random or self.random
        for i in reversed(range(1, len(x))):
            j = int(draw() * (i + 1))
            x[i], x[j] = x[j], x[i]

    def sample(self, population: Any, k: int) -> list[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Choose ``k`` elements without repetition."""
        count = len(population)
        if not 0 <= k <= count:
            raise ValueError("sample larger than population")
        large = 21 + (4 ** ceil(log(k * 3, 4)) if k > 5 else 0)  # below, Python 2 copied the population
        if count <= large or hasattr(population, "keys"):
            pool, result = list(population), []
            for last in range(count - 1, count - 1 - k, -1):
                j = int(self.random() * (last + 1))
                result.append(pool[j])
                pool[j] = pool[last]
            return result
        if k and not hasattr(population, "__getitem__"):  # a set; Python 2 drew a number before it noticed
            self.random()
            population = tuple(population)
        chosen: dict[int, None] = {}
        while len(chosen) < k:
            chosen[int(self.random() * count)] = None
        return [population[j] for j in chosen]


def _below(generator: _random.Random, count: int) -> int:
    """Choose an integer from 0 to ``count - 1``."""
    if count < 1 << 53:
        return int(generator.random() * count)
    bits = int(1.00001 + log(count - 1, 2.0))
    while (number := generator.getrandbits(bits)) >= count:
        pass
    return number


_shared = cast(Random, cast(MethodType, _random.uniform).__self__)
seed = MethodType(Random.seed, _shared)
randrange = MethodType(Random.randrange, _shared)
randint = MethodType(Random.randint, _shared)
choice = MethodType(Random.choice, _shared)
shuffle = MethodType(Random.shuffle, _shared)
sample = MethodType(Random.sample, _shared)
