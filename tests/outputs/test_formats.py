"""A format is one file; an option of a conversion stands once; what was made with other options is not done."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.batch import Task, run
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.conversion import registry
from dpnn_bridge.errors import ConversionError, OptionError
from dpnn_bridge.files.converting import convert, is_converted
from dpnn_bridge.loaders import WriteOptions
from dpnn_bridge.outputs import formats
from dpnn_bridge.outputs.format import Format
from dpnn_bridge.outputs.formats import format_named, suffixes
from dpnn_bridge.outputs.options import ConvertOptions
from dpnn_bridge.outputs.required import with_required

ALL = [*suffixes(), ".safetensors.index.json"]
MODEL = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"

#: a whole format: one file
SKETCH = """
import json

import torch

from dpnn_bridge.errors import VerificationError
from dpnn_bridge.outputs import container
from dpnn_bridge.outputs.format import Format


class Sketch(Format):
    suffix = ".sketch"
    options = ("opset",)
    data = True
    loads = rebuilt = True

    def write(self, module, path, job):
        job.written = container.pack(module, job.metadata)
        torch.save(job.written | {"opset": job.options.get("opset")}, path)

    def verify(self, module, path, job):
        if self.load(path, path.name)["graph"] != job.written["graph"]:
            raise VerificationError(f"{path}: another graph")
        container.check(self.load(path, path.name), module)

    def load(self, path, name):
        return torch.load(path, weights_only=True)

    def origin(self, path):
        return torch.load(path, weights_only=True)["metadata"].get("origin")

    def write_data(self, found, path):
        path.write_text(json.dumps(found.plain))


FORMAT = Sketch()
"""


@pytest.fixture
def sketch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "formats"
    folder.mkdir()
    (folder / "sketch.py").write_text(SKETCH)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(folder)])
    yield
    monkeypatch.delattr(formats, "sketch", raising=False)
    monkeypatch.delitem(__import__("sys").modules, f"{formats.__name__}.sketch", raising=False)


def command(which: Any, *arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(which, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_format_is_one_file(sketch: None, tmp_path: Path) -> None:
    target, x = tmp_path / "m.sketch", torch.ones(1, 1, 32, 32)
    code, output = command(convert_command, MODEL, target, "--opset", "9")
    assert code == 0, output
    assert torch.equal(dpnn_bridge.load(target)(x), dpnn_bridge.load(MODEL)(x))
    assert is_converted(MODEL, target, opset=9)
    assert not is_converted(MODEL, target)
    assert command(verify_command, MODEL, target)[0] == 0
    dpnn_bridge.save(tmp_path / "saved.sketch", dpnn_bridge.load(MODEL))
    dpnn_bridge.load_checkpoint(tmp_path / "saved.sketch")
    with pytest.raises(OptionError, match=r"\.sketch does not take dynamic= \(--dynamic\); it takes opset"):
        convert(MODEL, tmp_path / "other.sketch", dynamic=True)
    dpnn_bridge.write_t7(tmp_path / "data.t7", {"a": 1.0})
    convert(tmp_path / "data.t7", tmp_path / "data.sketch")
    assert (tmp_path / "data.sketch").read_text() == '{"a": 1}'
    with pytest.raises(ConversionError, match=r"cannot write \.h5; use one of .*\.sketch"):
        convert(MODEL, tmp_path / "m.h5")


@pytest.mark.parametrize("suffix", ALL)
def test_a_format_is_what_its_file_says(suffix: str) -> None:
    found = format_named(suffix)
    assert found.suffix == suffix
    assert set(found.options) <= _of_formats()
    defined = {name for kind in type(found).__mro__[:-1] if kind is not Format for name in vars(kind)}
    if found.models:
        assert {"write", "verify"} <= defined
    assert ("load" in defined) == found.loads
    assert ("write_data" in defined) == found.data
    assert found.rebuilt or not found.models or "open" in defined


@pytest.mark.parametrize("suffix", suffixes())
def test_a_format_is_described_for_its_users(suffix: str) -> None:
    assert suffix in (convert_command.help or ""), f"name {suffix} in the help text of dpnn-convert (cli/convert.py)"
    table = (Path(__file__).parents[2] / "docs" / "how-to" / "outputs.md").read_text(encoding="utf-8")
    assert f"\n| `{suffix}` |" in table, f"add {suffix} to the table in docs/how-to/outputs.md"


# ---------------------------------------------------------------------- options
def _of_formats() -> set[str]:
    return {f.name for f in fields(ConvertOptions) if f.metadata.get("scope", "format") == "format"}


def test_each_option_of_formats_is_taken_by_one() -> None:
    assert {name for suffix in ALL for name in format_named(suffix).options} == _of_formats()


def test_options_stand_once() -> None:
    names = {f.name: f for f in fields(ConvertOptions)}
    shown = inspect.signature(convert).parameters
    assert {name: shown[name].default for name in names} == {name: f.default for name, f in names.items()}
    flags = {f.metadata["flag"]: name for name, f in names.items() if f.metadata}
    offered = {flag: parameter.name for parameter in convert_command.params for flag in parameter.opts}
    assert flags.items() <= offered.items()
    assert {f.name for f in fields(WriteOptions)} <= names.keys()


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"no option opst; did you mean opset\?"):
        convert(MODEL, tmp_path / "m.pt", opst=3)
    with pytest.raises(OptionError, match="no option opst"):
        is_converted(MODEL, tmp_path / "m.pt", opst=3)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz", ".json"])
def test_an_example_is_for_formats_that_take_it(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"does not take input= \(--input\)"):
        convert(MODEL, tmp_path / f"m{suffix}", input=torch.ones(1))
    code, output = command(convert_command, MODEL, tmp_path / f"m{suffix}", "--input", "1x1x32x32")
    assert code == 2
    assert "does not take --input; it takes no options of its own" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [{"index_base": 0}, {"inplace": True}])
def test_how_modules_are_built_is_for_programs(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.pt does not take"):
        convert(MODEL, tmp_path / "m.pt", **option)
    convert(MODEL, tmp_path / "m.py", **option)
    assert is_converted(MODEL, tmp_path / "m.py", **option)
    assert not is_converted(MODEL, tmp_path / "m.py")
    for wrong in (True, 2, "x"):
        with pytest.raises(OptionError, match="index_base"):
            convert(MODEL, tmp_path / "n.py", index_base=wrong)


@pytest.mark.parametrize("suffix", [".npz", ".t7"])
def test_a_dtype_that_a_format_lacks_is_refused(suffix: str, tmp_path: Path) -> None:
    """Its float32 tensors would be other bits than those of the model, for whoever compares them."""
    with pytest.raises(OptionError, match=rf"{suffix} has no bfloat16; choose float16 or float32"):
        convert(MODEL, tmp_path / f"m{suffix}", dtype="bfloat16")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------- provenance
PLUGIN = """
import torch
from dpnn_bridge import LuaClass, lua_class

