"""Run fixture files as pytest tests: ``pytest --t7-fixtures=DIR`` runs one test per fixture file in a folder.

A fixture folder contains data. No code in the folder is run: conftest.py, test files and configuration are ignored.
Write the option with ``=``. If a path in the folder is an argument of its own and there is no ``-c FILE``, pytest reads
the configuration in the folder before this plugin is active, and can run code that it names. PyTorch is imported when
the first fixture runs, so other test suites do not wait for the import.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from dpnn_bridge.base.display import printable, printable_lines
from dpnn_bridge.errors import DpnnBridgeError, FileAccessError, NotT7Error, OptionError
from dpnn_bridge.parity.known_differences import KnownDifference, known_reasons, mark_known, read_known_differences

KNOWN = "known difference from Torch7: "
KNOWN_DIFFERENCES = pytest.StashKey[list[KnownDifference]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dpnn_bridge", "parity with Torch7")
    group.addoption("--t7-fixtures", action="append", default=[], metavar="DIR", help="folder of .t7 fixture files")
    group.addoption("--t7-device", default="cpu", metavar="DEVICE", help="device that runs the fixtures (default: cpu)")
    group.addoption(
        "--t7-rtol", type=float, metavar="X", help="accepted relative difference (1e-10 double, 1e-5 single)"
    )
    group.addoption(
        "--t7-plugin", action="append", default=[], metavar="FILE", help="Python file with @lua_class mappings"
    )
    group.addoption("--t7-unbounded", action="store_true", help="run fixtures without limits of memory and time")
    group.addoption(
        "--t7-known-differences", metavar="FILE", help="JSON file of comparisons that may differ, each with its reason"
    )


def _folders(config: pytest.Config) -> list[Path]:
    return [Path(folder).resolve() for folder in config.option.t7_fixtures]


def _path(argument: str) -> Path:
    """Return the path in an argument. A link to a file is not followed, because it belongs to its own folder."""
    path = Path(os.path.abspath(argument.partition("::")[0]))
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def _inside(path: Path, folders: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: Any, parser: Any, args: list[str]) -> Any:
    """Ignore the configuration file in a fixture folder before it takes effect.

    Before this plugin registers ``--t7-fixtures``, pytest treats the value of the option as a folder of tests and reads
    the configuration file in that folder.
    """
    namespace = early_config.known_args_namespace
    folders = [Path(folder).resolve() for folder in namespace.t7_fixtures]
    if early_config.inipath is not None and _inside(Path(early_config.inipath).resolve(), folders):
        options = early_config.getini("addopts")
        if args[: len(options)] == options:
            del args[: len(options)]
        sys.path[:] = [entry for entry in sys.path if not entry or not _inside(Path(entry).resolve(), folders)]
        settings = vars(early_config)["_inicfg" if "_inicfg" in vars(early_config) else "inicfg"]
        settings.clear()
        early_config._inicache.clear()
        namespace = parser.parse_known_args(args, namespace=copy.copy(early_config.option))
        early_config.known_args_namespace = namespace
    namespace.file_or_dir = [arg for arg in namespace.file_or_dir if not _inside(_path(arg), folders)]
    if _inside(early_config.invocation_params.dir.resolve(), folders):
        namespace.noconftest = True
    return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Exclude arguments that are in a fixture folder from pytest's own collection."""
    folders = _folders(config)
    named = [arg for arg in config.args if _inside(_path(arg), folders)]
    if named and config.args_source is pytest.Config.ArgsSource.ARGS:
        config.option.t7_named = [str(_path(arg)) for arg in named]
        config.option.t7_only = len(named) == len(config.args)
    if getattr(config.option, "t7_only", False):  # stored as an option, which pytest-xdist sends to its workers
        config.args[:] = []
    else:
        config.args[:] = [arg for arg in config.args if arg not in named]
    for option, folder in zip(config.option.t7_fixtures, folders, strict=True):
        if not folder.is_dir():
            raise pytest.UsageError(f"--t7-fixtures: {option} is not a folder")
    rtol = config.option.t7_rtol
    if rtol is not None and not 0 <= rtol < math.inf:
        raise pytest.UsageError(f"--t7-rtol: {rtol} is not a finite number of at least 0")
    try:
        file = config.option.t7_known_differences
        config.stash[KNOWN_DIFFERENCES] = read_known_differences(file) if file else []
    except (NotT7Error, FileAccessError, ValueError) as error:
        raise pytest.UsageError(f"--t7-known-differences: {error}") from None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return _inside(collection_path.resolve(), _folders(config)) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Collect the fixtures of each folder: those on the command line, or else all."""
    named = [Path(path) for path in getattr(config.option, "t7_named", [])]
    folders = _folders(config)
    if folders:
        _check_device(config.option.t7_device)
    files: dict[Path, None] = {}  # without duplicates, if one folder contains another
    for folder in folders:
        chosen = [path for path in named if path.is_relative_to(folder)] or [folder]
        found = (file for file in sorted(folder.rglob("*.t7")) if file.is_file())
        files |= dict.fromkeys(file for file in found if _inside(file, chosen))
    for path in named:
        if not any(_inside(file, [path]) for file in files):
            raise pytest.UsageError(f"no .t7 file: {path}")
    for file in files:
        items.extend(FixtureFile.from_parent(session, path=file, **_names(file, config)).collect())


def _names(file: Path, config: pytest.Config) -> dict[str, Any]:
    """Return the name and ID of a file whose name would have an effect on the terminal; nothing for other files."""
    if str(file).isprintable():
        return {}
    return dict.fromkeys(("name", "nodeid"), printable(os.path.relpath(file, config.rootpath)))


def _check_device(device: str) -> None:
    if device == "cpu":  # avoids the import of PyTorch, which is slow
        return
    from dpnn_bridge.compare.precision import check_device

    try:
        check_device(device)
    except OptionError as error:
        raise pytest.UsageError(f"--t7-device: {error}") from None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print every known difference with its number of fixtures."""
    expected = [getattr(report, "wasxfail", "") for report in terminalreporter.stats.get("xfailed", [])]
    reasons = Counter(line for text in expected if KNOWN in text for line in text.partition(KNOWN)[2].splitlines())
    if reasons:
        terminalreporter.section("known differences from Torch7")
    for reason, count in reasons.items():
        terminalreporter.line(f"{count:3} {'fixture ' if count == 1 else 'fixtures'}  {reason}")


