"""Run a model with an input, as often as a comparison with a converted file needs."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.memory import moved, relocate
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.outputs.written import Results, Written, run_modules
from dpnn_bridge.parity.bounded import RunLimits
from dpnn_bridge.parity.named_layers import NamedLayers
from dpnn_bridge.parity.perturbed import PerturbedResults
from dpnn_bridge.parity.rounding import distances
from dpnn_bridge.parity.seeds import manual_seed

#: variations of the model's run: offset of its tensors in memory in elements, number of threads (0: unchanged)
VARIATIONS = ((0, 1), (1, 0), (3, 0), (8, 1))


class Source:
    """The model that was converted, and its input. Each run uses a copy, because recurrent modules keep states."""

    def __init__(self, module: nn.Module, layers: NamedLayers, value: Any, running: RunLimits) -> None:
        self.module, self.names, self.value, self.running = module, layers.by_name.keys(), value, running

    def run(
        self,
        given: Results | None = None,
        *,
        offset: int = 0,
        threads: int = 0,
        like: Mapping[str, Tensor] | None = None,
        dtype: torch.dtype | None = None,
        perturbed: int | None = None,
        seed: int = 0,
    ) -> Results:
        """Run a copy of the model.

        Args:
            given: name of a layer -> value that replaces its result.
            offset: offset of the tensors in memory, see :func:`~dpnn_bridge.compare.memory.moved`.
            threads: number of threads; 0 to keep the current number.
            like: tensors by name, whose strides the model's tensors get.
            dtype: precision of the run; default: unchanged.
            perturbed: seed of :class:`PerturbedResults`; default: unchanged results.
            seed: seed of the random numbers.
        """
        module = relocate(copy.deepcopy(self.module).to(dtype=dtype), offset, like)

        def prepared(value: Any) -> Any:
            return nested.map_tensors(lambda t: moved(t, offset), nested.cast(value, dtype))

        value, given = prepared(self.value), {name: prepared(v) for name, v in (given or {}).items() if name}
        modules = {name: module.get_submodule(name) for name in self.names}
        manual_seed(module.modules(), seed)
        changed = nullcontext() if perturbed is None else PerturbedResults(perturbed)
        with torch.no_grad(), full_precision(), _threads(threads), self.running(module), changed:
            return run_modules(modules, lambda: module(value), given)

    def inputs(self, names: Collection[str], given: Results) -> dict[str, tuple[Any, ...]]:
        """Run a copy of the model and return the arguments of the first call of each layer in ``names``."""
        found: dict[str, tuple[Any, ...]] = {}

        def record(name: str, _: nn.Module, args: tuple[Any, ...]) -> None:
            if name not in found:
                found[name] = nested.copied(args)

        hooks = [self.module.get_submodule(n).register_forward_pre_hook(partial(record, n)) for n in names]
        try:
            self.run(given)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def summands(self, name: str, inputs: tuple[Any, ...], index: tuple[int, ...]) -> int:
        """Count the elements of a layer's input on which the output's element at ``index`` depends; 0 if unknown."""
        layer = copy.deepcopy(self.module.get_submodule(name))
        try:
            args = [nested.map_tensors(lambda t: t.detach().requires_grad_(t.is_floating_point()), a) for a in inputs]
            leaves = [t for t in nested.tensors(args) if t.requires_grad]
            with torch.enable_grad(), full_precision(), self.running(layer):
                (output,) = nested.tensors(layer(*nested.map_tensors(torch.clone, args)))
                gradients = torch.autograd.grad(output[index], leaves, allow_unused=True)
        except ConversionLimitError:
            raise
        except Exception:  # a layer without gradients
            return 0
        return sum(int(g.count_nonzero()) for g in gradients if g is not None)

    def spread(self, base: Results, given: Results, file: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
        """Measure the largest differences of runs with other memory layouts and numbers of threads from one run.

        Args:
            base: results of the run.
            given: see :meth:`run`.
            file: tensors of the file. If they have other strides, PyTorch may choose another algorithm.
        """
        runs = [given, *(self.run(given, offset=offset, threads=threads) for offset, threads in VARIATIONS)]
        runs.append(self.run(given, like=file))
        found: dict[str, dict[str, float]] = {}
        for name, value in base.items():
            parts = found.setdefault(name, {})
            for run in runs:
                for part, distance in distances("output", value, run.get(name)).items():
                    parts[part] = max(parts.get(part, 0.0), distance)
        return found


def run_file(written: Written, value: Any, given: Results) -> Results | Exception:
    """Run a file with the seed of :meth:`Source.run`; return its results, or the error unless it is that of a limit."""
    assert written.run is not None
    manual_seed(written.modules.values(), 0)
    try:
        with full_precision():
            return written.run(nested.copied(value), given)
    except ConversionLimitError:
        raise
    except Exception as e:
        return e


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)
