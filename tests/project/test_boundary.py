"""Every public function raises this package's errors alone, with the cause chained."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge import errors
from dpnn_bridge.base import arguments
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.conversion import registry
from dpnn_bridge.errors import ConversionError, DpnnBridgeError, FileAccessError, MissingFileError, OptionError
from dpnn_bridge.loaders import dumps
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.verify import verify


def guarded(error: BaseException) -> None:
    @wrap_errors(ConversionError, "converting")
    def fails() -> None:
        raise error

    fails()


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        AssertionError(),
        OverflowError("big"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        SystemExit(3),
    ],
)
def test_a_foreign_error_becomes_ours(error: BaseException) -> None:
    with pytest.raises(ConversionError, match=f"converting: {type(error).__name__}") as caught:
        guarded(error)
    assert caught.value.__cause__ is error


def test_our_errors_and_an_interruption_pass() -> None:
    ours = DpnnBridgeError("x")
    with pytest.raises(DpnnBridgeError) as caught:
        guarded(ours)
    assert caught.value is ours
    with pytest.raises(KeyboardInterrupt):
        guarded(KeyboardInterrupt())


def test_memory_and_recursion() -> None:
    with pytest.raises(ConversionError, match="not enough memory"):
        guarded(MemoryError())
    with pytest.raises(ConversionError, match="nested too deeply"):
        guarded(RecursionError("maximum recursion depth exceeded"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, "No usable temporary directory found in ['/tmp']"), "converting: no usable temporary directory found in"),
        ((2, "No such file or directory", "x.bin"), "x.bin: converting: no such file"),
        (("x.bin",), "converting: no such file"),
    ],
)
def test_a_missing_file_without_a_name_has_its_reason(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(MissingFileError) as caught:
        guarded(FileNotFoundError(*arguments))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("suffix", [".t7", ".pt", ".safetensors"])
def test_a_missing_file_is_a_file_not_found_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"none{suffix}"
    for function in (dpnn_bridge.load, lambda p: dpnn_bridge.convert(p, tmp_path / "out.npz"), verify):
        with pytest.raises(MissingFileError, match="no such file") as caught:
            function(path)
        assert isinstance(caught.value, FileNotFoundError)
        assert isinstance(caught.value, errors.NotT7Error)
    with pytest.raises(FileNotFoundError):
        dpnn_bridge.read_t7(path)
    with pytest.raises(FileNotFoundError):
        describe(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FileAccessError, match="permission denied") as caught:
        dpnn_bridge.write_t7(tmp_path / "x.t7", 1)
    assert isinstance(caught.value, PermissionError | OSError)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="no space left on device") as caught:
        guarded(OSError(28, "No space left on device", str(tmp_path)))
    assert caught.value.errno == 28


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("--help", 1, "error: stdout: printing: no space left on device"),
        ("convert --help", 1, "error: stdout: printing: no space left on device"),
        ("inspect --version", 1, "error: stdout: printing: no space left on device"),
        ("lua -e print(1)", 7, "dpnn-lua: cannot print: No space left on device"),
    ],
)
def test_what_cannot_be_printed_is_an_error(command: str, code: int, message: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dpnn_bridge", *command.split()], stdout=full, stderr=subprocess.PIPE, text=True
        )
    first = done.stderr.splitlines()[0]
    assert (done.returncode, first.endswith(message)) == (code, True), done.stderr


def test_options_that_there_are_not(tmp_path: Path) -> None:
    for call in (
        lambda: dpnn_bridge.read_t7(tmp_path, bogus=1),
        lambda: dpnn_bridge.read_t7(tmp_path, mode="x"),
        lambda: dpnn_bridge.load(tmp_path, bogus=1),  # type: ignore[call-arg]
        lambda: dpnn_bridge.write_t7(tmp_path / "x.t7", 1, bogus=1),
        lambda: dumps(1, long_size=5),
    ):
        with pytest.raises(OptionError) as caught:
            call()
        assert isinstance(caught.value, TypeError)
        assert "__init__" not in str(caught.value)
    with pytest.raises(DpnnBridgeError):
        dpnn_bridge.load(tmp_path / "x.t7", device="nowhere")


def test_only_arguments_of_the_call_itself_are_invalid() -> None:
    @wrap_errors(ConversionError, "converting")
    def convert(value: Any, **options: Any) -> None:
        build(**options)

    def build(**options: Any) -> None:
        nn.Linear(1, 1, **options)

    with pytest.raises(
        ConversionError, match=r"converting: TypeError: .*unexpected keyword argument 'colour'"
    ) as caught:
        convert(1, colour=2)
    assert not isinstance(caught.value, OptionError)
    with pytest.raises(OptionError, match=r"^convert: missing 1 required positional argument: 'value'$"):
        convert()  # type: ignore[call-arg]
    with pytest.raises(OptionError, match=r"^read_t7: got an unexpected keyword argument 'bogus'"):
        dpnn_bridge.read_t7(dumps(1), bogus=1)


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "1 / 0", "def"])
def test_a_plugin_that_fails(line: str, tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(line)
    with pytest.raises(ConversionError, match=r"loading the plugin .*plugin\.py"):
        dpnn_bridge.load(tmp_path / "x.t7", plugins=[plugin])


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "1 / 0", "import nothing_of_this_name"])
def test_an_entry_point_that_fails(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin_that_fails.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("mine", "plugin_that_fails", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setattr(registry, "_loaded", set())
    with pytest.raises(ConversionError, match=r"^loading the plugin mine \(plugin_that_fails\)"):
        dpnn_bridge.to_torch(LuaObject("nn.Identity", LuaTable()))
    dpnn_bridge.write_t7(tmp_path / "data.t7", {"a": 1})
    report = dpnn_bridge.convert(tmp_path / "data.t7", tmp_path / "data.json", checksum=True)  # as for a manifest
    assert report.metadata["origin"]


def test_the_plugins_of_other_packages_are_an_input_of_the_first_conversion_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import torch, dpnn_bridge\n@dpnn_bridge.lua_class('my.Point')\nclass Point(torch.nn.Module): pass\n"
    (tmp_path / "plugin_of_a_package.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    point = EntryPoint("mine", "plugin_of_a_package", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setattr(registry, "_loaded", registry._loaded - {registry.ENTRY_POINTS})
    try:
        assert str(tmp_path / "plugin_of_a_package.py") in registry.files_of_users()
    finally:
        registry.unregister("plugin_of_a_package")
        sys.modules.pop("plugin_of_a_package", None)


def test_a_module_that_fails(tmp_path: Path) -> None:
    class Fails(nn.Module):
        def state_dict(self, *args, **kwargs):
            raise ZeroDivisionError

    with pytest.raises(ConversionError):
        dpnn_bridge.save(tmp_path / "x.pt", Fails())
    assert list(tmp_path.iterdir()) == []


def test_what_write_t7_cannot_write_is_an_error_of_both_kinds() -> None:
    for value, kind in ((object(), TypeError), (2**60 + 1, ValueError), (torch.float32, TypeError)):
        with pytest.raises(kind) as caught:
            dumps(value)
        assert isinstance(caught.value, errors.LuaValueError)


IDENTITY = LuaObject("nn.Identity", LuaTable())
#: arguments of every public function that reads, converts, runs or writes
CALLS: dict[str, tuple[Any, ...]] = {
    "convert": ("m.t7", "m.pt"),
    "inspect": ("m.t7",),
    "load": ("m.t7",),
    "load_checkpoint": ("m.t7",),
    "load_flat": (nn.Identity(), torch.zeros(1)),
    "load_lua": ("m.t7",),
    "port": ("m.t7", nn.Identity(), torch.zeros(1)),
    "read_t7": ("m.t7",),
    "save": ("m.pt", nn.Identity()),
    "to_lua": (nn.Identity(),),
    "to_torch": (IDENTITY,),
    "verify": ("m.t7",),
    "write_t7": ("m.t7", 1),
}
#: public functions that look something up
LOOKUPS = {"lua_class", "lua_names", "lua_paths", "model_at"}


def test_calls_name_every_public_function() -> None:
    public = {name for name in dpnn_bridge.__all__ if inspect.isfunction(getattr(dpnn_bridge, name))}
    assert public == CALLS.keys() | LOOKUPS


@pytest.mark.parametrize("name", CALLS)
def test_a_foreign_error_inside_of_a_public_function_becomes_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("inside")

    function = getattr(dpnn_bridge, name)
    monkeypatch.setattr(arguments, "_signature_of", inspect.signature)  # its cache would keep the signature of `fails`
    monkeypatch.setattr(inspect.unwrap(function), "__code__", fails.__code__)
    with pytest.raises(DpnnBridgeError, match=r": ZeroDivisionError: inside$") as caught:
        function(*CALLS[name])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_removed_working_directory_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of ``os.getcwd`` has no file name."""

    def fail() -> str:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", fail)
    with pytest.raises(FileAccessError, match=r"^converting: the working directory was removed; change to another fol"):
        guarded(FileNotFoundError(2, "No such file or directory"))
    with pytest.raises(MissingFileError, match=r"^m.t7: converting: no such file; check the path"):
        guarded(FileNotFoundError(2, "No such file or directory", "m.t7"))


def test_errors_can_be_pickled() -> None:
    for error in (MissingFileError("x"), FileAccessError("y"), OptionError("z"), errors.LuaValueError("w")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))
