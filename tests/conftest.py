"""Options and the manifest, shared by all tests."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import itertools
import json
import logging
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import warm_sandbox
from click.testing import CliRunner
from devices import strict

import dpnn_bridge
from dpnn_bridge.compare.differences import Result, Tolerance
from dpnn_bridge.compare.precision import check_device
from dpnn_bridge.errors import OptionError
from dpnn_bridge.objects import LuaTensor
from dpnn_bridge.parity.known_differences import known_reasons, mark_known, read_known_differences
from dpnn_bridge.torch7.random import Generator as Torch7Generator

if TYPE_CHECKING:
    from dpnn_bridge.lua import LuaBridge

#: the repository's fixtures, or a folder with a larger set of the same form
FIXTURES = Path(os.environ.get("DPNN_FIXTURES") or Path(__file__).parent.parent / "fixtures")
#: a small residual network whose fixture holds what every layer computed
RESIDUAL = FIXTURES / "nn" / "nn.Sequential" / "Sequential__net_style_residual__float_train.t7"

KNOWN_FILE = Path(__file__).parent.parent / "fixtures" / "known_differences.json"
KNOWN = read_known_differences(KNOWN_FILE)

torch.set_num_threads(1)

# pytest adds handlers to every logger that does not propagate, four times a test; PyTorch has 42
for logger in logging.root.manager.loggerDict.values():
    if isinstance(logger, logging.Logger):
        logger.propagate = True

# a shell starts programs in the background with SIGINT ignored, which all programs that tests start would take over
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click before 8.2 mixes stderr into stdout if not told
    CliRunner.__init__ = functools.partialmethod(CliRunner.__init__, mix_stderr=False)


@functools.cache
def _entries() -> list[dict[str, Any]]:
    return json.loads((FIXTURES / "manifest.json").read_text())["fixtures"]


def manifest(**wanted: Any) -> list[dict[str, Any]]:
    """Entries of the fixture manifest whose fields have the wanted values (or one of a tuple of values)."""
    return [
        e
        for e in _entries()
        if all(e.get(k) in v if isinstance(v, tuple) else e.get(k) == v for k, v in wanted.items())
    ]


def fixture_id(entry: dict[str, Any]) -> str:
    """``nn.Linear-nn-Linear__batch__double_train``: ``pytest -k nn.Linear`` selects a class."""
    return f"{entry['class']}-{entry.get('package') or entry['set']}-{entry['name']}"


def demand_parity(result: Result, entry: dict[str, Any]) -> None:
    """Fails for any comparison that failed; a fixture in which only known ones did is an expected failure."""
    mark_known(result.differences, KNOWN, entry["name"])
    result.raise_for_failures()
    if known := known_reasons(result.differences):
        pytest.xfail("; ".join(known))


#: what a test file names whose tests are named after fixtures or Lua classes; ``test_selection.py`` holds the list
NAMED_AFTER_DATA = ("fixture_id", "mapping_id", "p.stem", "LAYERS", "groups()", "ENTRIES")


def may_match(path: Path, words: set[str]) -> bool:
    """Return whether a test file can hold a test that ``-k`` selects by one of these words."""
    text = str(path.relative_to(Path(__file__).parent.parent)) + path.read_text(encoding="utf-8")
    return any(name in text for name in NAMED_AFTER_DATA) or any(word in text.lower() for word in words)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that hold no test of the names in ``-k``: importing all of them takes ten times as long."""
    expression = str(config.option.keyword)
    words = set(re.findall(r"[^\s()]+", expression.lower())) - {"and", "or"}
    if not words or "not" in words or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return None if may_match(collection_path, words) else True


#: what names a program of Torch7, see docs/parity.md
NO_TORCH7 = not any(name.startswith("DPNN_TORCH7") for name in os.environ)


class NeedsTorch7(pytest.Item):
    """What stands for all tests of a function that ask a real Torch7, where none is named."""

    def runtest(self) -> None:
        pytest.skip("DPNN_TORCH7 names no Torch7")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module, name: str, obj: object) -> pytest.Item | None:
    """Skip a function marked ``torch7`` once where it would be thousands of tests."""
    if not (NO_TORCH7 and collector.istestfunction(obj, name)):
        return None
    marks = [*collector.iter_markers("torch7"), *(m for m in getattr(obj, "pytestmark", []) if m.name == "torch7")]
    if not marks:
        return None
    item = NeedsTorch7.from_parent(collector, name=name)
    item.add_marker("torch7")
    return item


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where the parity fixtures run, such as cuda or strict")
    parser.addoption("--one-of-each", action="store_true", help="one fixture of each class")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == strict.NAME:
        strict.register()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--one-of-each"):
        return
    chosen: dict[str, pytest.Item] = {}
    for item in items:
        entry = getattr(item, "callspec", None) and item.callspec.params.get("entry")  # type: ignore[attr-defined]
        if entry and (entry["class"] not in chosen or entry["name"].endswith("double_train")):
            chosen[entry["class"]] = item
    items[:] = chosen.values()


