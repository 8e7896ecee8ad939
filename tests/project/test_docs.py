"""What README and docs show works: marked blocks run, generated pages are current, links lead somewhere, rows fit.

A block is run when the line above it is ``<!-- runs -->``, or ``<!-- runs: exit 4 -->``; ``<!-- file: NAME -->`` writes
the block to a file; ``<!-- not run: why -->`` is for the rest. In README, quickstart, how-to pages and recipes every
block of commands or Python has one of them. ``<!-- prints -->`` stands above what the Python before it prints
(``mostly``: half of the lines at least, where sampling may differ between builds of PyTorch); pictures that recipes
write equal those in ``docs/images/recipes``. ``<!-- runs: needs PACKAGE -->`` is left out where that is missing. Blocks
of one page run in order, in a folder with copies of the files that the docs speak of.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conftest import FIXTURES
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.loaders import read_t7, write_t7
from dpnn_bridge.objects import LuaTable

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [
    ROOT / "README.md",
    ROOT / "docs" / "quickstart.md",
    ROOT / "docs" / "faq.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
    *sorted((ROOT / "docs" / "recipes").glob("*.md")),
]
SOURCES = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PICTURES = ROOT / "docs" / "images" / "recipes"
BLOCK = re.compile(
    r"(?:<!-- (runs|file|not run|prints)(?:: (.*?))? -->\n+)?^(?:```(\w*)\n([\s\S]*?)^```|((?<=\n\n)(?:    .*\n)+))",
    re.M,
)

#: name in the docs -> file
FILES = {
    "model.t7": SAMPLES / "torch-demos__mnist_convnet" / "model.t7",
    "ref.t7": SAMPLES / "torch-demos__mnist_convnet" / "ref.t7",
    "checkpoint.t7": SAMPLES / "char-rnn__lstm" / "model.t7",
    "checkpoints/first.t7": SAMPLES / "torch-demos__mnist_convnet" / "model.t7",
    "checkpoints/second.t7": SAMPLES / "torch-rnn__lstm" / "model.t7",
}


def write_training_files(folder: Path) -> None:
    """What a training script of Torch7 saves, made of a run that Torch7 recorded."""
    run = read_t7(FIXTURES / "nn" / "training" / "training__mlp_sgd_momentum.t7")
    fields = {"model": "module", "criterion": "criterion", "optimState": "state"}
    write_t7(folder / "training.t7", LuaTable((name, run[field]) for name, field in fields.items()))
    write_t7(folder / "w.t7", run["flat0"])


class Block(NamedTuple):
    kind: str
    argument: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text())
    return [
        Block(kind, argument, language or ("indented" if indented else "text"), fenced or indented)
        for kind, argument, language, fenced, indented in found
    ]


def commands(block: Block) -> list[tuple[str, list[str]]]:
    """The command lines of a block, and what it shows them to print: those after ``$``, or all of an indented one.

    Of a chain that sets up an environment first only the last command is taken; it is set up already.
    """
    lines = [line.strip() for line in block.text.splitlines() if line.strip()]
    if block.language != "console":
        lines = [f"$ {line}" for line in lines]
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:].split(" && ")[-1].replace(".venv/bin/", ""), []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("page", GUIDES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_of_a_guide_runs_or_says_why_not(page: Path) -> None:
    assert not [b.text for b in blocks(page) if b.language in ("python", "console", "bash", "indented") and not b.kind]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.kind == "runs" for b in blocks(p))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_marked_blocks_run(page: Path, tmp_path: Path, scripts: Path) -> None:
    if any("from PIL" in b.text for b in blocks(page)):
        pytest.importorskip("PIL", reason="needs the extra recipes")
    work = tmp_path / "work"
    (work / "checkpoints").mkdir(parents=True)
    for name, source in FILES.items():
        shutil.copy(source, work / name)
    write_training_files(work)
    (work / "model.t7.gz").write_bytes(gzip.compress((work / "model.t7").read_bytes()))
    for name in ("fixtures", "examples", "benchmarks"):
        (work / name).symlink_to(ROOT / name)
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    marked = [b for b in blocks(page) if b.kind in ("runs", "file", "prints") and is_there(b)]
    program = printed = ""
    for is_python, group in groupby(marked, key=lambda b: b.kind == "runs" and b.language == "python"):
        if is_python:  # in one go with what the page ran before
            program += "".join(b.text for b in group)
            printed = run([str(scripts / "python"), "-c", program], work, env, 0)
            continue
        for block in group:
            if block.kind == "prints":
                lines = block.text.rstrip().split("\n")
                missing = [line for line in lines if line not in printed.split("\n")]
                assert len(missing) <= (len(lines) // 2 if block.argument == "mostly" else 0), printed
                continue
            if block.kind == "file":
                (work / block.argument).write_text(block.text)
                continue
            expected = int(block.argument.removeprefix("exit ")) if block.argument else 0
            for command, shown in commands(block):
                said = without_seconds(run(["bash", "-c", command], work, env, expected))
                assert not [line for line in shown if without_seconds(line) not in said]
    for picture in work.glob("*.png"):
        assert_looks_like(picture, PICTURES / picture.name)


def is_there(block: Block) -> bool:
    """Whether the package that a block needs is installed."""
    needs = block.argument.removeprefix("needs ") if block.argument.startswith("needs ") else ""
    return not needs or importlib.util.find_spec(needs) is not None


def assert_looks_like(picture: Path, committed: Path) -> None:
    from PIL import Image

    if os.environ.get("DPNN_WRITE_PICTURES"):
        committed.write_bytes(picture.read_bytes())
    with Image.open(picture) as one, Image.open(committed) as other:
        assert one.size == other.size
        assert np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() < 2


def run(command: list[str], folder: Path, env: dict[str, str], expected: int) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == expected, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def without_seconds(text: str) -> str:
    return re.sub(r"\d+\.\d s$", "", text, flags=re.M)


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


@pytest.mark.parametrize("page", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"(?<![\w./])(?:tests|docs|benchmarks|examples)/[\w/-]+\.\w+", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rows_have_the_columns_of_their_table(page: Path) -> None:
    lines = re.sub(r"`[^`\n]*`|\\\|", "", page.read_text()).split("\n")
    for in_table, rows in groupby(lines, key=lambda line: line.startswith("|")):
        if in_table:
            head, *rest = rows
            assert [row for row in rest if row.count("|") != head.count("|")] == []


def test_the_navigation_is_short_and_leads_to_every_page() -> None:
    """A page is an entry of the navigation, or linked from one that is."""
    docs = ROOT / "docs"
    entries = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert len(entries) <= 25
    found = {(docs / entry).resolve() for entry in entries}
    for page in list(found):
        links = re.findall(r"\]\((?!https?:)([^)#]+\.md)", page.read_text(encoding="utf-8"))
        found.update((page.parent / link).resolve() for link in links)
    assert {str(p.relative_to(docs)) for p in PAGES[1:] if p.resolve() not in found} == set()


def test_public_names_are_in_the_reference() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    entries = re.findall(r"^(?:::: |      members: )(.*)$", page, re.M)
    shown = set(re.findall(r"\w+", " ".join(entries)))
    assert [name for name in dpnn_bridge.__all__ if name not in shown] == ["__version__"]


def test_entries_of_the_reference_exist() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    missing = []
    for block in re.split(r"^::: ", page, flags=re.M)[1:]:
        entry = pkgutil.resolve_name(block.split()[0])
        members = re.findall(r"members: \[(.*)\]", block)
        missing += [f"{entry}.{name}" for name in ", ".join(members).split(", ") if name and not hasattr(entry, name)]
    assert missing == []


def test_every_hook_of_a_mapping_is_in_the_recipe() -> None:
    recipe = (ROOT / "CONTRIBUTING.md").read_text()
    hooks = {name for name in vars(LuaClass) if not name.startswith("_")} - {"names", "scalar"}
    assert {name for name in hooks if f"`{name}" not in recipe} == set()


def test_docstrings_refer_to_what_is_there() -> None:
    missing = []
    for path in Path(dpnn_bridge.__file__).parent.rglob("*.py"):
        for name in re.findall(r":\w+:`~?(dpnn_bridge\.[\w.]+)`", path.read_text(encoding="utf-8")):
            try:
                pkgutil.resolve_name(name)
            except (AttributeError, ImportError):
                missing.append(f"{path.name}: {name}")
    assert missing == []


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs_autorefs", reason="needs the extra docs")
    pytest.importorskip("material", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr


def test_advice_names_packages_that_an_index_has() -> None:
    from dpnn_bridge.base.extras import install_advice

    assert install_advice("safetensors") == "pip install 'safetensors>=0.4'"
    assert "'onnxscript>=0.7'" in install_advice("onnx")
    assert install_advice("nothing") == "pip install -e '.[nothing]' in the checkout of dpnn_bridge"
