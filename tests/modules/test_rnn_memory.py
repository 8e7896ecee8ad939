"""What PyTorch users do with recurrent modules: forget, remember, detach, train through time, copy, save, compile."""

from __future__ import annotations

import copy
import gc
import io
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES, fixture_id, manifest
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge import memory
from dpnn_bridge.conversion import to_lua, to_torch
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.loaders.t7_reader import read_t7
from dpnn_bridge.modules.nn.arithmetic import CAddTable
from dpnn_bridge.modules.nn.table import SelectTable
from dpnn_bridge.modules.rnn.attention import RecurrentAttention
from dpnn_bridge.modules.rnn.cells import fast_lstm, gru
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.mask import LookupTableMaskZero, MaskZero, TrimZero
from dpnn_bridge.modules.rnn.memory import at_sequence_start
from dpnn_bridge.modules.rnn.recurrence import NormStabilizer, Recurrence, Recurrent, Recursor
from dpnn_bridge.modules.rnn.seq_gru import SeqGRU
from dpnn_bridge.modules.rnn.seq_lstm import SeqLSTM, SeqLSTMP
from dpnn_bridge.modules.rnn.sequencer import BiSequencer, BiSequencerLM, Repeater, Sequencer
from dpnn_bridge.objects import LuaObject, LuaTable, LuaTensor


class Sum(nn.Module):
    def forward(self, input: list[Tensor]) -> Tensor:
        return input[0] + input[1]


def recurrent() -> Recurrent:
    return Recurrent(nn.Identity(), nn.Linear(3, 4), nn.Linear(4, 4), nn.Tanh(), Sum())


class Affine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, input: list[Tensor]) -> Tensor:
        return torch.tanh(self.x(input[0]) + self.h(input[1]))


def recurrence() -> Recurrence:
    return Recurrence(Affine(), 4, 1)


STEPS = [lambda: fast_lstm(3, 4), lambda: gru(3, 4), recurrent, recurrence]
SEQUENCES = [lambda: SeqLSTM(3, 4), lambda: SeqGRU(3, 4), lambda: SeqLSTMP(3, 5, 4)]


def test_recurrence_says_how_many_dimensions_it_takes() -> None:
    with pytest.raises(ValueError, match="expected an input with 3 dimensions, or 4 for a batch"):
        Recurrence(Affine(), 4, 3)(torch.zeros(3))


@pytest.mark.parametrize("make", STEPS)
def test_one_backward_trains_through_time(make) -> None:
    step, xs = make().double(), torch.randn(3, 2, 3, dtype=torch.float64)
    parameters = [p for p in step.parameters() if p.requires_grad]

    def run(*values: Tensor) -> Tensor:
        memory.forget(step)
        return torch.func.functional_call(
            Sequencer(step),
            {f"module.{n}": v for (n, _), v in zip(step.named_parameters(), values, strict=True)},
            (xs,),
        )

    assert torch.autograd.gradcheck(run, parameters)


@pytest.mark.parametrize("make", STEPS)
def test_forget_starts_anew(make) -> None:
    step, x = make(), torch.randn(2, 3)
    first, second = step(x), step(x)
    assert not torch.equal(first, second)
    step.forget()
    assert step.step == 1
    assert torch.equal(step(x), first)


@pytest.mark.parametrize("make", STEPS)
def test_going_on_after_backward_starts_from_a_detached_state(make) -> None:
    step, x = make(), torch.randn(2, 3)
    step(x).sum().backward()
    step(x).sum().backward()  # no error of a graph that is gone
    assert step.step == 3


@pytest.mark.parametrize("make", STEPS)
def test_rho_limits_how_far_gradients_flow(make) -> None:
    step = make()
    memory.max_bptt_step(step, 2)
    xs = [torch.randn(2, 3, requires_grad=True) for _ in range(4)]
    torch.stack([step(x) for x in xs]).sum().backward()
    assert all(x.grad is not None for x in xs)
    memory.forget(step)
    for x in xs:
        x.grad = None
    [step(x) for x in xs][-1].sum().backward()
    assert [x.grad is not None for x in xs] == [False, False, True, True]


