"""The files that Lua and Python files may load."""

import ast
import site
from pathlib import Path

import pytest

from dpnn_bridge.errors import T7LimitError
from dpnn_bridge.outputs import required
from dpnn_bridge.outputs.required import is_installed, with_required


def names_of(folder: Path, **files: str) -> set[str]:
    """Write files, whose names have two underscores for a dot; return the names of those that the first may load."""
    paths = [folder / name.replace("__", ".") for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text)
    return {Path(path).name for path in with_required(paths[:1], python=paths[0].suffix == ".py")}


@pytest.mark.parametrize(
    "text",
    [
        'io.write("x\\n") dofile("b.lua")',
        'f("", "b.lua")',
        "print(\"can't\") dofile('b.lua')",
        "print('say \"') dofile 'b.lua'",
        "print('it\\'s') dofile('b.lua')",
        "-- don't\ndofile('b.lua') -- or \"b\n",
        "--[[ don't ]] dofile('b.lua')",
        "--[==[ one\n ]] don't ]==] dofile('b.lua')",
        "x = [[ don't ]] dofile('b.lua')",
        "loadstring [[\n  dofile('b.lua') ]]",
        "dofile [=[b.lua]=]",
    ],
)
def test_every_string_of_a_lua_file_counts(text: str, tmp_path: Path) -> None:
    assert names_of(tmp_path, a__lua=text, b__lua="") == {"a.lua", "b.lua"}


def test_escaped_quotes_and_backslashes_are_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "it's.lua").write_text("")
    assert names_of(tmp_path, a__lua="dofile('it\\'s.lua')") == {"a.lua", "it's.lua"}


def test_unclosed_lua_strings_take_linear_time(tmp_path: Path) -> None:
    for text in ("[[", "'\\", "--[[", "[=[", '\\"'):
        assert names_of(tmp_path, a__lua=text * 10_000) == {"a.lua"}


def test_a_folder_of_a_later_file_applies_to_earlier_files(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "x.lua").write_text("")
    setup = "package.path = './lib/?.lua;' .. package.path"
    assert names_of(tmp_path, a__lua="require 'setup' require 'x'", setup__lua=setup) == {"a.lua", "setup.lua", "x.lua"}


def test_a_name_after_a_package_is_found(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "x.lua").write_text("")
    (tmp_path / "lib" / "y.py").write_text("")
    assert names_of(tmp_path, a__lua="for _, name in ipairs{'x'} do require('lib.' .. name) end") == {"a.lua", "x.lua"}
    assert names_of(tmp_path, b__py="import importlib\nimportlib.import_module('.y', 'lib')") == {"b.py", "y.py"}


@pytest.mark.parametrize(("name", "text"), [("a.lua", "dofile('lib/x.lua')"), ("a.py", "open('lib/x.lua')")])
def test_names_may_be_relative_to_the_current_folder(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lib").mkdir()
    Path("lib", "x.lua").write_text("")
    Path("lib", name).write_text(text)
    for sandbox in (False, True):  # a sandbox reads files of its own folders only
        found = with_required([Path("lib", name)], python=name.endswith(".py"), sandbox=sandbox)
        assert {Path(path).name for path in found} == ({name} if sandbox else {name, "x.lua"})


def test_a_lua_file_that_a_plugin_runs_may_load_files(tmp_path: Path) -> None:
    assert names_of(tmp_path, a__py="LUA = 'b.lua'", b__lua="require 'c'", c__lua="") == {"a.py", "b.lua", "c.lua"}


def test_a_python_file_is_data_for_a_lua_file(tmp_path: Path) -> None:
    files = {"b__py": "import c", "c__py": "X = 'data.txt'", "data__txt": ""}
    assert names_of(tmp_path, a__lua="python('b.py')", **files) == {"a.lua", "b.py"}
    # a Python file that runs the Lua file, and imports the same file after it
    (tmp_path / "a.lua").write_text("python('b.py')")
    assert names_of(tmp_path, main__py="LUA = 'a.lua'", **files) == {"main.py", "a.lua", "b.py"}
    everything = {"main.py", "a.lua", "b.py", "c.py", "d.py", "data.txt"}
    assert names_of(tmp_path, main__py="LUA = 'a.lua'\nimport d", d__py="import b", **files) == everything


def test_a_large_file_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(required, "MAX_BYTES", 100)
    large = f"-- {'x' * 100}\nrequire 'c'"
    assert names_of(tmp_path, a__py="LUA = 'b.lua'", b__lua=large, c__lua="") == {"a.py", "b.lua"}
    assert names_of(tmp_path, a__py="import b", b__py=f"import d\n# {large}", d__py="") == {"a.py", "b.py"}


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_a_python_file_that_is_nested_too_deeply_loads_no_files(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parse(text: bytes) -> ast.Module:  # x = 1 + 1 + ..., x = -----...1
        if b"nested" in text:
            raise error
        return parse_file(text)

    parse_file = ast.parse
    monkeypatch.setattr(required, "parse", parse)
    assert names_of(tmp_path, a__py="import b", b__py="import c  # nested", c__py="") == {"a.py", "b.py"}


def test_dirname_without_its_module_gives_the_folder_above(tmp_path: Path) -> None:
    (tmp_path / "scale.py").write_text("")
    (tmp_path / "home").mkdir()
    text = "from os.path import dirname\nsys.path.append(dirname(dirname(__file__)))\nimport scale"
    assert names_of(tmp_path / "home", a__py=text) == {"a.py", "scale.py"}


def test_packages_of_one_user_are_installed() -> None:
    assert is_installed(Path(site.getusersitepackages()).resolve() / "package" / "module.py")


def test_folders_that_a_sandbox_cannot_read_are_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of n folders and n files, in a file of 24 kB, took 20 seconds for n = 400, before the sandbox began."""
    (tmp_path / "inside" / "lib").mkdir(parents=True)
    outside = [tmp_path / f"f{i}" for i in range(20)]
    for folder in outside:
        folder.mkdir()
    (tmp_path / "inside" / "lib" / "x.lua").write_text("")
    script = tmp_path / "inside" / "a.lua"
    script.write_text(f"require 'lib.x' paths = {{ {', '.join(f'{str(f)!r}' for f in outside)} }}")
    tried = []
    is_file = required.is_accepted
    monkeypatch.setattr(required, "is_accepted", lambda path: (tried.append(path), is_file(path))[1])
    assert [Path(f).name for f in with_required([script], python=False, sandbox=True)] == ["a.lua", "x.lua"]
    alone = len(tried)
    assert [Path(f).name for f in with_required([script], python=False)] == ["a.lua", "x.lua"]
    assert len(tried) - alone > 5 * alone


def test_a_sandbox_searches_for_a_limited_number_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(required, "_MAX_PATHS", 1000)
    for i in range(20):
        (tmp_path / f"f{i}").mkdir()
    script = tmp_path / "a.lua"
    script.write_text(" ".join(f"require 'f{i}'" for i in range(20)))
    with pytest.raises(T7LimitError, match=r"a\.lua: contains too many names"):
        with_required([script], python=False, sandbox=True)
    assert with_required([script], python=False) == [script]


def test_many_files_in_a_sandbox_are_not_many_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of all earlier files were counted again for each file, and OpenNMT's train.lua was refused."""
    monkeypatch.setattr(required, "_MAX_PATHS", 4000)
    for i in range(10):
        words = " ".join(f"print 'word{i}_{j}'" for j in range(20))
        (tmp_path / f"m{i}.lua").write_text(f"{words} require 'm{i + 1}'")
    assert len(with_required([tmp_path / "m0.lua"], python=False, sandbox=True)) == 10
