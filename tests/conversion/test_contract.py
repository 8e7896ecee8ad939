"""The contract of every registered mapping, on one object and one call of its class (:mod:`mapping_examples`).

A class without an example, or one that nothing runs, fails here.
"""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import mapping_examples
import pytest
import torch
from lua_equal import differences
from mapping_examples import (
    MAPPINGS,
    NEVER_RUN,
    Call,
    ClassMapping,
    example,
    functions,
    in_fixtures,
    mapping_id,
    runs_of,
)
from standalone import executed
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import dpnn_bridge
from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import registry
from dpnn_bridge.outputs import ExportContext
from dpnn_bridge.outputs.py import program
from dpnn_bridge.training.lua_parameters import stepped_parameters

#: mappings whose example has parameters and no gradient
UNTRAINED = {
    "nn.Container": "hands on its own output, and runs nothing",
    "nn.InstanceNormalization": "its smallest fixture is switched off",
    "nn.LanguageModel": "draws words in evaluation",
    "nn.ModeSwitch": "leaves the parameters of both modules alone",
    "nn.NoBackprop": "nothing behind it is trained",
    "nn.ResidualDrop": "the branch is dropped with this seed",
}

#: mappings whose example computes with what is left of a last call, which no program holds
STATEFUL = {"nn.VolumetricMaxUnpooling"}

every_mapping = pytest.mark.parametrize("mapping", MAPPINGS, ids=mapping_id)


def called(mapping: ClassMapping) -> Call:
    """A copy of the call of a mapping, to be used up."""
    made = mapping_examples.call(mapping)
    if mapping.names[0] in NEVER_RUN:
        assert made is None, f"it runs: take {mapping.names[0]} out of NEVER_RUN"
        pytest.skip(f"never runs: {NEVER_RUN[mapping.names[0]]}")
    assert made is not None, f"neither a fixture nor a test runs {mapping.names[0]}: name a test that does in `test`"
    return made.copy()


def disturbed(value: Any) -> Any:
    return nested.map_tensors(lambda t: t * 1.25 + 0.5 if t.is_floating_point() else t + 1, value)


@every_mapping
def test_what_its_parity_rests_on(mapping: ClassMapping) -> None:
    """Values of Torch7, or a test that fails when the class computes something else."""
    if next(in_fixtures(mapping), None) and mapping.checked_by != "formula":
        return
    assert mapping.test in functions(), f"`test` of a mapping checked by a {mapping.checked_by} names a test function"
    assert example(mapping) is not None
    if mapping.checked_by != "formula":
        return

    def disturb(module: nn.Module, arguments: Any, output: Any) -> Any:
        return disturbed(output) if registry.mapping_of(module) is mapping else output

    hook = register_module_forward_hook(disturb)
    try:
        for test in runs_of(mapping.test):
            try:
                test()
            except Exception:
                return
    finally:
        hook.remove()
    pytest.fail(f"{mapping.test} passes as well when modules of {mapping.__qualname__} return other numbers")


@every_mapping
def test_the_object_comes_back(mapping: ClassMapping) -> None:
    """Lua -> torch -> Lua keeps what the first way back wrote, and every plain value of the file."""
    obj = example(mapping)
    first = to_lua(to_torch(obj))
    assert differences(first, to_lua(to_torch(first))) == []
    upgraded = mapping.upgrade(obj)
    assert first.class_name == upgraded.class_name
    for name, value in upgraded.items():
        if isinstance(value, (bool, int, float, str)) and name not in {"output", "_type"}:
            assert first.get(name, False) == value or value != value, name


@every_mapping
def test_copies_are_the_same_module(mapping: ClassMapping, tmp_path: Any) -> None:
    """deepcopy, pickle, torch.save, .pt and .py give modules that are the same to Torch7 and compute the same."""
    made = mapping_examples.call(mapping)
    module = copy.deepcopy(made.module) if made else to_torch(example(mapping))
    expected = to_lua(module)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    dpnn_bridge.save(tmp_path / "m.pt", module)
    base = min([m.index_base for m in module.modules() if isinstance(getattr(m, "index_base", None), int)], default=1)
    with torch.random.fork_rng():
        built = executed(program.Program(module, ExportContext()).text()).build()
    built.load_state_dict(module.state_dict())
    copies = {
        "deepcopy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),
        "torch.save": torch.load(file, weights_only=False),
        ".pt": dpnn_bridge.load(tmp_path / "m.pt", index_base=base),
    }
    for way, other in copies.items():
        assert differences(expected, to_lua(other), ignore={"output"}) == [], way
    if made is not None:
        output = list(nested.leaves(made.copy().run()))
        if mapping.names[0] not in STATEFUL:
            copies[".py"] = built
        for way, other in copies.items():
            found = list(nested.leaves(Call(other, made.copy().arguments).run()))
            # the program's weights may lie in memory in another order, so that sums round otherwise
            exact = {} if way == ".py" else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(found, output, **exact, equal_nan=True, msg=lambda m: f"{way}: {m}")  # noqa: B023


@every_mapping
def test_a_training_step(mapping: ClassMapping) -> None:
    """Every parameter that has a gradient moves against it."""
    made = called(mapping)
    module = made.module
    output = [t for t in nested.leaves(made.run()) if isinstance(t, Tensor) and t.requires_grad]
    if not output:
        assert not any(p.requires_grad for p in module.parameters()) or mapping.names[0] in UNTRAINED
        return
    dpnn_bridge.training.reinforce(module, torch.ones(output[0].shape[:1]))
    torch.autograd.backward(output, [torch.ones_like(t) for t in output])
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    listed = {id(p.parameter) for entry in stepped_parameters(module) for p in entry.parts}
    dpnn_bridge.training.update_parameters(module, 0.1)
    for name, p in module.named_parameters():
        if p.grad is not None and id(p) in listed:
            torch.testing.assert_close(p.detach(), before[name] - 0.1 * p.grad, equal_nan=True)
