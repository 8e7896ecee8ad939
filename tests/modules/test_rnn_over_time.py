"""Whole sequences computed at once: the same values, gradients and states as one call per time step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, manifest
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge import memory
from dpnn_bridge.compare.nested import leaves, map_tensors
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.nn.activation import LogSoftMax
from dpnn_bridge.modules.nn.arithmetic import CAddTable
from dpnn_bridge.modules.nn.container import ConcatTable, ParallelTable
from dpnn_bridge.modules.nn.dropout import Dropout
from dpnn_bridge.modules.nn.table import SelectTable, SplitTable
from dpnn_bridge.modules.rnn.cells import fast_lstm, gru
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.gated import GRU, LSTM
from dpnn_bridge.modules.rnn.gru_kernel import GRUSequence
from dpnn_bridge.modules.rnn.lstm import LSTMWeights, _torch_lstm, lstm_sequence
from dpnn_bridge.modules.rnn.lstm_kernel import LSTMSequence, lstm_steps
from dpnn_bridge.modules.rnn.mask import MaskZero, TrimZero
from dpnn_bridge.modules.rnn.over_time import recognized
from dpnn_bridge.modules.rnn.recurrence import Recursor
from dpnn_bridge.modules.rnn.recurrent import AbstractRecurrent
from dpnn_bridge.modules.rnn.seq_gru import SeqGRU
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SeqLSTMP
from dpnn_bridge.modules.rnn.sequencer import Repeater, Sequencer


def peephole_lstm() -> LSTM:
    """Torch7's own layers of an LSTM(3, 4) with peepholes, as a file has them."""
    fixture = dpnn_bridge.read_t7(FIXTURES / "rnn/head/Sequencer/Sequencer__lstm_tensor__double_train.t7")
    (lstm,) = (m for m in dpnn_bridge.to_torch(fixture["module"]).modules() if isinstance(m, LSTM))
    memory.forget(lstm)
    return lstm.float()


def masked(step: Any, mask: type[MaskZero] = MaskZero) -> Any:
    step.recurrent_module = mask(step.recurrent_module, 1)
    return step


def stack() -> Recursor:
    return Recursor(nn.Sequential(gru(3, 4), nn.Linear(4, 5), nn.Tanh(), fast_lstm(5, 4), MaskZero(nn.Linear(4, 2), 1)))


def dropout() -> Recursor:
    return Recursor(nn.Sequential(nn.Dropout(), gru(3, 4), Dropout(0.4, v2=False), nn.Linear(4, 5), nn.Dropout(0.3)))


MODULES = {
    "fast_lstm": lambda: fast_lstm(3, 4),
    "gru": lambda: gru(3, 4),
    "lstm": peephole_lstm,
    "masked fast_lstm": lambda: masked(fast_lstm(3, 4)),
    "masked gru": lambda: masked(gru(3, 4)),
    "masked lstm": lambda: masked(peephole_lstm()),
    "stack": stack,
    "dropout": dropout,
    "linear": lambda: Recursor(nn.Linear(3, 2)),
}


def sequence(single: bool, dtype: torch.dtype) -> Tensor:
    xs = torch.randn(5, 3, dtype=dtype) if single else torch.randn(5, 2, 3, dtype=dtype)
    xs[2, ..., :] = 0
    return xs


