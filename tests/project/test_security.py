"""Every promise of SECURITY.md names tests that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_the_tests_that_hold_the_promises_are_there() -> None:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    there = {name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)}
    named = set(re.findall(r"`(test_\w+…?)`", PAGE))
    assert len(named) > 40
    missing = [n for n in named if n not in there and not (n[-1] == "…" and any(t.startswith(n[:-1]) for t in there))]
    assert missing == []


def test_the_files_that_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:tests|fixtures)/[\w/.]+)`", PAGE))
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert all(
        name in {p.name for p in (ROOT / "tests").rglob("*.py")} for name in re.findall(r"`(test_\w+\.py)`", PAGE)
    )


def test_every_row_of_a_table_of_promises_names_a_test() -> None:
    tables = [t for t in re.split(r"\n\n", PAGE) if t.startswith("| promise")]
    rows = [row for table in tables for row in table.split("\n")[2:]]
    assert len(rows) > 15
    assert [row for row in rows if "test_" not in row] == []


def test_the_attacks_on_the_sandbox_are_as_many_as_it_says() -> None:
    found = {}
    for name in ("test_sandbox.py", "test_sandbox_attacks.py", "test_sandbox_escapes.py"):
        for node in ast.parse((ROOT / "tests" / "lua" / name).read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                if isinstance(node.value, ast.Dict):
                    found[name, ast.unparse(target)] = len(node.value.keys)
                elif isinstance(node.value, ast.Constant):
                    found[name, ast.unparse(target)] = str(node.value.value).count('": lambda: ')
    attacks = found["test_sandbox.py", "ATTACKS"], found["test_sandbox_attacks.py", "ATTACKS"]
    assert f"({found['test_sandbox_escapes.py', 'ESCAPES']} escapes" in PAGE
    assert f"`test_an_escape_of_luajit` ({found['test_sandbox_escapes.py', 'LUAJIT']}," in PAGE
    assert f"({attacks[0]} attacks, and {attacks[1]} in " in PAGE
    assert f"({found['test_sandbox.py', 'ATTEMPTS']} attempts)" in PAGE


def test_the_lowest_versions_that_it_names_are_those_that_are_allowed() -> None:
    allowed = dict(
        re.findall(r'"([\w-]+)(?:\[\w+\])?>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    )
    table = PAGE.partition("## Dependencies")[2].partition("\n\nNo known fault")[0]
    named = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", table, re.M))
    assert len(named) >= 8
    assert {name: allowed.get(name) for name in named} == named
