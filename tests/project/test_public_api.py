"""What users import stays importable: names are added here when they become public, and none is ever taken away."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pydoc
import subprocess
import sys

import click
import pytest

import dpnn_bridge
from dpnn_bridge import _MOVED as MOVED
from dpnn_bridge.batch import Outcome, Task
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.compare.verdict import Verdict

PUBLIC = {
    "dpnn_bridge": "LuaClass convert errors inspect load load_flat lua_class memory optim parity pictures port read_t7"
    " save to_lua to_torch training verify write_t7",
    "dpnn_bridge.checkpoints": "",
    "dpnn_bridge.conversion": "Field Layout LuaClass LuaContext Options TorchContext to_lua to_torch",
    "dpnn_bridge.errors": "ConversionError DpnnBridgeError LuaBridgeError ModelNotFoundError NotT7Error"
    " OutputExistsError T7Error T7FormatError T7LimitError UnsupportedClass UnsupportedClassError VerificationError",
    "dpnn_bridge.loaders": "Framing ReadOptions Serializer WriteOptions dumps loads onmt read_all read_t7"
    " register_framing register_serializer serial_form write_all write_t7",
    "dpnn_bridge.lua": "Generator LuaBridge LuaCriterion LuaModule",
    "dpnn_bridge.memory": "MODES Memory Remembering detach forget get_hidden_state max_bptt_step remember"
    " run_sequence set_hidden_state to_stock",
    "dpnn_bridge.modules.cuda": "CudnnRNN",
    "dpnn_bridge.modules.dpnn": "NCECriterion NCEModule ReinforceNormal Serial SpatialGlimpse VRClassReward",
    "dpnn_bridge.modules.nn": "CAddTable ConcatTable Decorator GModule GraphNode JoinTable Reshape View",
    "dpnn_bridge.modules.rnn": "FastLSTM GRU LSTM Recurrence SeqLSTM Sequencer forget",
    "dpnn_bridge.objects": "LuaFunction LuaObject LuaStorage LuaTable LuaTensor element_dtype tensor_class",
    "dpnn_bridge.optim": "ASGD CG LBFGS NAG SGD Adam MomentumSGD from_lua to_lua",
    "dpnn_bridge.parity": "Difference Result Tolerance assert_parity check check_manifest check_module compare"
    " full_precision record",
    "dpnn_bridge.pictures": "LayerVerdict ModelNode graph_section model_graph page to_dot to_mermaid",
    "dpnn_bridge.porting": "Deviation Match PortReport port port_page",
    "dpnn_bridge.training": "cast check_parameters flatten get_parameters grad_param_clip load_flat max_param_norm"
    " momentum_grad_parameters parameters reinforce renormed serialized shared_clone update_grad_parameters"
    " update_parameters visited_rows weight_decay zero_grad_parameters",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_there(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in PUBLIC[module].split() if not hasattr(found, name)] == []


def test_renamed_attributes_have_their_earlier_names() -> None:
    difference = Difference("output", 1.0, 0.1, accepted=Verdict.KNOWN)
    assert difference.excuse is Verdict.KNOWN
    checksums = {"sha256": "00"}
    assert Outcome(Task("a.t7", "a.pt"), "converted", checksums=checksums).proof is checksums


@pytest.mark.parametrize("name", MOVED)
def test_moved_modules_have_their_earlier_names(name: str) -> None:
    assert importlib.import_module(name) is importlib.import_module(MOVED[name])


@pytest.mark.parametrize("name", ["dpnn_bridge", "dpnn_bridge.parity", "dpnn_bridge.modules.dpnn"])
def test_faces_list_what_they_hand_on(name: str) -> None:
    module = importlib.import_module(name)
    assert set(PUBLIC[name].split()) <= set(dir(module))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


#: options as keyword arguments -> the dataclass that they are the fields of
KEYWORDS = {
    "ConvertKeywords": ("outputs.options", "ConvertOptions"),
    "OptionKeywords": ("conversion.options", "Options"),
    "ReadKeywords": ("loaders.t7_reader", "ReadOptions"),
    "WriteKeywords": ("loaders.t7_writer", "WriteOptions"),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_keyword_arguments_are_the_fields_of_their_options(name: str) -> None:
    place, options = KEYWORDS[name]
    module = importlib.import_module(f"dpnn_bridge.{place}")
    annotations = vars(module)[name].__annotations__
    keywords = {k: getattr(v, "__forward_arg__", v) for k, v in annotations.items()}
    assert keywords == {f.name: f.type for f in dataclasses.fields(vars(module)[options])}


def test_public_functions_type_their_options() -> None:
    for name in dpnn_bridge.__all__:
        function = getattr(dpnn_bridge, name)
        if inspect.isfunction(function):
            variadic = [p for p in inspect.signature(function).parameters.values() if p.kind is p.VAR_KEYWORD]
            assert all("Unpack" in str(p.annotation) for p in variadic), name


def test_options_of_commands_are_arguments_of_functions() -> None:
    """``--gradient-rtol`` is ``gradient_rtol=``; a list has the plural. Others are of printing and of many files."""
    commands = {
        convert_command: (
            dpnn_bridge.convert,
            "all_models into out_dir jobs dask manifest report partial_sandbox card",
        ),
        verify_command: (dpnn_bridge.verify, "weights later jobs dask trust_manifest html partial_sandbox"),
        inspect_command: (dpnn_bridge.inspect, "raw limit depth mode long_size big_endian html dot mermaid unfold"),
    }
    printing = {"as_json", "quiet", "verbose", "version", "list_classes", "help"}
    for command, (function, others) in commands.items():
        arguments = set(inspect.signature(function).parameters)
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in printing | set(others.split()):
                names = {flag.lstrip("-").replace("-", "_") for flag in option.opts}
                assert {*names, *(f"{name}s" for name in names)} & arguments, option.opts


def test_help_is_a_page() -> None:
    page = pydoc.plain(pydoc.render_doc(dpnn_bridge))
    first = page[: page.index("PACKAGE CONTENTS")]
    missing = [name for name in dpnn_bridge.__all__ if name not in first]
    assert missing == ["__version__"]
    assert max(map(len, first.splitlines())) <= 124
    assert "<lambda>" not in page


def test_help_and_plugin_do_not_load_torch() -> None:
    code = (
        "import sys, dpnn_bridge, dpnn_bridge.pytest_plugin, dpnn_bridge.cli.convert, dpnn_bridge.cli.inspect\n"
        "import dpnn_bridge.cli.verify, dpnn_bridge.cli.lua, dpnn_bridge.parity, dpnn_bridge.__main__\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
