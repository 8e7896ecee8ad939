"""What the wheel and the source distribution hold: the whole package, and nothing of the repository's 40 MB besides."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = (".py", ".lua", ".typed", ".json", ".css", ".js", ".j2", ".txt")
PACKAGE = {str(p.relative_to(ROOT)) for p in (ROOT / "dpnn_bridge").rglob("*") if p.suffix in SUFFIXES}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_wheel_holds_the_package(dist: Path) -> None:
    (path,) = dist.glob("*.whl")
    names = zipfile.ZipFile(path).namelist()
    assert {n for n in names if ".dist-info/" not in n} == PACKAGE
    assert {"dpnn_bridge/py.typed", "dpnn_bridge/lua/prelude/setup.lua"} <= PACKAGE
    assert any(n.endswith(".dist-info/licenses/LICENSE") for n in names)


def test_source_distribution_builds_the_wheel_and_holds_no_fixtures(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames()}
    about = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert names == PACKAGE | about


def test_the_conda_recipe_installs_the_same() -> None:
    yaml, jinja2 = pytest.importorskip("yaml"), pytest.importorskip("jinja2")
    text = (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(jinja2.Template(text).render(PYTHON="python", python_min="3.10"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = dict(line.split(" ") for line in recipe["requirements"]["run"])
    assert "requires-python = " + json.dumps(found.pop("python")) in project
    names = {"pytorch": "torch", "python-zlib-ng": "zlib-ng"}
    needed = [names.get(name, name) + version for name, version in found.items()]
    assert f"\ndependencies = {json.dumps(needed)}\n" in project
    assert f'\nversion = "{recipe["package"]["version"]}"\n' in project
    scripts = project.split("[project.scripts]\n")[1].split("\n[")[0].strip().replace('"', "")
    assert recipe["build"]["entry_points"] == scripts.split("\n")
