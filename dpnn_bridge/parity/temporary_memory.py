"""Keep memory that a run does not write as Torch7 did out of the verdict.

nn's C code computes in temporary tensors, such as ``fgradInput``, which Torch7 saves with a module. A class in Lua that
inherits from such a class has these fields too, and PyTorch computes without them. They then contain what the model's
file contains, and the reference what Torch7's run wrote.
"""

from __future__ import annotations

import copy

from dpnn_bridge.errors import ConversionLimitError
from dpnn_bridge.lua.autograd import same
from dpnn_bridge.lua.module import LuaModule
from dpnn_bridge.parity.experiment import Experiment, Outcome
from dpnn_bridge.parity.fixture import floating_buffers
from dpnn_bridge.parity.new_memory import buffer_comparison, different_buffers, lua_buffers


def discard_temporary(experiment: Experiment, outcome: Outcome, notes: list[str]) -> None:
    """Discard comparisons of Lua layers' buffers that prove nothing about the port.

    Without a backward pass, a buffer that differs is compared after a run with one, if the reference had one. Then it
    is discarded if nn's code has it as temporary memory and the run has not changed it. A running statistic is no
    temporary memory, and a field that the layer's own code writes has changed.

    Args:
        experiment: the experiment.
        outcome: the comparisons of a run, which are changed.
        notes: notes of the report, to which the names of the buffers are added.
    """
    paths = lua_buffers(outcome)
    if not different_buffers(outcome, paths):
        return
    if not experiment.backward and ("gradInput" in experiment.table or "gradParams" in experiment.table):
        _compare_after_backward(experiment, outcome, paths)
    failed = different_buffers(outcome, paths.keys() & _temporary(outcome))
    if not failed:
        return
    before = dict(floating_buffers(experiment.fresh()))
    after = dict(floating_buffers(outcome.module))
    for d in failed:
        name = d.name.removeprefix("after.")
        if name in before and same(before[name].to(after[name]), after[name]):
            outcome.whole.remove(d)
            notes.append(f"Not compared: {paths[d.name]}, temporary memory that this run does not write.")


def _compare_after_backward(experiment: Experiment, outcome: Outcome, paths: dict[str, str]) -> None:
    """Replace failed comparisons of buffers by those of a run with a backward pass, as the reference's run had.

    A user may have excluded a backward pass because it fails.
    """
    complete = copy.copy(experiment)
    complete.backward = True
    try:
        again = {d.name: d for d in complete.run().whole}
    except ConversionLimitError:
        raise
    except Exception:
        return
    failed = {id(d) for d in different_buffers(outcome, paths)}
    outcome.whole = [again.get(d.name, d) if id(d) in failed else d for d in outcome.whole]


def _temporary(outcome: Outcome) -> set[str]:
    """Return the names of the comparisons of buffers that may be temporary memory."""
    return {
        buffer_comparison(prefix, leaf)
        for prefix, module in outcome.module.named_modules()
        if isinstance(module, LuaModule)
        for leaf in module.temporary_buffers()
    }
