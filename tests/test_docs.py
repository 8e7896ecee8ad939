"""What README and docs show works: marked blocks run, generated pages are current, links lead somewhere.

A block is run when the line above it is ``<!-- runs -->``, or ``<!-- runs: exit 4 -->``; ``<!-- file: NAME -->`` writes
the block to a file. Blocks of one page run in order, in a folder with copies of the files that the docs speak of.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from samples import SAMPLES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"<!-- (runs|file)(?:: (.*?))? -->\n+(?:```(\w*)\n([\s\S]*?)```|((?:    .*\n)+))")

#: name in the docs -> file
FILES = {
    "model.t7": SAMPLES / "torch-demos__mnist_convnet" / "model.t7",
    "ref.t7": SAMPLES / "torch-demos__mnist_convnet" / "ref.t7",
    "checkpoint.t7": SAMPLES / "char-rnn__lstm" / "model.t7",
}


class Block(NamedTuple):
    kind: str
    argument: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = MARK.findall(page.read_text())
    return [Block(kind, arg, language, fenced or indented) for kind, arg, language, fenced, indented in found]


def commands(block: Block) -> list[str]:
    """The command lines of a block: those after ``$``, or all of an indented one; the environment is there already."""
    lines = [line.strip() for line in block.text.splitlines() if line.strip()]
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line.split(" && ")[-1].replace(".venv/bin/", "") for line in lines]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_marked_blocks_run(page: Path, tmp_path: Path, scripts: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name, source in FILES.items():
        shutil.copy(source, work / name)
    for name in ("fixtures", "examples", "benchmarks"):
        (work / name).symlink_to(ROOT / name)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = ""
    for block in blocks(page):
        if block.kind == "file":
            (work / block.argument).write_text(block.text)
            continue
        expected = int(block.argument.removeprefix("exit ")) if block.argument else 0
        if block.language == "python":  # later blocks go on from earlier ones
            program += block.text
            run([sys.executable, "-c", program], work, env, expected)
            continue
        for command in commands(block):
            run(["bash", "-c", command], work, env, expected)


def run(command: list[str], folder: Path, env: dict[str, str], expected: int) -> None:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expected, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("script", ["generate_cli.py", "generate_support.py"])
def test_generated_page_is_current(script: str) -> None:
    command = [sys.executable, str(ROOT / "docs" / script), "--check"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text())
    assert not [t for t in targets if not (page.parent / t).exists()]


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert not [p for p in PAGES[1:] if str(p.relative_to(ROOT / "docs")) not in navigation]