@pytest.mark.parametrize("make", STEPS)
def test_state_survives_copies_files_and_casts(make, tmp_path: Path) -> None:
    step, x = make(), torch.randn(2, 3)
    step(x)
    clone = copy.deepcopy(step)
    buffer = io.BytesIO()
    torch.save(step, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    double = copy.deepcopy(step).double()
    expected = step(x)
    for other in (clone, loaded):
        assert other.step == 2
        assert torch.equal(other(x), expected)
    torch.testing.assert_close(double(x.double()).float(), expected)


@pytest.mark.parametrize("make", STEPS[:2])
def test_lua_object_holds_the_state(make, tmp_path: Path) -> None:
    step, x = make(), torch.randn(2, 3)
    step(x)
    obj = to_lua(step)
    assert obj["step"] == 2
    assert obj["sharedClones"][1] is obj["recurrentModule"] is obj["modules"][1]
    dpnn_bridge.write_t7(tmp_path / "step.t7", obj)
    again = to_torch(read_t7(tmp_path / "step.t7"))
    assert torch.equal(again(x), step(x))


@pytest.mark.parametrize("entry", manifest(set="rnn", kind=("module", "criterion", "sequence")), ids=fixture_id)
def test_no_two_buffers_of_a_written_object_are_one_unless_they_were(entry: dict[str, Any]) -> None:
    read = read_t7(FIXTURES / entry["file"])["module"]
    stack, seen = [(to_lua(to_torch(read)), read)], set()
    while stack:
        value, before = stack.pop()
        if id(value) in seen or not isinstance(value, (LuaObject, LuaTable)):
            continue
        seen.add(id(value))
        fields: dict[int, Any] = {}
        for key, tensor in value.items():
            if isinstance(tensor, LuaTensor):
                first = fields.setdefault(id(tensor), key)
                same = key == first or before.get(key) is before.get(first)
                assert same, f"{value!r} holds one tensor in {first} and {key}"
        stack.extend((v, before[k]) for k, v in value.items() if k in before and type(before[k]) is type(v))


def test_recurrent_gives_torch7_clones_that_share_storages() -> None:
    module = Recurrent(nn.Identity(), nn.Linear(3, 4), nn.Linear(4, 4), nn.Tanh(), CAddTable())
    obj = to_lua(module)
    first, later = obj["initialModule"]["modules"], obj["recurrentModule"]["modules"]
    assert obj["sharedClones"][2] is obj["recurrentModule"]
    assert first[1] is not later[1]["modules"][1]
    assert first[1]["weight"].storage is later[1]["modules"][1]["weight"].storage
    assert first[1]["weight"] is not later[1]["modules"][1]["weight"]
    assert first[2] is obj["startModule"]


@pytest.mark.parametrize("wrap", [lambda m: (m, nn.Tanh()), lambda m: (nn.Linear(3, 3), m)], ids=["input", "transfer"])
def test_step_modules_inside_recurrent_start_again_in_its_second_step(wrap: Any) -> None:
    """Torch7 runs the first step with clones that have states of their own; measured, the outputs differed by 0.1."""
    input, transfer = wrap(gru(3, 3))
    module = Recurrent(nn.Identity(), input, nn.Linear(3, 3), transfer, CAddTable())
    first, *others = torch.randn(4, 2, 3)
    output, later = module(first), copy.deepcopy(module)
    memory.forget(later.input_module)
    memory.forget(later.transfer_module)
    for x in others:
        output = later.transfer_module(later.input_module(x) + later.feedback_module(output))
        assert torch.equal(module(x), output)
    obj = to_lua(module)
    assert obj["step"] == 5
    assert [cell["step"] for cell in obj["initialModule"]["modules"].values() if "step" in cell] == [1]
    assert not to_torch(obj)._first_continues
    for cell in obj["initialModule"]["modules"].values():
        cell["step"] = 2  # in a file that Torch7 saved after a forward pass
    assert to_torch(obj)._first_continues


@pytest.mark.parametrize(
    ("transfer", "wrong"),
    [
        (lambda: nn.Sequential(gru(3, 3), nn.Linear(3, 3)), True),
        (lambda: nn.Sequential(nn.Linear(3, 3), gru(3, 3)), False),
        (nn.Tanh, False),
    ],
)
def test_gradients_after_a_step_module_inside_recurrent_are_a_fault_of_torch7(transfer: Any, wrong: bool) -> None:
    """Measured in Torch7: the gradient of the weight differed by 0.6, and all others were equal."""
    module = Recurrent(nn.Identity(), nn.Linear(3, 3), nn.Linear(3, 3), transfer(), CAddTable())
    faults = [fault for fault in Recurrent.Lua.faults if fault.applies_to(module)]
    assert any(fault.affects("gradParams") for fault in faults) is wrong
    assert not any(fault.affects("output") for fault in faults)


@pytest.mark.parametrize("last", [nn.Linear(4, 4), LazyDropout(0.3)])
def test_clones_for_time_steps_contain_the_same_step_module(last: nn.Module) -> None:
    """In Torch7 another step module would have another state; its own clones have its dropout masks."""
    model = Recursor(nn.Sequential(Recursor(nn.Sequential(LazyDropout(0.3), nn.Linear(3, 4))), last))
    for x in torch.randn(3, 2, 3):
        model(x)
    obj = to_lua(model)
    inner = obj["recurrentModule"]["modules"][1]
    assert len(inner["sharedClones"]) == 3
    assert len(obj["sharedClones"]) == (3 if isinstance(last, LazyDropout) else 1)
    assert all(clone["modules"][1] is inner for clone in obj["sharedClones"].values())
    both = zip(model.modules(), to_torch(obj).modules(), strict=True)
    masks = [(m.masks, n.masks) for m, n in both if isinstance(m, LazyDropout) and isinstance(n, LazyDropout)]
    assert masks
    assert all(m.keys() == n.keys() == {1, 2, 3} for m, n in masks)
    assert all(torch.equal(m[step], n[step]) for m, n in masks for step in m)


@pytest.mark.parametrize("mode", memory.MODES)
@pytest.mark.parametrize("training", [True, False])
def test_sequencer_remembers_as_told(mode: str, training: bool) -> None:
    model = Sequencer(gru(3, 4)).train(training)
    memory.remember(model, mode)
    x = torch.randn(2, 2, 3)
    again = torch.equal(model(x), model(x))
    assert again != (mode == "both" or mode == ("train" if training else "eval"))


@pytest.mark.parametrize(("stored", "mode"), [(True, "eval"), (False, "neither")])
def test_remember_of_july_2015_is_a_boolean_for_evaluation(stored: bool, mode: str) -> None:
    model = to_torch(to_lua(Sequencer(gru(3, 4)).eval()).changed(_remember=stored))
    x = torch.randn(2, 2, 3)
    assert torch.equal(model(x), model(x)) is not stored
    assert to_lua(model)["_remember"] == mode


@pytest.mark.parametrize("make", [lambda: Sequencer(gru(3, 4)), lambda: SeqGRU(3, 4)])
def test_a_file_has_one_of_the_words_of_remember(make: Any) -> None:
    with pytest.raises(ConversionError, match=r"expected _remember to be one of both, eval, train, neither, found"):
        to_torch(to_lua(make()).changed(_remember='both"); print("code of the file'))


def test_repeaters_of_2015_have_the_fields_rnn_and_nstep() -> None:
    model, x = Repeater(gru(3, 4), 3), torch.randn(2, 3)
    obj = to_lua(model)
    old = to_torch(obj.changed(rnn=obj["module"], nStep=obj["rho"], module=None, rho=None))
    torch.testing.assert_close(old(x), model(x))
    old.rho = 2
    written = to_lua(old)  # for Torch7 of 2015 and of later years
    assert written["rnn"] is written["module"]
    assert written["nStep"] == written["rho"] == 2
    assert {"rnn", "nStep"}.isdisjoint(to_lua(model))


def test_results_of_each_time_step_in_files_of_march_2015_are_written_empty() -> None:
    """Torch7 of that time resizes them to the buffers of the layers, which are written empty and have another form."""
    model = Recurrent(nn.Identity(), nn.Linear(3, 2), nn.Linear(2, 2), nn.Tanh(), CAddTable())
    steps = LuaTable({2: LuaTable.from_list([LuaTable(), LuaTensor.from_numpy(np.ones(2))])})
    names = ("initialOutputs", "initialGradInputs", "recurrentOutputs", "recurrentGradInputs")
    written = to_lua(to_torch(to_lua(model).changed(dict.fromkeys(names, steps))))
    assert not any(len(written[name]) for name in names)
    assert not set(names) & set(to_lua(model))


def test_remember_rejects_other_words() -> None:
    with pytest.raises(ValueError, match="expected 'both', 'eval', 'train' or 'neither', found 'always'"):
        memory.remember(Sequencer(gru(3, 4)), "always")


def test_remember_reaches_sequencers_in_a_container_but_not_inside_each_other() -> None:
    inner = Sequencer(gru(4, 4))
    outer = Sequencer(nn.Sequential(nn.Linear(3, 4), inner))
    memory.remember(nn.Sequential(outer), "both")
    assert outer.remembering == "both"
    assert inner.remembering is None


def test_changing_the_mode_forgets() -> None:
    model = Sequencer(gru(3, 4))
    memory.remember(model)
    x = torch.randn(2, 2, 3)
    first = model(x)
    model.eval()
    assert model.module.step == 1
    torch.testing.assert_close(model(x), first)
    model.eval()
    assert model.module.step == 3


@pytest.mark.parametrize("make", SEQUENCES)
def test_sequence_module_equals_steps_and_remembers(make) -> None:
    model, x = make(), torch.randn(4, 2, 3)
    whole = model(x)
    memory.remember(model)
    memory.forget(model)
    parts = torch.cat([model(x[:1]), model(x[1:])])
    torch.testing.assert_close(parts, whole)


def test_sequence_modules_become_step_modules() -> None:
    x = torch.randn(4, 2, 3)
    lstm, unit = SeqLSTM(3, 4), SeqGRU(3, 4)
    torch.testing.assert_close(Sequencer(lstm.to_fast_lstm())(x), lstm(x))
    torch.testing.assert_close(Sequencer(unit.to_gru())(x), unit(x))
    with pytest.raises(TypeError, match="projection"):
        SeqLSTMP(3, 5, 4).to_fast_lstm()


def test_seq_lstm_is_torch_lstm() -> None:
    ours, stock = SeqLSTM(3, 4), nn.LSTM(3, 4)
    weight_x, weight_h, bias_x, bias_h = (p.detach() for p in stock.parameters())
    i, f, g, o = weight_x.chunk(4)
    a, b, c, d = weight_h.chunk(4)
    e, h, j, k = (bias_x + bias_h).chunk(4)
    with torch.no_grad():
        ours.weight.copy_(torch.cat([torch.cat([i, f, o, g]).t(), torch.cat([a, b, d, c]).t()]))
        ours.bias.copy_(torch.cat([e, h, k, j]))
    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(ours(x), stock(x)[0])


@pytest.mark.parametrize("make", SEQUENCES)
def test_other_batch_size_needs_forget(make) -> None:
    model = make()
    memory.remember(model)
    model(torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match=r"call forget\(\)"):
        model(torch.zeros(2, 5, 3))
    model.forget()
    assert model(torch.zeros(2, 5, 3)).shape == (2, 5, 4)


@pytest.mark.parametrize("make", SEQUENCES)
def test_initial_states_of_other_sizes_are_refused(make) -> None:
    model, x = make(), torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"of shape \(5, 4\), found \(1, 4\)"):
        model([torch.zeros(1, 4), x])
    with pytest.raises(ValueError, match="expected at most"):
        model([torch.zeros(5, 4)] * 3 + [x])
    model.user_prev_output = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="expected an initial state of shape"):
        model(x)
    assert model.user_prev_output is not None, "it is for the next call that runs"


