"""A fault of Torch7 excuses results that depend on the faulty module, and no others."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.faults import Fault
from dpnn_bridge.conversion.lua_values import lua_value
from dpnn_bridge.modules.nn import ConcatTable, MapTable
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity import check_module

REASON = "Torch7's result is another one"


def branches() -> nn.Module:
    """Two branches; the first contains the faulty Tanh, and runs first."""
    torch.manual_seed(0)
    return ConcatTable(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), nn.Sequential(nn.Linear(3, 2), nn.Sigmoid())).double()


def faulty(monkeypatch: pytest.MonkeyPatch, *compared: str, **options: Any) -> None:
    monkeypatch.setattr(registry.mapping_of(nn.Tanh()), "faults", (Fault(compared, REASON, **options),))


def verdicts(model: nn.Module, **values: Any) -> dict[str, Verdict]:
    reference = LuaTable({name: lua_value(value) for name, value in values.items()})
    return {d.name: d.verdict for d in check_module(model, reference).differences}


@pytest.mark.parametrize("first", [True, False])
def test_an_output_of_another_branch_is_not_excused(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later layer, and the complete model, was excused."""
    faulty(monkeypatch, "output")
    model, x = branches(), torch.randn(4, 3).double()
    if not first:
        model = ConcatTable(*reversed(list(model)))
    of_fault, other = (0, 1) if first else (1, 0)
    outputs = [y.detach() for y in model(x)]
    outputs[of_fault] = outputs[of_fault] + 1
    names = [f"output[{i + 1}]" for i in range(2)]
    found = verdicts(model, input=x, output=outputs)
    assert (found[names[of_fault]], found[names[other]]) == (Verdict.KNOWN, Verdict.EQUAL)
    with torch.no_grad():
        model[other][0].weight[0, 0] += 1e-3
    found = verdicts(model, input=x, output=outputs)
    assert (found[names[of_fault]], found[names[other]]) == (Verdict.KNOWN, Verdict.DIFFERENT)


def gradients(model: nn.Module, x: Tensor, given: list[Tensor]) -> dict[str, Any]:
    outputs = model(x)
    parameters = list(model.parameters())
    found = torch.autograd.grad(outputs, parameters, given)
    return {"input": x, "output": [y.detach() for y in outputs], "gradOutput": given, "gradParams": list(found)}


def test_a_gradient_of_another_branch_is_not_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "gradInput", "gradParams")
    model, x = branches(), torch.randn(4, 3).double()
    reference = gradients(model, x, [torch.randn(4, 2).double() for _ in range(2)])
    assert set(verdicts(model, **reference).values()) == {Verdict.EQUAL}
    changed = {**reference, "gradParams": [2 * g for g in reference["gradParams"]]}
    found = verdicts(model, **changed)
    assert [found[f"gradParams[{i}]"] for i in range(1, 5)] == 2 * [Verdict.KNOWN] + 2 * [Verdict.DIFFERENT]


@pytest.mark.parametrize("right", [True, False])
def test_an_output_that_is_known_exactly_must_agree(right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "output", result=lambda module, output: output / 2)
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)).double(), torch.randn(4, 3).double()
    output = model[2](model[:2](x) / 2).detach()
    if not right:
        with torch.no_grad():
            model[2].bias[0] += 1e-3
    assert verdicts(model, input=x, output=output) == {"output": Verdict.KNOWN if right else Verdict.DIFFERENT}


def test_the_gradients_of_the_model_stay_those_of_its_own_run(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "gradInput")
    model, x = branches(), torch.randn(4, 3).double()
    reference = gradients(model, x, [torch.randn(4, 2).double() for _ in range(2)])
    verdicts(model, **{**reference, "gradParams": [2 * g for g in reference["gradParams"]]})
    for parameter, expected in zip(model.parameters(), reference["gradParams"], strict=True):
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_compared_in_the_scale_of_the_given_gradient(size: float, dtype: torch.dtype) -> None:
    """Gradients of the mean loss of many elements are tiny; they were equal whatever they were."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()).to(dtype), torch.randn(4, 3, dtype=dtype)
    given = size * torch.randn(4, 2, dtype=dtype)
    found = torch.autograd.grad(model(x), list(model.parameters()), given)
    reference = {"input": x, "output": model(x).detach(), "gradOutput": given, "gradParams": list(found)}
    assert set(verdicts(model, **reference).values()) == {Verdict.EQUAL}
    wrong = verdicts(model, **{**reference, "gradParams": [1.1 * g for g in found]})
    assert [wrong[f"gradParams[{i}]"] for i in (1, 2)] == [Verdict.DIFFERENT] * 2


def test_gradients_without_a_given_gradient_have_the_usual_scale() -> None:
    model, x = nn.Linear(3, 2).double(), torch.randn(4, 3).double()
    reference = {"input": x, "output": model(x).detach(), "gradOutput": torch.zeros(4, 2).double()}
    assert set(verdicts(model, **reference, gradInput=torch.full((4, 3), 1e-30).double()).values()) == {Verdict.EQUAL}


def test_clones_that_the_run_adds_have_the_faults_of_their_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault of the first element's layer excused nothing in the layers of the others."""
    fault = Fault(("gradParams",), REASON, when=lambda module: module.in_features == 3)
    monkeypatch.setattr(registry.mapping_of(nn.Linear(1, 1)), "faults", (fault,))
    torch.manual_seed(0)
    table = MapTable(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2)), shared=False).double()
    x, given = ([torch.randn(4, n).double() for _ in range(2)] for n in (3, 2))
    complete = copy.deepcopy(table)
    complete.resize(2)
    reference = gradients(complete, x, given)
    found = reference["gradParams"]
    assert set(verdicts(copy.deepcopy(table), **reference).values()) == {Verdict.EQUAL}
    wrong = verdicts(table, **{**reference, "gradParams": [2 * g for g in found]})
    of_clone = [wrong[f"gradParams[{i}]"] for i in range(5, 9)]
    assert of_clone == [Verdict.KNOWN, Verdict.KNOWN, Verdict.DIFFERENT, Verdict.DIFFERENT]