class FixtureFile(pytest.File):
    """A ``.t7`` file; it contains one test."""

    def collect(self) -> Iterator[pytest.Item]:
        yield FixtureItem.from_parent(self, name="parity")


class FixtureItem(pytest.Item):
    """Test that runs the module of a fixture and compares all values in the fixture."""

    def runtest(self) -> None:
        from dpnn_bridge.compare.differences import Tolerance
        from dpnn_bridge.conversion.limits import ResourceLimits
        from dpnn_bridge.loaders.t7_reader import read_t7
        from dpnn_bridge.parity.bounded import run_limits
        from dpnn_bridge.parity.fixture import check
        from dpnn_bridge.parity.verify import is_comparable, is_fixture
        from dpnn_bridge.plugins import load_plugins

        device, rtol = self.config.option.t7_device, self.config.option.t7_rtol
        load_plugins(self.config.option.t7_plugin)
        fixture = read_t7(self.path)
        if not is_fixture(fixture):
            pytest.skip("not a fixture: expected a table with a module, its input and its results")
        if not is_comparable(fixture):
            pytest.skip("an incomplete fixture: it contains a module and an input, and no results")
        tolerance = Tolerance() if rtol is None else Tolerance(rtol, rtol)
        running = nullcontext if self.config.option.t7_unbounded else run_limits(ResourceLimits([fixture]))
        result = check(fixture, device=device, tolerance=tolerance, running=running)
        mark_known(result.differences, self.config.stash[KNOWN_DIFFERENCES], self.path.stem)
        result.raise_for_failures()
        if reasons := known_reasons(result.differences):
            pytest.xfail(KNOWN + "\n".join(" ".join(reason.split()) for reason in reasons))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Format errors of this package without a traceback."""
        if isinstance(excinfo.value, DpnnBridgeError):
            text = str(excinfo.value).replace("unbounded=True (--unbounded)", "--t7-unbounded")
            return f"{printable(self.path.name)}:\n{printable_lines(text)}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return Path(printable(str(self.path))), 0, f"parity of {printable(self.path.name)}"
