"""Set everything that distinguishes a newly constructed model from the converted one, such as modes and ties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.conversion.ties import Tie
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.batch_normalization import accept_single_samples
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.outputs.py.calls import literal

#: attributes that are not settings, that other code writes, or that state the position in a sequence
APART = {"training", "lua_record", "ties", "shared_buffers", "remembering", "step", "keeps_std"}
#: what :func:`~dpnn_bridge.modules.nn.batch_normalization.accept_single_samples` sets
SINGLE = {"batch_dims", "is_single"}

#: attributes of modules whose tensors are views of others, as a program and as a mapping ties them
TIED = ("tied_to", "ties")


class Setting(NamedTuple):
    """A difference between the modules of two models.

    Attributes:
        wanted: the module of the model.
        statement: gives the fresh module what this one has.
        attribute: the attribute that differs, if it is one.
        found: what the fresh module has in it.
    """

    wanted: nn.Module
    statement: str
    attribute: str = ""
    found: str = ""


class Pair(NamedTuple):
    """A module of the model, the corresponding module of the fresh model, and the expression that reaches it."""

    path: str
    wanted: nn.Module
    fresh: nn.Module


def settings(pairs: list[Pair]) -> list[str]:
    """Return the statements for all differences between the modules of two models, except the values of tensors.

    Args:
        pairs: the modules, each before those inside of it. The fresh ones may be cast.

    Raises:
        ConversionError: a parameter depends on another in a way that no statement says.
    """
    statements = (setting.statement for setting in constants(pairs))
    return [*_dtypes(pairs), *_buffers(pairs), *statements, *_single_samples(pairs), *_modes(pairs)]


def constants(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield what two models share, train or compute otherwise, whatever their dtypes and modes."""
    yield from _sharing(pairs)
    yield from _ties(pairs)
    yield from _frozen(pairs)
    yield from _attributes(pairs)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own parameters and buffers."""
    return {k: t for k, t in [*module._parameters.items(), *module._buffers.items()] if t is not None}


def _dtypes(pairs: list[Pair]) -> Iterator[str]:
    """Yield casts: of the whole model to the type that most tensors have, then of modules with another."""
    known = {id(p.fresh): p for p in pairs}
    kinds = Counter(t.dtype for p in pairs for t in tensors(p.wanted).values() if t.is_floating_point())
    common = [dtype for dtype, _ in kinds.most_common(1) if any(dtype in _casts(p) for p in pairs)]
    for pair, dtypes in chain([(pairs[0], common)], ((p, _casts(p)) for p in pairs)):
        for dtype in dtypes:
            inside = [known[id(m)] for m in pair.fresh.modules() if id(m) in known]
            before = sum(map(len, map(_casts, inside)))
            pair.fresh.to(dtype)
            if sum(map(len, map(_casts, inside))) < before:
                yield f"{pair.path}.to({dtype})"
            else:  # some modules keep their types
                pair.fresh.to(torch.get_default_dtype())


def _casts(pair: Pair) -> list[torch.dtype]:
    """Return the types of a module's own floating point tensors that the fresh one has in another."""
    fresh = tensors(pair.fresh)
    both = [(t, fresh[name]) for name, t in tensors(pair.wanted).items() if name in fresh and t.is_floating_point()]
    return list(dict.fromkeys(t.dtype for t, other in both if other.dtype != t.dtype))


def _buffers(pairs: list[Pair]) -> Iterator[str]:
    """Yield the buffers that exist, or have a size, only after the module ran."""
    for path, wanted, fresh in pairs:
        for name, buffer in wanted._buffers.items():
            if name not in fresh._buffers or name in wanted._non_persistent_buffers_set:
                continue
            other = fresh._buffers[name]
            if buffer is None and other is not None:
                yield f"{path}.{name} = None"
            elif buffer is not None and (other is None or (other.shape, other.dtype) != (buffer.shape, buffer.dtype)):
                yield f"{path}.{name} = torch.zeros({', '.join(map(str, buffer.shape)) or '()'}, dtype={buffer.dtype})"