def results(model: Sequencer, xs: Tensor, as_list: bool) -> dict[str, list[Tensor]]:
    """Two calls, the second of which goes on from the first, and their gradients."""
    torch.manual_seed(0)
    found: dict[str, list[Tensor]] = {}
    for call in ("first", "second"):
        inputs = xs.clone().requires_grad_()
        outputs = model(list(inputs) if as_list else inputs)
        early, last = (list(leaves(memory.get_hidden_state(model.module, step))) for step in (2, None))
        states = [s for s in (*early, *last) if isinstance(s, Tensor)]
        values = [*(outputs if as_list else [outputs]), *states]
        model.zero_grad()
        torch.stack([(v * torch.arange(1.0, 1 + v.numel()).view(v.shape).to(v)).sum() for v in values]).sum().backward()
        assert inputs.grad is not None
        found[call] = [v.detach().clone() for v in values]
        found[f"{call} gradients"] = [inputs.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        counts = [
            (m.step, m._backward_ran, sorted(m.states)) for m in model.modules() if isinstance(m, AbstractRecurrent)
        ]
        found[f"{call} counts"] = counts  # type: ignore[assignment]
    return found


def stepwise(model: Sequencer) -> Sequencer:
    """Return a copy that makes one call for each time step."""
    copied = copy.deepcopy(model)
    for m in copied.modules():
        m.register_forward_hook(lambda *_: None)
    return copied


def assert_same(found: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> None:
    for name, values in expected.items():
        if name.endswith("counts"):
            assert found[name] == values
            continue
        for value, other in zip(found[name], values, strict=True):
            torch.testing.assert_close(value, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("form", ["tensor", "list", "single"])
@pytest.mark.parametrize("kind", MODULES)
def test_a_sequence_at_once_is_what_its_steps_are(
    kind: str, form: str, training: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    xs = sequence(form == "single", dtype)
    model = Sequencer(MODULES[kind]()).to(dtype).train(training)
    model.remember()
    expected = results(stepwise(model), xs, form == "list")

    def stepped(*_: Any) -> None:
        raise AssertionError("one call for a time step")

    for step_module in (LSTM, GRU, Recursor):
        monkeypatch.setattr(step_module, "forward", stepped)
    found = results(model, xs, form == "list")
    monkeypatch.undo()
    assert_same(found, expected)


@pytest.mark.parametrize("rows", [slice(1), slice(2)], ids=["one row", "all rows"])
def test_trimmed_rows_are_those_of_steps(rows: slice, monkeypatch: pytest.MonkeyPatch) -> None:
    xs = sequence(False, torch.float64) + 0.5
    xs[2, rows] = 0
    model = Sequencer(masked(fast_lstm(3, 4), TrimZero)).double()
    model.remember()
    expected, forward, steps = results(stepwise(model), xs, False), LSTM.forward, []
    monkeypatch.setattr(LSTM, "forward", lambda *a: steps.append(a) or forward(*a))
    assert_same(results(model, xs, False), expected)
    assert bool(steps) == (rows == slice(2))  # whose gradient reaches the parameters, which the kernels do not know


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "name", [f"{n}__double_train" for n in ("FastLSTM__dropout_maskZero", "GRU__dropout_trimZero", "GRU__dropout_mono")]
)
def test_a_cell_with_dropout_inside_has_the_masks_of_its_steps(name: str, training: bool) -> None:
    fixture = dpnn_bridge.read_t7(FIXTURES / f"rnn/head/{name.split('__')[0]}/{name}.t7")
    step = dpnn_bridge.to_torch(fixture["module"])
    assert isinstance(step, (LSTM, GRU))
    memory.forget(step)
    model = Sequencer(nn.Sequential(nn.Dropout(0.2), step, nn.Dropout(0.2))).double().train(training)
    assert recognized(step) is not None
    xs = torch.randn(5, 2, step.input_size or 0, dtype=torch.float64)
    xs[2, 0] = 0
    expected = results(stepwise(model), xs, False)
    assert_same(results(model, xs, False), expected)


def test_without_hooks_a_sequence_gives_what_torch7_gave() -> None:
    classes = ("nn.Sequencer", "nn.Repeater", "nn.BiSequencer")
    entries = manifest(set="rnn", kind="module", **{"class": classes})
    wrong, compared = [], 0
    for entry in [e for e in entries if "lstm" in e["name"] or "gru" in e["name"]]:
        fixture = dpnn_bridge.read_t7(FIXTURES / entry["file"])
        model = dpnn_bridge.to_torch(fixture["module"])
        if any(isinstance(m, LazyDropout) and m.p for m in model.modules()):
            continue
        x = map_tensors(lambda t: t.requires_grad_(), to_value(fixture["input"]))
        outputs, inputs = model(x), list(leaves(x))
        expected = list(leaves(to_value(fixture["output"])))
        pairs = list(zip(leaves(outputs), expected, strict=True))
        if entry["mode"] == "train" and "gradInput" in fixture:
            torch.autograd.backward([o for o, _ in pairs], list(leaves(to_value(fixture["gradOutput"]))))
            gradients = leaves(to_value(fixture["gradInput"]))
            pairs += [(i.grad, g) for i, g in zip(inputs, gradients, strict=True)]
        limit = 1e-10 if entry["dtype"] == "double" else 1e-5
        compared += len(pairs)
        wrong += [entry["name"] for o, e in pairs if (o - e).abs().max() > limit * e.abs().max()]
    assert not wrong
    assert compared > 50


def test_repeater_repeats_at_once() -> None:
    model, x = Repeater(fast_lstm(3, 4), 3).double(), torch.randn(2, 3, dtype=torch.float64)
    step = copy.deepcopy(model.module)
    assert isinstance(step, LSTM)
    torch.testing.assert_close(model(x), [step(x) for _ in range(3)])


def test_single_samples_go_through_layers_that_count_dimensions_of_a_batch() -> None:
    model, xs = Sequencer(fast_lstm(3, 4)), torch.randn(5, 3)
    (split,) = (m for m in model.modules() if isinstance(m, SplitTable))
    split.dimension, split.n_input_dims = 2, None  # nngraph's variant: of one sample it makes other gates
    expected = [step.clone() for step in map(model.module, xs)]
    torch.testing.assert_close(model(xs), torch.stack(expected))


def test_hooks_inside_see_every_time_step() -> None:
    model, seen = Sequencer(fast_lstm(3, 4)), []
    next(m for m in model.modules() if isinstance(m, nn.Tanh)).register_forward_hook(lambda *_: seen.append(1))
    model(torch.randn(5, 2, 3))
    assert len(seen) == 5


class _Packed(torch.Tensor):
    """Stands for a quantized weight, which torchao can multiply, but neither split nor join."""


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.recurrent_module[0][0][1], "4", nn.Sequential(*[nn.Sigmoid()] * 4)),
        lambda m: setattr(next(c for c in m.modules() if isinstance(c, nn.Tanh)), "forward", torch.relu),
        lambda m: m.recurrent_module.append(ConcatTable(nn.Identity(), nn.Identity())),
        lambda m: setattr(m.recurrent_module[0][1], "index", 1),
        lambda m: m.recurrent_module[0][0][1][2].register_forward_hook(lambda *_: None),
        lambda m: m.recurrent_module._modules.update({"0": m.recurrent_module._modules.pop("0")}),
        lambda m: setattr(m.recurrent_module[0][0][1][0][0], "__class__", type("Linear", (nn.Linear,), {"forward": 0})),
        lambda m: setattr(
            m.recurrent_module[0][0][1][0][0], "weight", nn.Parameter(torch.ones(16, 3).as_subclass(_Packed))
        ),
    ],
)
def test_a_cell_that_was_changed_is_not_recognized(change: Callable[[Any], None]) -> None:
    step = fast_lstm(3, 4)
    assert recognized(step) is not None
    change(step)
    assert recognized(step) is None


