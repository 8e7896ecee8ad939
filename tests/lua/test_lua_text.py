"""Text that is not ASCII, and errors whose object is no text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.errors import LuaBridgeError
from dpnn_bridge.lua import LuaBridge

pytestmark = pytest.mark.usefixtures("warm_sandboxes")

#: one character of Latin-1, some beyond it, and on Linux bytes that are no UTF-8
NAMES = ["ü", "日本", "a✓b", *([os.fsdecode(b"\xff\xfe")] if sys.platform == "linux" else [])]


def _lua(python: list[str], folder: Path, *arguments: str, input: str = "") -> tuple[int, bytes]:
    code = "from dpnn_bridge.cli.lua import lua_command; lua_command()"
    done = subprocess.run(
        [*python, "-c", code, *arguments],
        cwd=folder,
        input=input.encode(),
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "DPNN_TEXT": arguments[-1]},
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_bytes_reach_a_script_and_come_back(tmp_path: Path, name: str, python: list[str]) -> None:
    data = os.fsencode(name)
    script = tmp_path / f"{name}.lua"
    script.write_text(
        "local name = ... assert(name == arg[1] and name == os.getenv('DPNN_TEXT') and arg[0] == name .. '.lua')\n"
        "local function put(file, text) local f = io.open(file, 'w') f:write(text) f:close() end\n"
        "put(name, 'io') assert(paths.filep(name) and not paths.dirp(name))\n"
        "local f = torch.DiskFile(name .. '2', 'w') f:writeString(name) f:close()\n"
        "assert(io.open(name .. '2'):read('*a') == name)\n"
        "assert(paths.mkdir(name .. '3') and paths.basename(paths.concat(name .. '3')) == name .. '3')\n"
        "local found = {} for n in paths.files('.') do found[n] = true end\n"
        "assert(found[name] and found[name .. '2'] and found[name .. '3'])\n"
        "assert(require('lfs').attributes(name, 'size') == 2)\n"
        "put(name .. '4.lua', 'return ...') assert(require(name .. '4') == name .. '4')\n"
        "local ok, message = pcall(torch.DiskFile, name .. '/none') assert(not ok and message:find(name, 1, true))\n"
        "io.write(name)\n",
        encoding="latin-1",
    )
    assert _lua(python, tmp_path, "-p", ".", script.name, name) == (0, data)


def test_typed_text_and_messages_are_utf8(tmp_path: Path, python: list[str]) -> None:
    status, output = _lua(python, tmp_path, "-i", input="s = '✓ü'\n#s\nerror('schöner Fehler ✓')\nx ✓\nos.exit(3)\n")
    assert status == 3
    assert "5\t\n" in output.decode()
    assert "schöner Fehler ✓" in output.decode()
    assert _lua(python, tmp_path, "-e", "io.write(#'✓ü')") == (0, b"5")
    (tmp_path / "ü✓.lua").write_text("error('ö✓')", encoding="utf-8")
    for options in ([], ["--partial-sandbox"]):
        assert "ü✓.lua:1: ö✓" in _lua(python, tmp_path, *options, "ü✓.lua")[1].decode()


@pytest.fixture(scope="module", params=["luajit21", "lua51", "sandbox"])
def bridge(request: pytest.FixtureRequest) -> LuaBridge:
    return LuaBridge(sandbox="partial") if request.param == "sandbox" else LuaBridge(runtime=request.param)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("error({code = 3})", "the error object is a table: {code = 3}"),
        ("error({inner = {1}})", "the error object is a table: {inner = {...}}"),
        ("error()", "the error object is nil"),
        ("error(nil)", "the error object is nil"),
        ("error(false)", "the error object is a boolean: false"),
        ("error(print)", "the error object is a function: "),
        ("error(setmetatable({}, {__tostring = function() return 'of mine' end}))", "of mine"),
        ("error(setmetatable({}, {__tostring = error}))", "the error object is a table: "),
        ("error(setmetatable({}, {__tostring = function() return {} end}))", "the error object is a table: {}"),
        ("error(torch.Tensor{7})", "[torch.DoubleTensor of size 1]"),
        ("error(12, 0)", "12"),
        ("error('')", "python:1:"),
    ],
)
def test_an_error_object_says_what_it_holds(code: str, message: str, bridge: LuaBridge) -> None:
    with pytest.raises(LuaBridgeError) as caught:
        bridge.execute(code)
    assert message in str(caught.value)
    assert "memory" not in str(caught.value)
    assert bridge.execute("return pcall(error, {1})") == (False, [1])  # a script catches the object itself


def test_the_same_for_constructors() -> None:
    bridge = LuaBridge()
    bridge.execute("local C = torch.class('Broken') function C:__init() error({code = 4}) end")
    with pytest.raises(LuaBridgeError, match="code = 4"):
        bridge.new("Broken")


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
@pytest.mark.parametrize(
    ("call", "text"),  # as th prints them
    [
        ("'%.2f %.1f %.0f', 50.625, 0.25, 2.5", "50.63 0.3 3"),
        ("'%.0f %.2f %8.2f|%-8.2f|', -2.5, -0.125, 50.625, 50.625", "-3 -0.13    50.63|50.63   |"),
        ("'%.1e %.0e %.2g %g', 0.375, 25, 12.5, 123456.5", "3.8e-01 3e+01 13 123457"),
        ("'%s %5.1f%% %d %q', 'a', 0.25, 3, 'b'", 'a   0.3% 3 "b"'),
        ("'%.2f %.1f %.2f %g %.0f', 2.675, 0.15, 1.005, 0.1, 1 / 0", "2.67 0.1 1.00 0.1 inf"),
        ("'%.0f %.0f %.14g', 0, 1.5, 0.1", "0 2 0.1"),
    ],
)
def test_numbers_halfway_are_rounded_away_from_zero(call: str, text: str, runtime: str) -> None:
    bridge = LuaBridge(runtime=runtime)
    assert bridge.execute(f"return string.format({call})") == text
    with pytest.raises(LuaBridgeError, match=r"^python:1: bad argument #2 to 'format' \(number expected, got table"):
        bridge.execute("local s = string.format('%.1f', {}) return s")


@pytest.mark.parametrize("values", ["{0.03125, -0.09375, 2.00390625}", "{10000.5, 0.00390625}", "{312500, 0.3125}"])
def test_halves_print_as_string_format_rounds_them(values: str) -> None:
    """Away from zero, in fixed point and scientific."""
    found, expected = LuaBridge().execute(
        f"""
        local t, form = torch.Tensor {values}, math.max(unpack {values}) > 1000 and '%11.4e' or '%7.4f'
        local lines = {{}}
        for k = 1, t:size(1) do lines[k] = form:format(t[k]):gsub('^ +', '') end
        return tostring(t), table.concat(lines, ' ')
        """
    )
    assert found.split("\n[")[0].split() == expected.split()


def test_a_matrix_with_nan_prints_in_lines_of_all_columns() -> None:
    text = LuaBridge().execute("return tostring(torch.Tensor(1, 100):fill(0 / 0))")
    assert text.split("\n")[0] == " ".join(["nan"] * 100)
