"""Implement Torch7's random number generator, bit for bit: MT19937 and TH's distributions.

Example::

    generator = Generator(1234)
    generator.uniform(), generator.normal()          # as torch.uniform(), torch.normal() after manualSeed(1234)
    generator.fill_normal(torch.empty(2, 3))         # as torch.Tensor(2, 3):normal()

Transcendental functions are those of :mod:`math` (the C library), because numpy's vectorized functions differ by 1 ulp.
uniform, random, bernoulli, randperm and multinomial use no transcendental functions and are exact on every platform.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from dpnn_bridge.base.steps import spend_steps

_N, _M = 624, 397
_UPPER, _LOWER, _MATRIX = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)
_TO_UNIT = 1.0 / 4294967296.0


class Memory(ctypes.Structure):
    """TH's C struct of the generator on x86-64. The additional field ``turn`` counts the blocks of state words.

    Code in LuaJIT uses the same memory (``lua/prelude/ffi/random.lua``).
    """

    _fields_ = (
        ("initial_seed", ctypes.c_uint64),
        ("left", ctypes.c_int32),
        ("seeded", ctypes.c_int32),
        ("next", ctypes.c_uint64),
        ("words", ctypes.c_uint64 * _N),
        ("normal_x", ctypes.c_double),
        ("normal_y", ctypes.c_double),
        ("normal_rho", ctypes.c_double),
        ("normal_valid", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("turn", ctypes.c_int64),
    )


_BYTES = Memory.turn.offset


def _mix(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return (((high & _UPPER) | (low & _LOWER)) >> np.uint32(1)) ^ np.where(low & np.uint32(1), _MATRIX, np.uint32(0))


def _twist(old: np.ndarray) -> np.ndarray:
    """Return the next block of 624 state words."""
    new = np.empty_like(old)
    lag = _N - _M
    mixed = _mix(old[:-1], old[1:])
    new[:lag] = old[_M:] ^ mixed[:lag]
    new[lag : 2 * lag] = new[:lag] ^ mixed[lag : 2 * lag]
    new[2 * lag : _N - 1] = new[lag : _M - 1] ^ mixed[2 * lag :]
    new[_N - 1] = new[_M - 1] ^ _mix(old[-1:], new[:1])[0]
    return new


def _temper(y: np.ndarray) -> np.ndarray:
    y = y ^ (y >> np.uint32(11))
    y = y ^ ((y << np.uint32(7)) & np.uint32(0x9D2C5680))
    y = y ^ ((y << np.uint32(15)) & np.uint32(0xEFC60000))
    return y ^ (y >> np.uint32(18))


def _each(function: Callable[[float], float], values: list[float]) -> np.ndarray:
    return np.fromiter(map(function, values), np.float64, len(values))


class Generator:
    """Generator of random numbers, ``torch.Generator`` in Lua.

    Args:
        seed: seed as for ``torch.manualSeed``; None for a seed from the operating system.
    """

    class_name = "torch.Generator"

    def __init__(self, seed: int | None = None) -> None:
        self.memory = Memory(seeded=1)
        self._turn = -1  # number of the block whose tempered words are in _tempered
        if seed is None:
            self.seed()
        else:
            self.manual_seed(seed)

    # ---- state and 32-bit words

    def manual_seed(self, seed: float) -> None:
        """Set the seed, and discard the cached second normal number."""
        memory, self.initial_seed = self.memory, int(seed)
        memory.initial_seed = self.initial_seed & 0xFFFFFFFFFFFFFFFF
        state = np.random.RandomState(self.initial_seed & 0xFFFFFFFF).get_state(legacy=False)["state"]["key"]  # type: ignore[index]
        self._enter(np.asarray(state), 1)  # twisted before its first use
        memory.next = 0
        memory.normal_x = memory.normal_y = memory.normal_rho = memory.normal_valid = 0

    def _block(self) -> np.ndarray:
        """Return the state words as a view of the memory."""
        return np.ctypeslib.as_array(self.memory.words)

    def _enter(self, block: np.ndarray, left: int) -> None:
        """Store a block of state words, of which the last ``left - 1`` are unused."""
        memory = self.memory
        self._block()[:] = block
        memory.left, memory.next = left, _N + 1 - left
        memory.turn += 1

    def _drawn(self, count: int) -> np.ndarray:
        """Return the next ``count`` words of the block, or of a new block if no words are left.

        ``count`` must not exceed the number of words left in the block.
        """
        memory = self.memory
        if memory.left == 1:
            self._enter(_twist(self._block().astype(np.uint32)), _N + 1)
        if self._turn != memory.turn:
            self._tempered, self._turn = _temper(self._block().astype(np.uint32)), memory.turn
        at = memory.next
        memory.next, memory.left = at + count, memory.left - count
        return self._tempered[at : at + count]

    def seed(self) -> int:
        """Seed from the operating system and return the seed."""
        seed = int.from_bytes(os.urandom(8), "little") >> 11
        self.manual_seed(seed)
        return seed

    def words(self, count: int) -> np.ndarray:
        """Return the next ``count`` 32-bit words."""
        spend_steps(count // 8)
        if count > _N:
            bits: Any = np.random.MT19937(0)
            state = {"key": self._block().astype(np.uint32), "pos": _N + 1 - self.memory.left}
            bits.state = {"bit_generator": "MT19937", "state": state}
            words = bits.random_raw(count).astype(np.uint32)
            state = bits.state["state"]
            self._enter(np.asarray(state["key"]), _N + 1 - int(state["pos"]))
            return words
        chunks = []
        while count > 0:
            left = self.memory.left - 1
            chunks.append(self._drawn(min(count, left or _N)))
            count -= len(chunks[-1])
        return np.concatenate(chunks) if chunks else np.empty(0, np.uint32)

    def random(self) -> int:
        """Return one 32-bit word."""
        return int(self._drawn(1)[0])

    def get_state(self) -> bytes:
        """Return the state in the format that Torch7 serializes, 5048 bytes."""
        return bytes(self.memory)[:_BYTES]

    def set_state(self, data: bytes) -> None:
        """Restore a state from :meth:`get_state`.

        Raises:
            ValueError: the size is wrong, or the bytes are not the state of a seeded generator.
        """
        if len(data) != _BYTES:
            raise ValueError(f"RNG state is wrong size: expected {_BYTES} bytes, got {len(data)}")
        stored = Memory.from_buffer_copy(data + bytes(ctypes.sizeof(Memory) - _BYTES))
        if stored.seeded != 1 or not 0 < stored.left <= _N or stored.next > _N:
            raise ValueError("invalid RNG state")
        memory, seed = self.memory, stored.initial_seed
        self.initial_seed = seed - (1 << 64) if seed >> 63 else seed
        memory.initial_seed = seed
        untouched = stored.left == 1 and stored.next == 0
        self._enter(
            np.ctypeslib.as_array(stored.words) & np.uint64(0xFFFFFFFF), 1 if untouched else _N + 1 - stored.next
        )
        memory.next = stored.next
        memory.normal_valid = stored.normal_valid != 0
        for name in ("normal_x", "normal_y", "normal_rho"):
            value = getattr(stored, name)
            setattr(memory, name, math.nan if math.isnan(value) else value)  # other NaN are invalid in LuaJIT

    # ---- single numbers

    def unit(self) -> float:
        return self.random() * _TO_UNIT

    def uniform(self, a: float = 0.0, b: float = 1.0) -> float:
        return self.unit() * (b - a) + a

    def normal(self, mean: float = 0.0, std: float = 1.0) -> float:
        if not std > 0:
            raise ValueError("standard deviation must be strictly positive")
        memory = self.memory
        if memory.normal_valid:
            memory.normal_valid = 0
            return memory.normal_rho * math.sin(2 * math.pi * memory.normal_x) * std + mean
        x, y = self.unit(), self.unit()
        rho = math.sqrt(-2.0 * math.log(1.0 - y))
        memory.normal_x, memory.normal_y, memory.normal_rho, memory.normal_valid = x, y, rho, 1
        return rho * math.cos(2 * math.pi * x) * std + mean

    def exponential(self, rate: float) -> float:
        scale = -1.0 / rate if rate else -math.copysign(math.inf, rate)
        return scale * math.log(1 - self.unit())

    def cauchy(self, median: float = 0.0, sigma: float = 1.0) -> float:
        return median + sigma * math.tan(math.pi * (self.unit() - 0.5))

    def log_normal(self, mean: float = 1.0, std: float = 2.0) -> float:
        logarithm = self.normal(mean, std)
        try:
            return math.exp(logarithm)
        except OverflowError:
            return math.inf

    def geometric(self, p: float) -> int:
        if not 0 < p < 1:
            raise ValueError("must be > 0 and < 1")
        return int(math.log(1 - self.unit()) / math.log(p)) + 1

    def bernoulli(self, p: float = 0.5) -> int:
        if not 0 <= p <= 1:
            raise ValueError("must be >= 0 and <= 1")
        return int(self.unit() <= p)

    def randint(self, low: int, high: int) -> int:
        """Return ``torch.random(low, high)``, including both limits."""
        if high < low:
            raise ValueError("upper bound must be larger than lower bound")
        return self.random() % (high + 1 - low) + low

    def randperm(self, n: int) -> list[int]:
        """Return a random permutation of 0 to ``n - 1``."""
        if n <= 0:
            raise ValueError("must be strictly positive")
        order = list(range(n))
        left = np.arange(n, 1, -1)
        for i, j in enumerate((n - left + self.words(n - 1) % left).tolist()):
            order[i], order[j] = order[j], order[i]
        return order

    def multinomial(self, weights: Sequence[float] | np.ndarray, count: int, replace: bool = False) -> list[int]:
        """Draw indices, from 0, with probabilities proportional to ``weights``, with the sums and searches of TH."""
        with np.errstate(over="ignore"):  # large weights, as in C
            cum = np.cumsum(np.asarray(weights, np.float64))
        total, n = cum[-1], len(cum)
        if not total > 0:
            raise ValueError("invalid multinomial distribution (sum of probabilities <= 0)")
        with np.errstate(invalid="ignore"):
            cum /= total
        cum[n - 1] = 1
        if replace and bool((cum[1:] >= cum[:-1]).all()):
            return np.searchsorted(cum, self.uniforms(count)).tolist()
        draws = []
        for _ in range(count):
            u = self.unit()
            cum[n - 1] = 1
            low, high = 0, n
            while high > low:
                middle = low + (high - low) // 2
                if cum[middle] < u:
                    low = middle + 1
                else:
                    high = middle
            draws.append(low)
            if not replace:
                probability = cum[low] - (cum[low - 1] if low else 0.0)
                cum[low:] -= probability
                with np.errstate(divide="ignore", invalid="ignore"):
                    cum /= 1.0 - probability
        return draws

    # ---- arrays and tensors, in row-major order; numbers are computed in double precision and then cast

    def uniforms(self, count: int, a: float = 0.0, b: float = 1.0) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # infinite limits give NaN, as in C
            return self.words(count) * _TO_UNIT * (b - a) + a

    def bernoullis(self, count: int, p: float | np.ndarray = 0.5) -> np.ndarray:
        """Return ``count`` results of :meth:`bernoulli`; ``p`` may contain one probability per result."""
        if not np.all((np.asarray(p) >= 0) & (np.asarray(p) <= 1)):
            raise ValueError("must be >= 0 and <= 1")
        return (self.uniforms(count) <= p).astype(np.float64)

    def randints(self, count: int, low: int, high: int) -> np.ndarray:
        """Return ``count`` results of :meth:`randint`."""
        if high < low:
            raise ValueError("upper bound must be larger than lower bound")
        return self.words(count).astype(np.int64) % (high + 1 - low) + low

    def draws(self, count: int, draw: Callable[..., float], *args: float) -> np.ndarray:
        """Return ``count`` results of ``draw(*args)``."""
        spend_steps(8 * count)
        return np.fromiter((draw(*args) for _ in range(count)), np.float64, count)

    def normals(self, count: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        """Return ``count`` results of :meth:`normal`, computed on arrays with the same operations in the same order."""
        if count < 3:
            return self.draws(count, self.normal, mean, std)
        memory = self.memory
        first = [self.normal(mean, std)] if memory.normal_valid else []
        if not std > 0:
            raise ValueError("standard deviation must be strictly positive")
        spend_steps(4 * count)
        rest = count - len(first)
        pairs = rest // 2
        x, y = (self.words(2 * pairs) * _TO_UNIT).reshape(pairs, 2).T
        angles = (2 * math.pi * x).tolist()
        rho = np.sqrt(-2.0 * _each(math.log, (1.0 - y).tolist()))
        values = np.empty((pairs, 2))
        with np.errstate(invalid="ignore", over="ignore"):  # large or infinite arguments, as in C
            values[:, 0] = rho * _each(math.cos, angles) * std + mean
            values[:, 1] = rho * _each(math.sin, angles) * std + mean
        memory.normal_x, memory.normal_y, memory.normal_rho = x[-1], y[-1], rho[-1]
        last = [self.normal(mean, std)] if rest % 2 else []
        return np.concatenate([first, values.reshape(-1), last])

    def fill_uniform(self, t: torch.Tensor, a: float = 0.0, b: float = 1.0) -> torch.Tensor:
        return t.copy_(torch.from_numpy(self.uniforms(t.numel(), a, b)).view(t.shape))

    def fill_normal(self, t: torch.Tensor, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
        return t.copy_(torch.from_numpy(self.normals(t.numel(), mean, std)).view(t.shape))

    def fill_bernoulli(self, t: torch.Tensor, p: float = 0.5) -> torch.Tensor:
        return t.copy_(torch.from_numpy(self.bernoullis(t.numel(), p)).view(t.shape))

    def slopes(self, t: torch.Tensor, lower: float, upper: float) -> torch.Tensor:
        """Return the factors of ``nn.RReLU``: a uniform number for each element that is not positive, else 1."""
        slopes, chosen = torch.ones_like(t), t <= 0
        drawn = torch.from_numpy(self.uniforms(int(chosen.sum()), lower, upper))
        return slopes.masked_scatter_(chosen, drawn.to(slopes))

    def multinomials(self, weights: torch.Tensor, count: int, replace: bool = False) -> torch.Tensor:
        """Return the results of :meth:`multinomial` for each row of ``weights``."""
        rows = weights.detach().cpu().double().reshape(-1, weights.shape[-1]).numpy()
        drawn = torch.tensor([self.multinomial(row, count, replace) for row in rows], device=weights.device)
        return drawn.reshape(*weights.shape[:-1], count)