def test_a_recognized_cell_takes_over_other_parameters() -> None:
    step: Any = fast_lstm(3, 4)
    xs = torch.randn(5, 2, 3)
    model, of_input = Sequencer(step), step.recurrent_module[0][0][1][0][0]
    model(xs)
    of_input.weight, of_input.bias = nn.Parameter(torch.randn(16, 3)), None
    outputs = model(xs)
    memory.forget(step)
    torch.testing.assert_close(outputs[0], step(xs[0]))


@pytest.mark.parametrize("values", [np.arange(2), torch.arange(2)], ids=["array", "tensor"])
def test_values_beside_the_layers_of_a_cell_may_be_replaced(values: Any) -> None:
    step: Any = fast_lstm(3, 4)
    for note in (values, values + 1):
        step.recurrent_module.note = note
        assert recognized(step) is not None


def test_recognition_of_a_sum_that_doubles_with_every_layer_gives_up() -> None:
    step = gru(3, 4)
    doubling = [nn.Sequential(ConcatTable(nn.Identity(), nn.Identity()), CAddTable()) for _ in range(60)]
    step.recurrent_module = nn.Sequential(step.recurrent_module, *doubling)
    assert recognized(step) is None


@pytest.mark.parametrize("make", [lambda: fast_lstm(3, 4), lambda: gru(3, 4), peephole_lstm])
def test_outputs_may_be_changed_in_place_before_backward(make: Callable[[], Any]) -> None:
    model, xs = Sequencer(make()).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    inputs = [xs.clone().requires_grad_() for _ in range(2)]
    model(inputs[0]).relu_().sum().backward()
    model(inputs[1]).relu().sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    output = model(xs)
    state = output[-1].clone()
    output.zero_()
    torch.testing.assert_close(next(iter(leaves(memory.get_hidden_state(model.module)))), state)


