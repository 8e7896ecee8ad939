"""Every public function refuses an argument of a wrong type with one error that names it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import batch, files, memory, optim, parity, training
from dpnn_bridge.base.arguments import check_types, checks_arguments
from dpnn_bridge.errors import OptionError
from dpnn_bridge.legacy import load_lua
from dpnn_bridge.loaders import dumps
from dpnn_bridge.objects import LuaTable
from dpnn_bridge.parity.verify import verify

LINEAR = nn.Linear(2, 1)
VECTOR = torch.zeros(3)
SGD = torch.optim.SGD(LINEAR.parameters(), lr=0.1)

#: argument that is wrong -> calls
CASES: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    ("model", dpnn_bridge.model_at, ("model.t7", "modules[1]"), {}),
    ("place", dpnn_bridge.model_at, (LINEAR, 3), {}),
    ("model", dpnn_bridge.lua_names, (None,), {}),
    ("model", dpnn_bridge.lua_paths, ({},), {}),
    ("module", dpnn_bridge.load_flat, (VECTOR, LINEAR), {}),
    ("vector", dpnn_bridge.load_flat, (LINEAR, "x"), {}),
    ("vector", dpnn_bridge.load_flat, (LINEAR, None), {}),
    ("path", dpnn_bridge.load, (3,), {}),
    ("key", dpnn_bridge.load, ("x.t7",), {"key": 3}),
    ("device", dpnn_bridge.load, ("x.t7",), {"device": 2.5}),
    ("dtype", dpnn_bridge.load, ("x.t7",), {"dtype": 16}),
    ("index_base", dpnn_bridge.load, ("x.t7",), {"index_base": "x"}),
    ("index_base", dpnn_bridge.load, ("x.t7",), {"index_base": 3}),
    ("index_base", dpnn_bridge.load, ("x.t7",), {"index_base": True}),
    ("inplace", dpnn_bridge.load, ("x.t7",), {"inplace": "yes"}),
    ("plugins", dpnn_bridge.load, ("x.t7",), {"plugins": "x.py"}),
    ("plugins", dpnn_bridge.load, ("x.t7",), {"plugins": [3]}),
    ("sandbox", dpnn_bridge.load, ("x.t7",), {"sandbox": "full"}),
    ("sha256", dpnn_bridge.load, ("x.t7",), {"sha256": 3}),
    ("path", dpnn_bridge.read_t7, (None,), {}),
    ("filename", load_lua, (3.5,), {}),
    ("long_size", load_lua, ("x.t7",), {"long_size": "8"}),
    ("path", dpnn_bridge.load_checkpoint, (3,), {}),
    ("index_base", dpnn_bridge.load_checkpoint, ("x.t7",), {"index_base": 3}),
    ("index_base", dpnn_bridge.to_torch, (LuaTable(),), {"index_base": "x"}),
    ("module", dpnn_bridge.to_lua, ("model",), {}),
    ("tensor_type", dpnn_bridge.to_lua, (LINEAR,), {"tensor_type": torch.float32}),
    ("path", dpnn_bridge.save, (LINEAR, "model.pt"), {}),
    ("module", dpnn_bridge.save, ("model.pt", {"weight": VECTOR}), {}),
    ("path", dpnn_bridge.write_t7, (LINEAR, "model.t7"), {}),
    ("to", dpnn_bridge.save, ("model.pt", LINEAR), {"to": 3}),
    ("metadata", dpnn_bridge.save, ("model.pt", LINEAR), {"metadata": "x"}),
    ("big_endian", dpnn_bridge.save, ("model.t7", LINEAR), {"big_endian": "no"}),
    ("max_shard_size", dpnn_bridge.save, ("model.safetensors", LINEAR), {"max_shard_size": 2.5}),
    ("referenced", dpnn_bridge.write_t7, ("model.t7", 1), {"referenced": "no"}),
    ("mode", dpnn_bridge.write_t7, ("model.t7", 1), {"mode": "text"}),
    ("long_size", dpnn_bridge.read_t7, (dumps(1),), {"long_size": "8"}),
    ("max_depth", dpnn_bridge.read_t7, (dumps(1),), {"max_depth": "x"}),
    ("lazy", dpnn_bridge.read_t7, (dumps(1),), {"lazy": "no"}),
    ("tensor_type", dpnn_bridge.convert, ("x.t7", "y.t7"), {"tensor_type": 3}),
    ("index_base", dpnn_bridge.convert, ("x.t7", "y.pt"), {"index_base": 3}),
    ("plugins", dpnn_bridge.convert, ("x.t7", "y.pt"), {"plugins": "x.py"}),
    ("dst", dpnn_bridge.convert, ("x.t7", None), {}),
    ("module", dpnn_bridge.port, ("x.t7", "network", VECTOR), {}),
    ("path", files.model_keys, (None,), {}),
    ("module", training.parameters, ("model",), {}),
    ("module", training.flatten, ([LINEAR],), {}),
    ("package", training.flatten, (LINEAR,), {"package": "rnn"}),
    ("module", training.get_parameters, (None,), {}),
    ("module", training.update_parameters, (0.1, LINEAR), {}),
    ("module", training.check_parameters, ({},), {}),
    ("learning_rate", training.update_parameters, (LINEAR, "0.1"), {}),
    ("module", training.zero_grad_parameters, (LINEAR.weight,), {}),
    ("wd_factor", training.weight_decay, (LINEAR, "x"), {}),
    ("wd_min_dim", training.weight_decay, (LINEAR, 0.1, 1.5), {}),
    ("module", training.momentum_grad_parameters, (3,), {}),
    ("mom_factor", training.update_grad_parameters, (LINEAR, None), {}),
    ("max_out_norm", training.max_param_norm, (LINEAR, "2"), {}),
    ("cutoff_norm", training.grad_param_clip, (LINEAR, [2]), {}),
    ("module", training.shared_clone, ("model",), {}),
    ("dtype", training.cast, (LINEAR, "float16"), {}),
    ("mode", training.serialized, (LINEAR, "tiny"), {}),
    ("tensor_type", training.serialized, (LINEAR, "light", 3), {}),
    ("reward", training.reinforce, (LINEAR, 1.0), {}),
    ("method", optim.from_lua, (3, {}, LINEAR), {}),
    ("config", optim.from_lua, ("sgd", 0.1, LINEAR), {}),
    ("target", optim.from_lua, ("sgd", {}, "model"), {}),
    ("state", optim.from_lua, ("sgd", {}, LINEAR, 3), {}),
    ("optimizer", optim.to_lua, (LINEAR,), {}),
    ("target", optim.to_lua, (SGD, 3), {}),
    ("module", parity.assert_parity, ("x.t7", LINEAR), {}),
    ("fixture", parity.assert_parity, (LINEAR, VECTOR), {}),
    ("rtol", parity.assert_parity, (LINEAR, "x.t7"), {"rtol": "1e-3"}),
    ("module", parity.record, ("model", VECTOR, "x.t7"), {}),
    ("path", parity.record, (LINEAR, "x.t7", VECTOR), {}),
    ("fixture", parity.check, ("x.t7",), {}),
    ("module", parity.check_module, (3, LuaTable()), {}),
    ("path", parity.check_manifest, (3,), {}),
    ("model", verify, (LINEAR,), {}),
    ("model", dpnn_bridge.verify, (LINEAR,), {}),
    ("rtol", dpnn_bridge.verify, ("x.t7",), {"rtol": "x"}),
    ("mode", dpnn_bridge.verify, ("x.t7",), {"mode": "test"}),
    ("plugins", dpnn_bridge.inspect, ("x.t7",), {"plugins": "my.py"}),
    ("reference", verify, ("x.t7",), {"reference": VECTOR}),
    ("tolerance", verify, ("x.t7",), {"tolerance": 1e-3}),
    ("module", memory.forget, ("model",), {}),
    ("module", memory.detach, (None,), {}),
    ("mode", memory.remember, (LINEAR, "always"), {}),
    ("rho", memory.max_bptt_step, (LINEAR, "5"), {}),
    ("step", memory.get_hidden_state, (LINEAR, "last"), {}),
    ("module", memory.set_hidden_state, (0, LINEAR, None), {}),
    ("model", memory.run_sequence, ("model.t7", [], []), {}),
    ("module", memory.to_stock, ("model",), {}),
    ("sources", batch.tasks_for, ("x.t7", Path("out"), ".pt"), {}),
    ("suffix", batch.tasks_for, ([Path("x.t7")], Path("out"), None), {}),
    ("keys", batch.tasks_for_models, (Path("x.t7"), Path("y.pt"), "model"), {}),
    ("tasks", batch.run, ("x.t7",), {}),
    ("jobs", batch.run, ([],), {"jobs": "2"}),
    ("task", batch.run_one, ("x.t7",), {}),
]


@pytest.mark.parametrize(
    ("argument", "function", "args", "kwargs"),
    CASES,
    ids=[f"{case[1].__name__}-{case[0]}-{i}" for i, case in enumerate(CASES)],
)
def test_a_wrong_type_is_refused(
    argument: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=rf"argument {argument}: expected .+, found .+") as caught:
        function(*args, **kwargs)
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


def public_functions() -> dict[str, Any]:
    spaces = (dpnn_bridge, batch, files, memory, optim, parity, training)
    own = ((f"{s.__name__}.{n}", getattr(s, n)) for s in spaces for n in getattr(s, "__all__", ()))
    return {name: value for name, value in own if inspect.isfunction(value)}


#: they take anything, or are decorators
EXCEPT = {"compare", "full_precision", "paired", "replayed", "random_numbers", "lua_class"}


def test_every_public_function_checks() -> None:
    tested = {function.__name__ for _, function, _, _ in CASES}
    missing = [name for name in public_functions() if name.rsplit(".", 1)[1] not in tested | EXCEPT]
    assert missing == []


def test_a_wrong_call_is_one_error() -> None:
    with pytest.raises(OptionError, match="missing a required argument: 'place'"):
        dpnn_bridge.model_at(LINEAR)  # type: ignore[call-arg]
    with pytest.raises(OptionError, match=r"unexpected keyword argument 'colour'$"):
        training.flatten(LINEAR, colour=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("function", "name", "near"),
    [
        (dpnn_bridge.load, "index", "index_base"),
        (dpnn_bridge.load, "allow_unsuported", "allow_unsupported"),
        (dpnn_bridge.read_t7, "depth", "max_depth"),
        (dpnn_bridge.convert, "base", "index_base"),
        (training.flatten, "mod", "module"),
    ],
)
def test_an_unknown_keyword_suggests_a_near_name(function: Callable[..., Any], name: str, near: str) -> None:
    with pytest.raises(OptionError, match=rf"{name}'?; did you mean {near}\?$"):
        function("x.t7", *(["x.pt"] if function is dpnn_bridge.convert else []), **{name: 0})


def test_a_message_says_what_was_expected() -> None:
    expected = "load: argument index_base: expected 0 or 1, found 3 (int)"
    with pytest.raises(OptionError) as caught:
        dpnn_bridge.load("x.t7", index_base=3)  # type: ignore[arg-type]
    assert str(caught.value) == expected
    with pytest.raises(OptionError) as caught:
        dpnn_bridge.load_flat(VECTOR, LINEAR)  # type: ignore[arg-type]
    assert str(caught.value) == "load_flat: argument module: expected a torch.nn.Module, found a Tensor"


@pytest.mark.parametrize("tensor_type", ["torch.Bogus", "FloatTensor", "torch.FloatStorage", ""])
def test_a_tensor_type_that_there_is_not(tensor_type: str, tmp_path: Path) -> None:
    source = tmp_path / "in.t7"
    source.write_bytes(dumps(dpnn_bridge.to_lua(nn.Linear(2, 1))))
    for call in (
        partial(dpnn_bridge.to_lua, LINEAR, tensor_type=tensor_type),
        partial(dpnn_bridge.save, tmp_path / "x.t7", LINEAR, tensor_type=tensor_type),
        partial(dpnn_bridge.convert, source, tmp_path / "x.t7", tensor_type=tensor_type),
        partial(training.serialized, LINEAR, "light", tensor_type),
    ):
        with pytest.raises(OptionError, match="tensor_type"):
            call()
    assert not (tmp_path / "x.t7").exists()


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    model.weight.grad = torch.ones(1, 2)
    for rate in (1, 1.0, np.float32(1), torch.tensor(1.0)):
        training.update_parameters(model, rate)  # type: ignore[arg-type]
    torch.testing.assert_close(model.weight.detach(), before - 4)
    training.weight_decay(model, 0.1, np.int64(2))  # type: ignore[arg-type]
    dpnn_bridge.load_flat(model, [1.0, 2.0, 3.0])
    dpnn_bridge.load_flat(model, np.zeros(3))


@pytest.mark.parametrize(
    "value", [np.float64(1.5), torch.tensor(1.5), np.str_("1"), np.bool_(True), torch.tensor(True)]
)
def test_an_element_of_another_type_is_no_integer(value: Any) -> None:
    with pytest.raises(OptionError, match="argument n: expected an integer"):
        check_types("f", {"n": int}, {"n": value})


def test_annotations_of_every_kind() -> None:
    @checks_arguments
    def takes(a: int | None = None, *rest: str, flag: bool = False, call: Callable[[], int] = int) -> int | None:
        return a

    assert takes(3, flag=np.bool_(True), call=int) == 3  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"argument a: expected an integer or None, found 2\.5"):
        takes(2.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="argument call: expected a function, found 3"):
        takes(call=3)  # type: ignore[arg-type]


def test_a_sandbox_without_lua_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.t7").write_bytes(dumps(dpnn_bridge.to_lua(nn.Linear(2, 1))))
    for call in (dpnn_bridge.load, dpnn_bridge.verify, files.model_keys):
        with pytest.raises(OptionError, match=r"sandbox= .* needs lua="):
            call(tmp_path / "in.t7", sandbox=True)


def test_options_that_change_nothing_are_taken(tmp_path: Path) -> None:
    source = tmp_path / "in.t7"
    source.write_bytes(dumps(dpnn_bridge.to_lua(nn.Linear(2, 1))))
    dpnn_bridge.convert(source, tmp_path / "out.pt", force=True, checksum=True)
    assert files.is_converted(source, tmp_path / "out.pt", force=True, checksum=True)
    with pytest.raises(OptionError, match="no option colour; the options are key, "):
        dpnn_bridge.convert(source, tmp_path / "out.pt", colour=1)


def test_arguments_that_are_collected_are_passed_on() -> None:
    @checks_arguments
    def total(first: int, *others: int, **named: int) -> int:
        return first + sum(others) + sum(named.values())

    assert total(1, 2, 3, fourth=4) == 10
