"""Find the differences between a newly created model and the converted model, such as modes and tied parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dpnn_bridge.base.storage import one_parameter
from dpnn_bridge.conversion.stale import is_plain
from dpnn_bridge.conversion.ties import Tie
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.batch_normalization import accept_single_samples
from dpnn_bridge.modules.nn.nngraph import GModule
from dpnn_bridge.outputs.attributes import SINGLE, changed_attributes
from dpnn_bridge.outputs.py.calls import literal

#: attributes with the tied parameters of a module, in a generated program and in a converted model
TIED = ("tied_to", "ties")


class Setting(NamedTuple):
    """A difference between a module of the model and the module of the new model.

    Attributes:
        wanted: the module of the model.
        statement: statement that removes the difference.
        attribute: the attribute that differs, or an empty string.
        found: source code of its value in the new module.
    """

    wanted: nn.Module
    statement: str
    attribute: str = ""
    found: str = ""


class Pair(NamedTuple):
    """A module of the model and the corresponding module of the new model.

    Attributes:
        path: expression for the module, such as ``model[0]``.
        wanted: the module of the model.
        fresh: the module of the new model.
    """

    path: str
    wanted: nn.Module
    fresh: nn.Module


def settings(pairs: list[Pair]) -> list[str]:
    """Return the statements that remove all differences of the new model, except values of tensors.

    Args:
        pairs: the modules, each before its submodules. The new modules are cast if their dtypes differ.

    Raises:
        ConversionError: no statement can express a tied parameter.
    """
    statements = (setting.statement for setting in constants(pairs))
    return [*_dtypes(pairs), *_buffers(pairs), *statements, *_single_samples(pairs), *_modes(pairs)]


def constants(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield the differences in sharing, ties, ``requires_grad`` and attributes."""
    yield from _sharing(pairs)
    yield from _ties(pairs)
    yield from _frozen(pairs)
    yield from _attributes(pairs)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's own parameters and buffers."""
    return {k: t for k, t in [*module._parameters.items(), *module._buffers.items()] if t is not None}


def _dtypes(pairs: list[Pair]) -> Iterator[str]:
    """Yield casts: of the model to the most frequent dtype, then of modules with other dtypes."""
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
            else:  # the cast has no effect: some modules keep their dtypes
                pair.fresh.to(torch.get_default_dtype())


def _casts(pair: Pair) -> list[torch.dtype]:
    """Return the dtypes of a module's own floating point tensors that have another dtype in the new module."""
    fresh = tensors(pair.fresh)
    both = [(t, fresh[name]) for name, t in tensors(pair.wanted).items() if name in fresh and t.is_floating_point()]
    return list(dict.fromkeys(t.dtype for t, other in both if other.dtype != t.dtype))


def _buffers(pairs: list[Pair]) -> Iterator[str]:
    """Yield statements for buffers that only one model has, or whose shape or dtype differs, as after a first run."""
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
    """Yield the tensors that several modules share in one of the models but not in the other."""
    first: dict[tuple[Any, ...], tuple[str, Any]] = {}
    owners: dict[int, Tensor] = {}
    for path, wanted, fresh in pairs:
        for name, tensor in tensors(wanted).items():
            other = getattr(fresh, name, None)
            expression, shared = first.setdefault(one_parameter(tensor), (f"{path}.{name}", other))
            if shared is not other:
                yield Setting(wanted, f"{path}.{name} = {expression}")
            elif other is not None and one_parameter(owners.setdefault(id(other), tensor)) != one_parameter(tensor):
                own = "nn.Parameter({}.detach().clone())" if isinstance(tensor, nn.Parameter) else "{}.clone()"
                yield Setting(wanted, f"{path}.{name} = {own.format(f'{path}.{name}')}")


def _ties(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield the tied parameters."""
    paths = {id(p.wanted): p.path for p in pairs}
    ties = [(p, name, t) for p in pairs for name, t in p.wanted.__dict__.get("ties", {}).items()]
    ties = [(p, name, t) for p, name, t in ties if not any(name in vars(p.fresh).get(kept, ()) for kept in TIED)]
    positions: dict[tuple[nn.Module, str], Tensor] = {}
    # flat parameters that were created for tied parameters; no Lua field contains them
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
            raise ConversionError(
                f"its {name} is tied to a parameter of another module in a way that .py does not support",
                path=pair.path,
            )
        arguments = f'{pair.path}, "{name}", {source}, "{t.source.leaf}", {", ".join(map(str, view))}'
        yield Setting(pair.wanted, f"tie({arguments})")


def _view(t: Tie, elements: Tensor) -> tuple[Any, ...] | None:
    """Return shape, stride and offset of a tied tensor in its source; None if it is not a strided view.

    Args:
        t: the tied parameter.
        elements: 0, 1, 2, …, one for each element of the source.
    """
    positions = t.arranged(elements.reshape(t.parameter().shape))
    offset = int(positions.flatten()[0])
    stride = tuple(int(positions.narrow(d, int(n > 1), 1).flatten()[0]) - offset for d, n in enumerate(positions.shape))
    view = elements.as_strided(positions.shape, stride, offset)
    return (tuple(positions.shape), stride, offset) if torch.equal(view, positions) else None


def _frozen(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield the modules and parameters whose ``requires_grad`` differs."""
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
    """Yield calls of ``accept_single_samples``: one for the model if all batch normalizations accept single samples."""
    norms = [pair for pair in pairs if isinstance(pair.wanted, nn.modules.batchnorm._BatchNorm)]
    different = [pair for pair in norms if accepts_more(pair)]
    for path, *_ in pairs[:1] if different and len(different) == len(norms) else different:
        yield f"{accept_single_samples.__name__}({path})"


def accepts_more(pair: Pair) -> bool:
    """Return whether a batch normalization of the model accepts single samples, and that of the new model does not."""
    return bool(SINGLE & vars(pair.wanted).keys() - vars(pair.fresh).keys())


def _attributes(pairs: list[Pair]) -> Iterator[Setting]:
    """Yield statements for attributes that were changed after construction."""
    for path, wanted, fresh in pairs:
        mode, other_mode = (vars(m).get("remembering") or "neither" for m in (wanted, fresh))
        if mode != other_mode and not isinstance(wanted, GModule):
            yield Setting(wanted, f"{path}.remember({literal(mode)})")
        for name in changed_attributes(wanted, fresh):
            value, other = vars(wanted)[name], vars(fresh).get(name)
            found = literal(other) if is_plain(other) else type(other).__name__
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
