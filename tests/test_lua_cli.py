"""dpnn-lua."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("lupa")

from dpnn_bridge.lua.cli import lua_command


def _run(*arguments: str, input: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(lua_command, list(arguments), input=input)
    return result.exit_code, result.output


def _script(folder: Path, code: str) -> str:
    path = folder / "script.lua"
    path.write_text(code)
    return str(path)


def test_a_script_gets_its_arguments(tmp_path: Path) -> None:
    script = _script(
        tmp_path,
        "assert(arg[0]:match('script.lua$') and arg[1] == '-lr' and arg[2] == '0.5' and select('#', ...) == 2)\n"
        "local cmd = torch.CmdLine() cmd:option('-lr', 0.1) assert(cmd:parse(arg).lr == 0.5)",
    )
    assert _run(script, "-lr", "0.5") == (0, "")


@pytest.mark.parametrize(("code", "status"), [("os.exit(3)", 3), ("os.exit(true)", 0), ("os.exit(false)", 1)])
def test_the_exit_code_is_the_scripts(tmp_path: Path, code: str, status: int) -> None:
    assert _run(_script(tmp_path, code))[0] == status


def test_an_error_shows_file_and_line(tmp_path: Path) -> None:
    status, output = _run(_script(tmp_path, "\nlocal t = torch.Tensor(2)\nt:add(torch.Tensor(3))"))
    assert status == 7
    assert "script.lua:3: inconsistent tensor size" in output


def test_a_hash_bang_line_is_skipped(tmp_path: Path) -> None:
    assert _run(_script(tmp_path, "#!/usr/bin/env th\nos.exit(4)"))[0] == 4


def test_the_sandbox_has_no_files(tmp_path: Path) -> None:
    assert _run("--sandbox", _script(tmp_path, "os.exit(io.open == nil and 5 or 6)"))[0] == 5


def test_the_seed_is_torch7s(tmp_path: Path) -> None:
    assert _run("--seed", "1234", _script(tmp_path, "os.exit(torch.random() == 822569775 and 5 or 6)"))[0] == 5


def test_the_prompt_survives_errors() -> None:
    status, output = _run("-i", input="x = 5\nerror('oops')\nos.exit(x)\n")
    assert status == 5
    assert "oops" in output


def test_without_anything_to_do_it_says_how_to_use_it() -> None:
    status, output = _run()
    assert status == 2
    assert "name a script" in output