@pytest.mark.parametrize("make", STEPS[:2])
def test_step_modules_do_not_broadcast_a_state_to_another_batch_size(make) -> None:
    step = make()
    step(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"call forget\(\)"):
        step(torch.zeros(5, 3))


def test_gradients_flow_from_a_decoder_into_its_encoder() -> None:
    encoder, decoder = Sequencer(fast_lstm(3, 4)), Sequencer(fast_lstm(3, 4))
    memory.remember(decoder)
    x = torch.randn(3, 2, 3, requires_grad=True)
    encoder(x)
    memory.set_hidden_state(decoder.module, 0, memory.get_hidden_state(encoder.module))
    decoder(torch.zeros(2, 2, 3)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_gradients_flow_between_sequence_modules() -> None:
    encoder, decoder = SeqLSTM(3, 4), SeqLSTM(3, 4)
    x = torch.randn(3, 2, 3, requires_grad=True)
    encoder(x)
    assert encoder.final is not None
    decoder.user_prev_output, decoder.user_prev_cell = encoder.final
    decoder(torch.zeros(2, 2, 3)).sum().backward()
    assert decoder.user_prev_output is None
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_hidden_states_of_containers_are_lists() -> None:
    model = nn.Sequential(gru(3, 4), nn.Tanh(), fast_lstm(4, 2))
    model(torch.zeros(1, 3))
    state = memory.get_hidden_state(model)
    assert state[0].shape == (1, 4)
    assert state[1] is None
    assert [s.shape for s in state[2]] == [(1, 2), (1, 2)]
    memory.set_hidden_state(model, None, [torch.ones(1, 4), None, [torch.ones(1, 2)] * 2])
    assert torch.equal(memory.get_hidden_state(model[0]), torch.ones(1, 4))


def test_start_of_a_recurrence_may_be_a_list() -> None:
    pair = nn.Sequential(SelectTable(2), nn.Sequential())
    step = Recurrence(pair, [[4], [2]], 1)
    step.user_prev_output = [torch.ones(4), torch.zeros(2)]
    obj = to_lua(step)
    assert [t.shape for t in obj["userPrevOutput"].as_list()] == [(4,), (2,)]
    again = to_torch(obj)
    torch.testing.assert_close(again(torch.zeros(3)), step(torch.zeros(3)))
    assert to_lua(again)["userPrevOutput"][1].shape == (4,)


def test_recurrence_frees_its_first_input_with_its_last_use() -> None:
    step, x = recurrence(), torch.zeros(2, 3)
    gc.disable()
    try:
        step(x)
        step.forget()
        kept = weakref.ref(x)
        del x
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("together", [True, False])
def test_a_module_with_the_graph_of_its_states_can_be_freed(together: bool) -> None:
    step = gru(3, 4)
    step.recurrent_module = MaskZero(step.recurrent_module, 1)
    if together:
        Sequencer(step)(torch.zeros(2, 1, 3))
    else:
        step(torch.ones(1, 3))
    kept = [weakref.ref(step), weakref.ref(step.recurrent_module)]
    del step
    gc.collect()
    assert [reference() for reference in kept] == [None, None]


def test_a_cast_after_a_sequence_casts_the_states_of_all_time_steps() -> None:
    step = fast_lstm(3, 4)
    Sequencer(step)(torch.randn(3, 2, 3))
    before = [[t.detach().double() for t in copy.deepcopy(step).get_hidden_state(k)] for k in (1, 2, 3)]
    step.double()
    assert all(
        torch.equal(a, b) for k in (1, 2, 3) for a, b in zip(step.get_hidden_state(k), before[k - 1], strict=True)
    )


def test_state_that_was_not_saved_is_a_clear_error() -> None:
    obj = to_lua(gru(3, 4))
    obj["step"] = 5  # as in a file whose outputs were emptied, such as a Serial's
    step = to_torch(obj)
    with pytest.raises(RuntimeError, match=r"state after step 4 was not saved in the file; call forget\(\)"):
        step(torch.zeros(2, 3))
    memory.forget(step)
    assert step(torch.zeros(2, 3)).shape == (2, 4)


def test_masked_rows_reset_the_state() -> None:
    masked = gru(3, 4)
    masked.recurrent_module = MaskZero(masked.recurrent_module, 1)
    x = torch.randn(3, 2, 3)
    x[1, 0] = 0
    outputs = Sequencer(masked)(x)
    assert not outputs[1, 0].any()
    alone = Sequencer(masked)(x[2:, :1])
    torch.testing.assert_close(outputs[2, 0], alone[0, 0])


def test_mask_zero_counts_masked_rows_in_the_bias_and_trim_zero_does_not() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    for kind, bias in ((MaskZero, 2.0), (TrimZero, 1.0)):
        linear = nn.Linear(2, 1)
        kind(linear, 1)(x).sum().backward()
        assert linear.bias.grad is not None
        assert float(linear.bias.grad) == bias
        assert x.grad is not None
        assert not x.grad[1].any()


def test_mask_needs_a_sample_or_a_batch() -> None:
    with pytest.raises(ValueError, match="expected 1 dimensions, or 2 for a batch"):
        MaskZero(nn.Linear(2, 1), 1)(torch.zeros(2, 2, 2))


def test_lookup_table_mask_zero_clears_its_padding_row() -> None:
    table = LookupTableMaskZero(3, 2)
    table(torch.tensor([[0, 1]])).sum().backward()
    assert not table.weight[0].any()
    assert table.weight.grad is not None
    assert torch.equal(table.weight.grad[0], torch.ones(2))


def test_lookup_table_mask_zero_clears_its_padding_row_in_evaluation() -> None:
    """Torch7 does too, so a reference with ``after`` contains zeros."""
    table = LookupTableMaskZero(3, 2).eval()
    assert not table(torch.tensor([1])).eq(0).all()
    assert not table.weight[0].any()


def test_lazy_dropout_keeps_its_mask_until_backward() -> None:
    dropout = LazyDropout(0.5)
    step = Recursor(nn.Sequential(dropout, nn.Linear(8, 8)))
    x = torch.ones(1, 8)
    outputs = Sequencer(step)(x.expand(5, 1, 8))
    assert all(torch.equal(o, outputs[0]) for o in outputs)
    mask = dropout.masks[1]
    assert torch.equal(Sequencer(step)(x[None]), outputs[:1])  # no backward in between
    outputs.sum().backward()
    assert dropout.stale == {1, 2, 3, 4, 5}
    step.forget()
    step(x)
    assert dropout.masks[1] is not mask


def test_lazy_dropout_notices_backward_even_when_its_input_needs_no_gradient() -> None:
    dropout = LazyDropout(0.5)
    model = nn.Sequential(dropout, nn.Linear(8, 1))
    model(torch.ones(1, 8)).sum().backward()
    assert dropout.stale == {1}


def test_a_simple_recurrent_network_keeps_the_dropout_masks_of_all_steps() -> None:
    def layer() -> nn.Sequential:
        return nn.Sequential(LazyDropout(0.5), nn.Linear(4, 4))

    step = Recurrent(nn.Identity(), layer(), layer(), nn.Tanh(), CAddTable())
    for _ in range(2):  # in the second sequence each step has a mask of its own
        memory.forget(step)
        torch.stack([step(torch.ones(2, 4)) for _ in range(4)]).sum().backward()
    memory.forget(step)
    outputs = [step(torch.ones(2, 4)) for _ in range(3)]
    again = to_torch(to_lua(step))
    memory.forget(again)
    torch.testing.assert_close([again(torch.ones(2, 4)) for _ in range(3)], outputs)


def test_repeater_repeats_and_bisequencer_lm_hides_each_step_from_itself() -> None:
    assert len(Repeater(gru(3, 4), 3)(torch.zeros(2, 3))) == 3

    class Zip(nn.Module):
        def forward(self, input: list[list[Tensor]]) -> list[Tensor]:
            return [torch.cat(pair, 1) for pair in zip(*input, strict=True)]

    class Reverse(nn.Module):
        def forward(self, input: list[Tensor]) -> list[Tensor]:
            return input[::-1]

    model = BiSequencerLM(Sequencer(gru(3, 4)), nn.Sequential(Reverse(), Sequencer(gru(3, 4)), Reverse()), Zip())
    xs = [torch.randn(1, 3, requires_grad=True) for _ in range(4)]
    model(xs)[1].sum().backward()
    assert xs[1].grad is None or not xs[1].grad.any()
    with pytest.raises(ValueError, match="at least 2 elements, found 1"):
        model(xs[:1])


@pytest.mark.parametrize("make", [Sequencer, lambda m: Repeater(m, 2), lambda m: RecurrentAttention(m, m, 2, [3])])
def test_a_layer_is_written_as_a_step_module(make: Any) -> None:
    """Torch7's constructors do so: one layer would overwrite its output at every time step."""
    model = make(nn.Linear(3, 3)).eval()
    written = to_lua(model)
    for inner in written["modules"].as_list():
        assert (inner.class_name, inner["train"]) == ("nn.Recursor", False)
        assert inner["module"].class_name == "nn.Linear"
    assert to_lua(to_torch(written))["modules"].as_list()[0]["module"].class_name == "nn.Linear"
    assert to_lua(make(gru(3, 3)))["modules"].as_list()[0].class_name == "nn.GRU"
    assert isinstance(next(model.children()), nn.Linear)


def test_both_directions_take_a_list() -> None:
    x = torch.zeros(4, 2, 3)
    for module in (BiSequencer(nn.Identity()), BiSequencerLM(nn.Identity(), nn.Identity(), nn.Identity())):
        with pytest.raises(TypeError, match=r"expected a list with one element.*shape \(4, 2, 3\); pass list\(input\)"):
            module(x)
    assert len(BiSequencer(nn.Identity())(list(x))) == 4


def test_the_loss_of_one_time_step_is_zero() -> None:
    stabilizer = NormStabilizer()
    with pytest.raises(RuntimeError, match="run a time step in training mode"):
        stabilizer.update_loss()
    stabilizer(torch.ones(2, 3))
    assert stabilizer.update_loss() == 0
    stabilizer(torch.ones(2, 3))
    torch.testing.assert_close(stabilizer.update_loss(), torch.tensor(12.0 / 2))


def test_a_projection_is_drawn_again() -> None:
    module = SeqLSTMP(3, 5, 4)
    before = [p.clone() for p in module.parameters()]
    module.reset_parameters()
    assert [torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True)] == [False, True, False]


