"""No forward in evaluation writes into a parameter or buffer; a frozen trace computes what the module does."""

from __future__ import annotations

import warnings
from typing import Any

import mapping_examples
import pytest
import torch
from mapping_examples import MAPPINGS, Call, ClassMapping, mapping_id
from torch import Tensor, nn

from dpnn_bridge.compare import nested
from dpnn_bridge.compare.bits import same_bits
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.conversion.tracing import leaf
from dpnn_bridge.modules.rnn.mask import LookupTableMaskZero

#: mappings that torch.fx cannot record
NOT_RECORDED: dict[str, str] = {}

every_mapping = pytest.mark.parametrize("mapping", MAPPINGS, ids=mapping_id)


def evaluated(mapping: ClassMapping) -> Call:
    """A call of a module of the mapping in evaluation mode."""
    made = mapping_examples.call(mapping)
    if made is None:
        pytest.skip("never runs")
    call = made.copy()
    call.module.eval()
    return call


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in [*module.named_parameters(), *module.named_buffers()] if t is not None}


@every_mapping
def test_evaluation_writes_into_no_parameter(mapping: ClassMapping) -> None:
    call = evaluated(mapping)
    before = {name: (tensor, tensor._version) for name, tensor in tensors(call.module).items()}
    values = {name: tensor.clone() for name, (tensor, _) in before.items()}
    try:
        call.run()
    except Exception:
        pytest.skip("evaluation needs more than this call")
    assert [name for name, (tensor, version) in before.items() if tensor._version != version] == []
    parameters = [name for name, p in call.module.named_parameters() if before[name][0] is not p]
    assert parameters == []
    changed = [name for name, value in values.items() if not same_bits(before[name][0], value)]  # also by .data
    assert changed == [] or any(isinstance(m, LookupTableMaskZero) for m in call.module.modules())


@every_mapping
def test_a_frozen_trace_computes_the_same(mapping: ClassMapping) -> None:
    """Where it can be traced at all; a forward that writes into a constant ends the process."""
    call = evaluated(mapping)
    arguments: Any = call.arguments
    with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        try:
            first = call.copy().run()
            traced: Any = torch.jit.trace(call.copy().module, nested.copied(arguments), check_trace=False)
            again = call.copy().run()
            unsteady = traced(*nested.copied(arguments))
        except Exception as e:
            pytest.skip(f"cannot be traced: {type(e).__name__}")
        frozen: Any = torch.jit.freeze(traced)
        torch.default_generator.manual_seed(0)
        found = frozen(*nested.copied(arguments))
    del again, unsteady
    leaves = [list(nested.leaves(value)) for value in (first, found)]
    torch.testing.assert_close(leaves[1], leaves[0], equal_nan=True)


@every_mapping
def test_fx_records_what_computes_the_same(mapping: ClassMapping) -> None:
    """Every module is one step of a graph, or the layers inside it are; only losses take more than one argument."""
    call = evaluated(mapping)
    if len(call.arguments) > 1 or mapping.names[0] in NOT_RECORDED:
        pytest.skip(NOT_RECORDED.get(mapping.names[0], "takes more than one argument"))
    try:
        expected = list(nested.leaves(call.copy().run()))
    except Exception:
        pytest.skip("evaluation needs more than this call")
    model = nn.Sequential(call.module)
    traced = torch.fx.symbolic_trace(model)
    found = list(nested.leaves(Call(traced, call.arguments).run()))
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("form", [lambda x: [torch.ones(2), x], lambda x: [[torch.ones(2)], [[x]]], lambda x: {"a": x}])
def test_fx_records_a_module_with_a_proxy_anywhere_in_its_input_as_one_node(form: Any) -> None:
    class Sized(nn.Module):
        @leaf
        def forward(self, input: Any) -> Tensor:
            return torch.ones(len(next(nested.leaves(input))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Sized()

        def forward(self, x: Tensor) -> Any:
            return self.layer(form(x))

    nodes = torch.fx.symbolic_trace(Model()).graph.nodes
    assert [node.target for node in nodes if node.op == "call_module"] == ["layer"]


def test_a_note_for_each_module_takes_linear_time() -> None:
    report = Report()
    for i in range(3):
        for _ in range(2):
            report.note(f"note {i}")
    assert report.notes == ["note 0", "note 1", "note 2"]

    class Counted(str):
        calls = 0

        def __eq__(self, other: object) -> bool:
            Counted.calls += 1
            return str.__eq__(self, other)  # type: ignore[arg-type]

        __hash__ = str.__hash__

    for i in range(1000):
        report.note(Counted(i))
    assert Counted.calls < 1000