def step_models() -> dict[str, tuple[nn.Module, Tensor, int]]:
    """Step models, an input sequence, and how many states they have."""
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    simple = [ParallelTable(nn.Linear(3, 4), nn.Linear(4, 4)), CAddTable(), nn.Tanh()]
    scores = nn.Sequential(nn.Linear(4, 5), LogSoftMax())
    select = SelectTable
    lstm = ConcatTable(select(1), select(2), nn.Sequential(select(1), nn.Linear(4, 5)))
    char_rnn = dpnn_bridge.load(FIXTURES / "samples/char-rnn__lstm/model.t7")
    return {
        "simple": (nn.Sequential(*simple, ConcatTable(nn.Identity(), scores)), x, 1),
        "gru": (nn.Sequential(gru(3, 4).recurrent_module, ConcatTable(nn.Identity(), nn.Linear(4, 2))), x, 1),
        "lstm": (nn.Sequential(fast_lstm(3, 4).recurrent_module, lstm), x, 2),
        "char-rnn": (char_rnn, torch.randint(1, 32, (5, 2)), 4),
    }


@pytest.mark.parametrize("kind", ["simple", "gru", "lstm", "char-rnn"])
def test_a_step_model_runs_over_a_sequence_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, count = step_models()[kind]
    size = 24 if kind == "char-rnn" else 4
    states = [torch.randn(2, size, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    model.double().eval()
    inputs = [*model.parameters(), *states]

    def values() -> list[Tensor]:
        outputs, last = memory.run_sequence(model, x, states)
        total = outputs.square().sum() + torch.stack([state.sum() for state in last]).sum()
        return [outputs, *last, *torch.autograd.grad(total, inputs)]

    hook = model.register_forward_hook(lambda *_: None)
    expected = values()
    hook.remove()
    monkeypatch.setattr(type(model), "__call__", lambda *_: pytest.fail("one call for a time step"))
    for value, other in zip(values(), expected, strict=True):
        torch.testing.assert_close(value, other)


def test_run_sequence_refuses_what_is_no_step_model() -> None:
    with pytest.raises(ValueError, match="at least one time step"):
        memory.run_sequence(nn.Identity(), [], [])
    with pytest.raises(ValueError, match="list of 1 states and an output"):
        memory.run_sequence(SelectTable(1), torch.zeros(2, 3), [torch.zeros(3)])


def _tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("mask", [None, torch.tensor([[0, 0], [0, 1], [1, 0]]).bool().unsqueeze(2)])
@pytest.mark.parametrize("added", ["", "peepholes", "projection"])
def test_gradients_of_the_lstm_kernel_are_derivatives(added: str, mask: Tensor | None) -> None:
    features = 3 if added == "projection" else 2
    inputs = _tensors((3, 2, 2), (8, 2), (8, features), (8,), (2, features), (2, 2), (3, 2))

    def run(*v: Tensor) -> Any:
        return LSTMSequence.apply(
            *v[:4], *(v[6] if added == name else None for name in ("peepholes", "projection")), *v[4:6], mask
        )

    inputs = inputs if added else inputs[:-1]
    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("mask", [None, torch.tensor([[0, 0], [0, 1], [1, 0]]).bool().unsqueeze(2)])
@pytest.mark.parametrize("keeps", [False, True])
def test_gradients_of_the_gru_kernel_are_derivatives(keeps: bool, mask: Tensor | None) -> None:
    inputs = _tensors((3, 2, 3), (6, 3), (6, 2), (6,), (2, 2))
    assert torch.autograd.gradcheck(lambda *v: GRUSequence.apply(*v, mask, keeps), inputs)
    assert torch.autograd.gradgradcheck(lambda *v: GRUSequence.apply(*v, mask, keeps), inputs)


@pytest.mark.parametrize("make", [lambda: SeqLSTM(70, 90), lambda: SeqLSTMP(70, 90, 80), lambda: SeqGRU(70, 90)])
@pytest.mark.parametrize("mask_zero", [False, True])
def test_products_by_onednn_are_products(make: Callable[[], Any], mask_zero: bool) -> None:
    single = make()
    single.mask_zero = mask_zero
    double = copy.deepcopy(single).double()
    xs = torch.randn(12, 130, 70)
    outputs = [m(xs.to(m.weight)) for m in (single, double)]
    for output in outputs:
        (output * torch.linspace(-1, 1, output.numel()).view(output.shape).to(output)).sum().backward()
    for value, other in [
        outputs,
        *((p.grad, q.grad) for p, q in zip(single.parameters(), double.parameters(), strict=True)),
    ]:
        torch.testing.assert_close(value.double(), other, rtol=0, atol=float(other.detach().abs().max()) * 1e-5)


def test_stock_lstm_frees_what_it_kept_and_gives_gradients_of_gradients() -> None:
    x, weight, recurrent, bias = (
        v.float().detach().requires_grad_() for v in _tensors((4, 2, 3), (8, 3), (8, 2), (8,))
    )
    zeros = torch.zeros(2, 2)
    outputs = lstm_sequence(x, LSTMWeights(weight, recurrent, bias, "igfo"), zeros, zeros)[0]
    (gradient,) = torch.autograd.grad(outputs.square().sum(), x, create_graph=True)
    gradient.square().sum().backward(retain_graph=True)
    assert weight.grad is not None
    outputs.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        outputs.sum().backward()


@pytest.mark.parametrize("which", [0, 1], ids=["outputs", "last cell"])
def test_stock_lstm_takes_tensors_of_any_layout(which: int) -> None:
    parts = [torch.randn(shape) for shape in ((2, 3, 3), (8, 3), (2, 8), (8,), (1, 2), (2, 3))]
    found = []
    for dtype in (torch.float32, torch.float64):
        x, weight, recurrent, bias, hidden, cell = (v.detach().to(dtype).requires_grad_() for v in parts)
        weights, start = LSTMWeights(weight, recurrent.t(), bias, "ifgo"), (hidden.expand(3, 2), cell.t())
        result = lstm_sequence(x.transpose(1, 2), weights, *start)[which]
        result.transpose(0, 1).square().sum().backward()
        found.append([result, *(v.grad for v in (x, weight, recurrent, bias, hidden, cell))])
    torch.testing.assert_close(*found, check_dtype=False, rtol=1e-4, atol=1e-5)


def test_lstm_of_other_devices_is_the_same() -> None:
    x, weight, recurrent, bias, hidden, cell = _tensors((4, 2, 3), (8, 3), (8, 2), (8,), (2, 2), (2, 2))
    outputs, last = _torch_lstm("ifgo", x, weight, recurrent, bias, hidden, cell)
    expected, cells = lstm_steps(x, weight, recurrent, bias, None, None, hidden, cell, None)
    torch.testing.assert_close((outputs, last), (expected, cells[-1]))


def test_stock_lstm_keeps_its_gradients_under_hooks_on_saved_tensors() -> None:
    model, xs = Sequencer(fast_lstm(3, 4)), torch.randn(5, 2, 3, requires_grad=True)
    expected = torch.autograd.grad(model(xs).sum(), xs)
    with torch.autograd.graph.save_on_cpu():
        outputs = model(xs)
    torch.testing.assert_close(torch.autograd.grad(outputs.sum(), xs), expected)