@pytest.mark.parametrize("make", [*(lambda m=m: Sequencer(m()) for m in STEPS), *SEQUENCES])
def test_compiles_without_graph_breaks(make) -> None:
    model, x = make(), torch.randn(3, 2, 3)
    expected = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(compiled(x), expected)


def test_trim_zero_normalises_the_rows_that_are_left() -> None:
    norm = nn.BatchNorm1d(3).double()
    module = TrimZero(nn.Sequential(norm, nn.Tanh()), 1)
    x = torch.randn(5, 3, dtype=torch.float64)
    x[[1, 3]] = 0
    left = torch.tanh((x[[0, 2, 4]] - x[[0, 2, 4]].mean(0)) / (x[[0, 2, 4]].var(0, correction=0) + 1e-5).sqrt())
    torch.testing.assert_close(module(x)[[0, 2, 4]], left)
    torch.testing.assert_close(norm.running_mean, 0.1 * x[[0, 2, 4]].mean(0))
    assert not module(x)[[1, 3]].any()
    module.eval()
    torch.testing.assert_close(module(x)[0], torch.tanh(norm(x[:1])[0]))


def test_trim_zero_of_nothing_has_the_gradient_of_the_first_row() -> None:
    linear = nn.Linear(2, 3).double()
    x = [torch.zeros(2, 1, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64, requires_grad=True)]
    output = TrimZero(nn.Sequential(SelectTable(2), linear), 1)(x)
    assert not output.any()
    output.backward(torch.tensor([[1.0, 2, 3], [4, 5, 6]], dtype=torch.float64))
    assert linear.bias.grad is not None
    assert x[1].grad is not None
    torch.testing.assert_close(linear.bias.grad, torch.tensor([1.0, 2, 3], dtype=torch.float64))
    assert not x[1].grad.any()


def test_a_copy_at_the_start_of_a_sequence_draws_the_masks_of_a_new_model() -> None:
    model = Sequencer(nn.Sequential(recurrent(), LazyDropout(0.5))).train()
    new, x = copy.deepcopy(model), torch.randn(4, 2, 3)
    model(x)  # keeps its masks until a backward
    torch.manual_seed(1)
    expected = new(x)
    torch.manual_seed(1)
    assert torch.equal(at_sequence_start(model)(x), expected)
