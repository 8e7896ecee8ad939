"""Declare the random functions of the torch package, with :class:`dpnn_bridge.torch7.random.Generator`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from dpnn_bridge.lua.arguments import as_long
from dpnn_bridge.lua.dispatch import ALL_TYPES, FLOAT_TYPES, torch_function
from dpnn_bridge.lua.tensor import Tensor, TorchError, cast_number
from dpnn_bridge.torch7.random import Generator

#: element type -> number by which ``random()`` without arguments divides; the remainder is the result
_MODULUS = {
    **{"Double": 2**53 + 1, "Float": 2**24 + 1},
    **{"Long": 2**63, "Int": 2**31, "Short": 2**15, "Char": 2**7, "Byte": 2**8},
}


def _checked(code: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that an error of the generator about its arguments becomes a Torch7 error."""

    def run(*args: Any) -> Any:
        try:
            return code(*args)
        except (ValueError, OverflowError) as error:
            raise TorchError(f"bad argument ({error})") from None

    return run


def _store(t: Tensor, values: np.ndarray) -> None:
    if t.numel:
        t.write(torch.from_numpy(values))


@torch_function("rand", "r G L", types=FLOAT_TYPES)
def rand(r: Tensor, g: Generator, sizes: tuple[int, ...]) -> None:
    r.resize(sizes)
    _store(r, g.uniforms(r.numel))


@torch_function("randn", "r G L", types=FLOAT_TYPES)
def randn(r: Tensor, g: Generator, sizes: tuple[int, ...]) -> None:
    r.resize(sizes)
    _store(r, g.normals(r.numel))


@torch_function("randperm", "r G n")
@_checked
def randperm(r: Tensor, g: Generator, n: float) -> None:
    r.assign(torch.from_numpy(np.array(g.randperm(as_long(n)))) + 1)


@torch_function("uniform", "G n=0 n=1", types=FLOAT_TYPES)
def uniform(g: Generator, a: float, b: float) -> float:
    return g.uniform(a, b)


@torch_function("uniform", "X G n=0 n=1", types=FLOAT_TYPES)
def uniform_(t: Tensor, g: Generator, a: float, b: float) -> None:
    _store(t, g.uniforms(t.numel, cast_number(a, t.ty), cast_number(b, t.ty)))


def _declare(name: str, draw: str, defaults: str, types: tuple[str, ...]) -> None:
    """Declare a function that draws a number, and a method that fills a tensor with such numbers."""

    @torch_function(name, f"G {defaults}", types=types)
    @_checked
    def one(g: Generator, *args: float) -> float:
        return float(getattr(g, draw)(*args))

    @torch_function(name, f"X G {defaults}", types=types)
    @_checked
    def many(t: Tensor, g: Generator, *args: float) -> None:
        if not t.numel:  # arguments are not checked then
            return
        if types is FLOAT_TYPES:
            args = tuple(cast_number(x, t.ty) for x in args)
        if draw == "normal":
            _store(t, g.normals(t.numel, *args))
        elif draw == "bernoulli":
            _store(t, g.bernoullis(t.numel, *args))
        else:
            _store(t, g.draws(t.numel, getattr(g, draw), *args))


_declare("normal", "normal", "n=0 n=1", FLOAT_TYPES)
_declare("cauchy", "cauchy", "n=0 n=1", FLOAT_TYPES)
_declare("logNormal", "log_normal", "n=1 n=2", FLOAT_TYPES)
_declare("exponential", "exponential", "n", FLOAT_TYPES)
_declare("geometric", "geometric", "n", ALL_TYPES)
_declare("bernoulli", "bernoulli", "n=0.5", ALL_TYPES)


@_checked
def _bernoulli_each(t: Tensor, g: Generator, p: Tensor) -> None:
    if p.numel != t.numel:
        raise TorchError("inconsistent tensor size")
    _store(t, g.bernoullis(t.numel, p.t.double().reshape(-1).numpy()))


torch_function("bernoulli", "X G F")(_bernoulli_each)
torch_function("bernoulli", "X G D")(_bernoulli_each)


@torch_function("random", "G n n")
@_checked
def random_between(g: Generator, low: float, high: float) -> float:
    return g.randint(as_long(low), as_long(high))


@torch_function("random", "G n")
@_checked
def random_up_to(g: Generator, high: float) -> float:
    if high < 1:
        raise ValueError("upper bound must be strictly positive")
    return g.randint(1, as_long(high))