@lua_class("test.Scaled")
class Scaled(LuaClass):
    torch_type = torch.nn.{kind}
"""


def test_a_changed_plugin_makes_another_result(tmp_path: Path) -> None:
    plugin, target = tmp_path / "layers.py", tmp_path / "m.npz"
    plugin.write_text(PLUGIN.format(kind="Tanh"))
    convert(MODEL, target, plugins=[plugin])
    assert is_converted(MODEL, target, plugins=(str(plugin),))
    copy = tmp_path / "elsewhere.py"
    copy.write_bytes(plugin.read_bytes())
    plugin.write_text(PLUGIN.format(kind="ReLU"))
    assert not is_converted(MODEL, target, plugins=[plugin])
    assert not is_converted(MODEL, target)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"allow_unsupported": True}),
        ({}, {"dtype": "float16"}),
        ({"dtype": "float16"}, {"dtype": torch.bfloat16}),
        ({"index_base": 0}, {}),
        ({"inplace": True}, {}),
        ({"input": torch.zeros(2)}, {"input": torch.ones(2)}),
        ({"input": torch.zeros(2)}, {"input": torch.zeros(1, 2)}),
        ({"input": [torch.zeros(2)]}, {"input": torch.zeros(2)}),
        ({"input": torch.zeros(2)}, {"input": torch.zeros(2, dtype=torch.float64)}),
        ({"tensor_type": "torch.FloatTensor"}, {}),
        ({"mode": "ascii"}, {}),
        ({"opset": 18}, {"opset": 19}),
        ({"sandbox": True}, {}),
        ({"key": "a"}, {"key": "b"}),
    ],
)
def test_every_option_counts(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert ConvertOptions.of(one).digest() != ConvertOptions.of(other).digest()
    assert ConvertOptions.of(one).digest() == ConvertOptions.of(dict(one)).digest()


def test_files_count_by_content(tmp_path: Path) -> None:
    a, b = tmp_path / "a.lua", tmp_path / "b.lua"
    a.write_text("return 1")
    b.write_text("return 1")
    for name in ("lua", "plugins"):
        same = {ConvertOptions.of({name: value}).digest() for value in ([a], (str(b),), [b])}
        assert len(same) == 1
    (tmp_path / "layers").mkdir()
    b.write_text('require "layers.one"')
    for name, text in (("layers/one.lua", "dofile('two.lua')"), ("layers/two.lua", "require 'b'")):
        (tmp_path / name).write_text(text)
        before = ConvertOptions.of({"lua": b}).digest()
        (tmp_path / name).write_text(f"{text} -- changed")
        assert ConvertOptions.of({"lua": b}).digest() != before
    before = ConvertOptions.of({"lua": a}).digest()
    a.write_text("return 2")
    assert ConvertOptions.of({"lua": a}).digest() != before


@pytest.mark.parametrize(
    ("plugin", "helper"),
    [
        ("import torch, helper", "helper.py"),
        ("def late():\n    from helper import *", "helper.py"),
        ("import layers.deep.one", "layers/deep/one.py"),
        ("from layers.deep import one", "layers/__init__.py"),
        ("from layers import first", "layers/deep/one.py"),  # which first.py imports
        ("importlib.import_module('layers.deep.one')", "layers/deep/one.py"),
        ("exec(open(os.path.join(here, 'layers/deep/one.py')).read())", "layers/deep/one.py"),
        ("sys.path.insert(0, os.path.join(here, 'layers'))\nimport deep.one", "layers/deep/one.py"),
    ],
)
def test_what_a_plugin_imports_counts(plugin: str, helper: str, tmp_path: Path) -> None:
    (tmp_path / "layers" / "deep").mkdir(parents=True)
    for name in ("helper", "other", "layers/__init__", "layers/deep/one"):
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "layers" / "first.py").write_text("from .deep.one import Layer\nfrom ..helper import *")
    file = tmp_path / "p.py"
    file.write_text(plugin)
    before = ConvertOptions.of({"plugins": [file]}).digest()
    (tmp_path / "other.py").write_text("changed = True")
    assert ConvertOptions.of({"plugins": [file]}).digest() == before
    (tmp_path / helper).write_text("changed = True")
    assert ConvertOptions.of({"plugins": [file]}).digest() != before


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("plugins", "json.load(open(os.path.join(here, 'scale of layers.json')))"),
        ("plugins", "json.load(open(f'{here}/scale of layers.json'))"),
        ("lua", "scale = torch.load('scale of layers.json')"),
    ],
)
def test_data_that_a_file_of_classes_reads_counts(option: str, text: str, tmp_path: Path) -> None:
    file, data = tmp_path / "classes", tmp_path / "scale of layers.json"
    file.write_text(text)
    data.write_bytes(b"1")
    before = ConvertOptions.of({option: [file]}).digest()
    data.write_bytes(b"2 'classes' \xff")
    assert ConvertOptions.of({option: [file]}).digest() != before


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("plugins", "sys.path.append(os.path.join(here, '..', 'common'))\nimport scale"),
        ("plugins", "sys.path.append(str(Path(__file__).parents[1] / 'common'))\nimport scale"),
        ("plugins", "sys.path.append(os.path.dirname(os.path.dirname(__file__)) + '/common')\nimport scale"),
        ("lua", "package.path = './lib/?.lua;' .. package.path\nrequire 'scale'"),
        ("lua", "require [[lib.scale]]"),
        ("lua", "dofile([==[lib/scale.lua]==])"),
        ("lua", "dofile('lib/' .. 'scale.lua')"),
    ],
)
def test_a_folder_that_a_file_of_classes_searches_counts(option: str, text: str, tmp_path: Path) -> None:
    file, scale = tmp_path / "home" / "classes", tmp_path / ("common/scale.py", "home/lib/scale.lua")[option == "lua"]
    for path, content in ((file, text), (scale, "return 1")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    before = ConvertOptions.of({option: [file]}).digest()
    scale.write_text("return 2")
    assert ConvertOptions.of({option: [file]}).digest() != before


def test_a_plugin_of_an_earlier_call_counts(tmp_path: Path) -> None:
    """It stays registered, so it decides what later calls without it give."""
    plugin, target = tmp_path / "p.py", tmp_path / "m.npz"
    plugin.write_text("")
    convert(MODEL, target)
    assert is_converted(MODEL, target)
    (task,) = tasks = [Task(MODEL, tmp_path / "n.npz")]
    manifest = tmp_path / "done.jsonl"
    assert [o.status for o in run(tasks, manifest=manifest)] == ["converted"]
    dpnn_bridge.load(MODEL, plugins=[plugin])
    assert not is_converted(MODEL, target)
    assert [o.status for o in run(tasks, manifest=manifest)] == ["failed"]
    assert [o.status for o in run(tasks, manifest=manifest, force=True)] == ["converted"]
    assert is_converted(MODEL, task.target, plugins=[plugin])
    plugin.unlink()
    assert is_converted(MODEL, target)


def test_installed_packages_do_not_count(tmp_path: Path) -> None:
    plugin = tmp_path / "p.py"
    plugin.write_text(f"sys.path += [{str(Path(dpnn_bridge.__file__).parents[1])!r}]\nimport dpnn_bridge")
    assert with_required([plugin], python=True) == [plugin]


def test_defaults_count_as_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was converted by earlier versions without options is done still."""
    monkeypatch.setattr(registry, "files_of_users", list)  # other tests register classes
    assert ConvertOptions().digest() == "10f444f24268a839"
    assert ConvertOptions.of({"key": "a", "dynamic": True, "opset": 3}).digest() == "20c070bd565b439c"
    assert (
        ConvertOptions.of({"plugins": [], "lua": (), "allow_unsupported": False}).digest() == ConvertOptions().digest()
    )