def _sharing(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield the tensors that several modules have."""
    first: dict[int, tuple[str, Any]] = {}
    for path, wanted, fresh in pairs:
        for name, tensor in tensors(wanted).items():
            other = getattr(fresh, name, None)
            known, same = first.setdefault(id(tensor), (f"{path}.{name}", other))
            if same is not other:
                yield Setting(wanted, f"{path}.{name} = {known}")


def _ties(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield the tensors that are views of other modules' parameters."""
    paths = {id(p.wanted): p.path for p in pairs}
    ties = [(p, name, t) for p in pairs for name, t in p.wanted.__dict__.get("ties", {}).items()]
    ties = [(p, name, t) for p, name, t in ties if not any(name in vars(p.fresh).get(kept, ()) for kept in TIED)]
    positions: dict[tuple[nn.Module, str], Tensor] = {}
    # a flat parameter over several fields is no field itself
    flat = {(t.source.owner, t.source.leaf): t.parameter() for _, _, t in ties if not t.source.name}
    for (owner, leaf), parameter in flat.items():
        empty = f"torch.empty({parameter.numel()}, dtype={parameter.dtype})"
        yield Setting(owner, f"{paths.get(id(owner))}.{leaf} = nn.Parameter({empty})")
    for pair, name, t in ties:
        source = paths.get(id(t.source.owner))
        parameter = t.source.owner, t.source.leaf
        if parameter not in positions:
            positions[parameter] = torch.arange(t.parameter().numel())
        view = _view(t, positions[parameter])
        if source is None or view is None:
            raise ConversionError(f"the tie of its {name} to another module cannot be written", path=pair.path)
        arguments = f'{pair.path}, "{name}", {source}, "{t.source.leaf}", {", ".join(map(str, view))}'
        yield Setting(pair.wanted, f"tie({arguments})")


def _view(t: Tie, elements: Tensor) -> tuple[Any, ...] | None:
    """Return shape, stride and offset of a tied tensor in its source, of 0, 1, 2, … ; None if it is not a view."""
    positions = t.arranged(elements.reshape(t.parameter().shape))
    offset = int(positions.flatten()[0])
    stride = tuple(int(positions.narrow(d, int(n > 1), 1).flatten()[0]) - offset for d, n in enumerate(positions.shape))
    view = elements.as_strided(positions.shape, stride, offset)
    return (tuple(positions.shape), stride, offset) if torch.equal(view, positions) else None


def _frozen(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield the parameters that take no gradient."""
    done = set[int]()
    for path, wanted, fresh in pairs:
        if id(wanted) in done:
            continue
        trained, fresh_trained = (any(p.requires_grad for p in m.parameters()) for m in (wanted, fresh))
        if not trained and fresh_trained:
            done |= {id(m) for m in wanted.modules()}
            yield Setting(wanted, f"{path}.requires_grad_(False)")
            continue
        others = tensors(fresh)
        for name, parameter in wanted.named_parameters(recurse=False):
            if parameter.requires_grad != others.get(name, parameter).requires_grad:
                yield Setting(wanted, f"{path}.{name}.requires_grad_({parameter.requires_grad})")


def _single_samples(pairs: list[Pair]) -> Iterator[str]:
    """Yield what lets batch normalizations take single samples: one call for the model, if all of them do."""
    norms = [pair for pair in pairs if isinstance(pair.wanted, nn.modules.batchnorm._BatchNorm)]
    lacking = [pair for pair in norms if SINGLE & vars(pair.wanted).keys() - vars(pair.fresh).keys()]
    for path, *_ in pairs[:1] if lacking and len(lacking) == len(norms) else lacking:
        yield f"{accept_single_samples.__name__}({path})"


def _attributes(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield statements for attributes that were changed after construction."""
    for path, wanted, fresh in pairs:
        if isinstance(wanted, GModule):
            continue  # its graph became source
        mode = vars(wanted).get("remembering")
        if mode not in (None, "neither", vars(fresh).get("remembering")):
            yield Setting(wanted, f'{path}.remember("{mode}")')
        for name, value in vars(wanted).items():
            other = vars(fresh).get(name)
            if not name.startswith("_") and name not in APART | SINGLE and _is_plain(value) and not _same(value, other):
                found = literal(other) if _is_plain(other) else type(other).__name__
                yield Setting(wanted, f"{path}.{name} = {literal(value)}", name, found)


def _modes(pairs: list[Pair]) -> Iterator[str]:
    """Yield statements for evaluation and training mode."""
    done = set[int]()
    for path, wanted, fresh in pairs:
        if id(wanted) in done:
            continue
        if not any(m.training for m in wanted.modules()):
            done |= {id(m) for m in wanted.modules()}
            if any(m.training for m in fresh.modules()):
                yield f"{path}.eval()"
        elif wanted.training != fresh.training:
            yield f"{path}.training = {wanted.training}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _same(a: Any, b: Any) -> bool:
    """Return whether two plain values mean the same; 3 is the same size as (3, 3)."""
    a, b = (v[0] if isinstance(v, tuple) and len(set(v)) == 1 else v for v in (a, b))
    return a == b or (a != a and b != b)