def pytest_collection_finish() -> None:
    """Hide the thousands of tests from the garbage collector, which takes a fifth of their time otherwise."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Hide what a file imported, too: torch.onnx collects garbage after each export."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


#: what :func:`_seed` replaces
SEED_OF_THE_SYSTEM = Torch7Generator.seed


def _seed(name: str) -> None:
    """Seed every generator, and those that Lua makes without a seed, so that no result depends on luck."""
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)
    if torch.cuda.is_available():
        torch.manual_seed(seed)
    else:  # torch.manual_seed keeps a traceback for each device that is not there: half a millisecond
        torch.default_generator.manual_seed(seed)
    fresh = itertools.count(seed)

    def take(generator: Torch7Generator) -> int:
        generator.manual_seed(taken := next(fresh))
        return taken

    Torch7Generator.seed = take  # type: ignore[method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _seed(item.nodeid.partition("::")[0])  # fixtures of a file are the same whichever test asks first


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.nodeid)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name = str(request.config.getoption("--device"))
    try:
        check_device(name)
    except OptionError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="session")
def tolerance(device: str) -> Tolerance:
    """Accepted differences. On CUDA sums run in another order and some are atomic; TF32 is off (``full_precision``)."""
    return Tolerance(1e-9, 1e-4) if device.startswith("cuda") else Tolerance()


@pytest.fixture
def deviating(tmp_path: Path) -> Path:
    """A fixture with one weight that is not the one Torch7 used, inside a branch."""
    fixture = dpnn_bridge.read_t7(RESIDUAL)
    layer = fixture["module"]["modules"][5]["modules"][1]["modules"][1]
    weight = layer["weight"].torch().clone()
    weight[0, 0, 1, 0] += 0.01
    layer["weight"] = LuaTensor.from_numpy(weight.numpy())
    dpnn_bridge.write_t7(tmp_path / "deviating.t7", fixture)
    return tmp_path / "deviating.t7"


@contextlib.contextmanager
def forks(folder: Path, *modules: str) -> Iterator[list[str]]:
    """Give the command that runs commands in forks of one program, which has imported these modules."""
    code, address = Path(__file__).with_name("warm.py"), folder / "socket"
    command, environment = [sys.executable, code, "serve", address, *modules], {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as server:
        while not address.exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield [sys.executable, "-I", "-S", str(code), str(address)]
        server.stdin.close()  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A command line that runs commands in forks of one program, see ``warm.py``."""
    from forkserver import MODULES

    with forks(tmp_path_factory.mktemp("warm"), *MODULES) as command:
        yield shlex.join(command)


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A Python program that has imported PyTorch, which takes two seconds, and nothing of dpnn_bridge."""
    with forks(tmp_path_factory.mktemp("python"), "torch") as command:
        yield [*command, "python"]


@pytest.fixture
def scripts(tmp_path: Path, warm: str) -> Path:
    """A folder with the console scripts that pyproject.toml declares, and this interpreter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    table = (
        (Path(__file__).parent.parent / "pyproject.toml").read_text().split("[project.scripts]\n")[1].split("\n[")[0]
    )
    programs = {
        name: f'{warm} {entry} {name} "$@"' for name, entry in re.findall(r'^([\w-]+) = "([\w.]+:\w+)"', table, re.M)
    }
    python = f'case "$1" in -c | *.py) exec {warm} python "$@";; esac\nexec {shlex.quote(sys.executable)} "$@"'
    pytest = f'{warm} pytest:console_main pytest -p dpnn_bridge.pytest_plugin "$@"'
    for name, line in {**programs, "python": python, "pytest": pytest}.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(params=["auto", "lua51"], scope="module")
def bridge(request: pytest.FixtureRequest) -> LuaBridge:
    """Lua inside Python, by LuaJIT and by Lua 5.1."""
    from dpnn_bridge.lua import LuaBridge

    return LuaBridge(runtime=request.param)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten at its end."""
    from dpnn_bridge.conversion import registry

    registry.discover(registry.ZOO)
    monkeypatch.setattr(registry, "_BY_NAME", {k: [*v] for k, v in registry._BY_NAME.items()})
    monkeypatch.setattr(registry, "_BY_TYPE", {k: [*v] for k, v in registry._BY_TYPE.items()})


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of ``--jobs`` are forks of one server, which start at once; in other tests they start as for a user."""
    from forkserver import FORKSERVER

    from dpnn_bridge.batch import executors

    monkeypatch.setattr(executors.multiprocessing, "get_context", lambda method: FORKSERVER)


@pytest.fixture(scope="session")
def sandbox_servers() -> Iterator[None]:
    """The servers of :mod:`warm_sandbox` end with the tests."""
    yield
    warm_sandbox.close_servers()


@pytest.fixture(scope="module")
def warm_sandboxes(sandbox_servers: None) -> Iterator[None]:
    """Sandboxes of a file are forks of one server, which start at once; in other files they start as for a user."""
    sandbox = pytest.importorskip("dpnn_bridge.lua.sandbox")
    with pytest.MonkeyPatch.context() as patch:
        if warm_sandbox.POSSIBLE:
            patch.setattr(sandbox, "subprocess", warm_sandbox)
        yield