def test_what_cannot_be_told_never_counts_as_done(tmp_path: Path) -> None:
    options = ConvertOptions.of({"input": lambda model: None})
    assert options.digest() is None
    target = tmp_path / "m.py"
    convert(MODEL, target, input=lambda model: torch.ones(1, 1, 32, 32))
    assert not is_converted(MODEL, target, input=lambda model: torch.ones(1, 1, 32, 32))


def test_a_batch_with_another_plugin_is_not_skipped(tmp_path: Path) -> None:
    plugin = tmp_path / "p.py"
    plugin.write_text("# one")
    tasks = [Task(MODEL, tmp_path / "m.npz")]
    states = []
    for text in ("# one", "# one", "# two"):
        plugin.write_text(text)
        states += [o.status for o in run(tasks, plugins=(str(plugin),), manifest=tmp_path / "done.jsonl")]
    assert states == ["converted", "skipped", "failed"]


@pytest.mark.parametrize("suffix", [".pt", ".t7"])
def test_a_batch_with_options_that_change_nothing_is_skipped(suffix: str, tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "double.t7", torch.nn.Linear(3, 2).double())
    tasks = [Task(tmp_path / "double.t7", tmp_path / f"m{suffix}")]
    manifest = tmp_path / "done.jsonl"
    options: list[dict[str, Any]] = [{}, {"dtype": "float64"}, {"allow_unsupported": True}, {"dtype": "float32"}]
    states = [o.status for chosen in options for o in run(tasks, manifest=manifest, **chosen)]
    assert states == ["converted", "skipped", "skipped", "failed"]


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    convert(MODEL, tmp_path / "m.npz")
    with pytest.raises(dpnn_bridge.errors.T7Error, match=r"none\.t7"):
        is_converted(tmp_path / "none.t7", tmp_path / "m.npz")


def test_a_lua_file_in_a_sandbox_makes_nobody_read_another_file(tmp_path: Path) -> None:
    home, outside = tmp_path / "home", tmp_path / "outside.lua"
    home.mkdir()
    file, part = home / "classes.lua", home / "part.lua"
    for path in (outside, part, home / "data.json"):
        path.write_text("")
    (home / "link.lua").symlink_to(outside)
    file.write_text(f"require 'part' x = {{'{outside}', '../outside.lua', 'link.lua', 'data.json', '/proc/kmsg'}}")
    assert with_required([file], python=False, sandbox=True) == [file, part]
    assert outside in with_required([file], python=False)
    before = ConvertOptions.of({"lua": file, "sandbox": True}).digest()
    outside.write_text("-- changed")
    assert ConvertOptions.of({"lua": file, "sandbox": True}).digest() == before


def test_files_of_the_kernel_do_not_count(tmp_path: Path) -> None:
    plugin = tmp_path / "p.py"
    plugin.write_text("memory = open('/proc/meminfo').read()")
    assert with_required([plugin], python=True) == [plugin]