@torch_function("random", "G")
def random_word(g: Generator) -> float:
    return g.random()


@torch_function("random", "X G n n")
@_checked
def random_between_(t: Tensor, g: Generator, low: float, high: float) -> None:
    """Draw integers as ``unsigned long``, as C does: in a tensor of floats, a negative number x becomes 2^64 + x."""
    values = g.randints(t.numel, as_long(low), as_long(high))
    _store(t, np.where(values < 0, values + 2.0**64, values) if t.ty in FLOAT_TYPES else values)


@torch_function("random", "X G n")
@_checked
def random_up_to_(t: Tensor, g: Generator, high: float) -> None:
    if high < 1:
        raise ValueError("upper bound must be strictly positive")
    random_between_(t, g, 1, high)


@torch_function("random", "X G")
def random_(t: Tensor, g: Generator) -> None:
    if t.numel:
        t.write(torch.from_numpy((g.words(t.numel).astype(np.uint64) % np.uint64(_MODULUS[t.ty])).astype(np.int64)))


def _multinomial(r: Tensor, g: Generator, p: Tensor, count: float, replace: bool) -> Tensor:
    n, is_vector = as_long(count), p.dim == 1
    if p.dim not in (1, 2):
        raise TorchError("bad argument #2 (prob_dist must be 1 or 2 dim)")
    if is_vector:  # TH resizes it to a matrix of one row, which ignores the stride of the vector
        p.resize((1, p.size[0]))
    if n <= 0:
        raise TorchError("bad argument #2 (cannot sample n_sample <= 0 samples)")
    if not replace and n > p.size[-1]:
        raise TorchError("bad argument #2 (cannot sample n_sample > prob_dist:size(1) samples without replacement)")
    r.resize((p.size[0], n))
    r.write(g.multinomials(p.t, n, replace) + 1)
    if is_vector:
        r.resize((n,))
        p.resize((p.size[1],))
    return r


torch_function("multinomial", "IR G T n b=0", types=FLOAT_TYPES, modes="f")(_checked(_multinomial))
torch_function("multinomial", "I G T n b=0", types=FLOAT_TYPES, modes="m")(_checked(_multinomial))


# ---- the alias method; as in Torch7, each draw permanently decreases the stored table by one, see docs/lua.md


def _alias_setup(p: Tensor, aliases: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    weights = p.t.reshape(-1)
    n = len(weights)
    if not n:
        raise TorchError("bad argument #1 (empty Tensor)")
    scaled = weights * n
    small = [i for i in range(n) if float(scaled[i]) < 1]
    large = [i for i in range(n) if float(scaled[i]) >= 1]
    table = [0] * n
    while small and large:
        a, b = small[-1], large[-1]
        table[a] = b
        scaled[b] = scaled[b].double() - (1.0 - scaled[a].double())
        if float(scaled[b]) < 1:
            small[-1] = large.pop()
        else:
            small.pop()
    if not float(scaled.min()) > 0:
        raise TorchError("bad argument #2 (q_min is less than 0)")
    if float(scaled.max()) > 1:
        scaled = scaled / scaled.max()
    chosen = torch.tensor(table)
    q.assign(torch.where(chosen <= 0, torch.ones_like(scaled), scaled))
    aliases.assign(chosen + 1)
    return aliases, q


@torch_function("multinomialAliasSetup_", "T", types=FLOAT_TYPES, modes="f", small=("alias_setup",))
def alias_setup(p: Tensor) -> tuple[Tensor, Tensor]:
    return _alias_setup(p, Tensor("Long"), Tensor(p.ty))


@torch_function("multinomialAliasSetup_", "T I T", types=FLOAT_TYPES)
def alias_setup_into(p: Tensor, aliases: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    return _alias_setup(p, aliases, q)


@torch_function("multinomialAlias_", "I G I T", types=FLOAT_TYPES, small=("alias_draw",))
def alias_draw(r: Tensor, g: Generator, aliases: Tensor, q: Tensor) -> Tensor:
    aliases.t.sub_(1)
    table, limits = aliases.t.reshape(-1).tolist(), q.t.reshape(-1).tolist()
    draws = []
    for _ in range(r.numel):
        i = int(g.uniform(0, len(table)))
        draws.append(i + 1 if g.bernoulli(limits[i]) else table[i])
    r.write(torch.tensor(draws))
    return r
