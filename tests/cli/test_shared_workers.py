"""Workers of Dask that run the calls of several programs, here in this process."""

from __future__ import annotations

import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpnn_bridge.base.atomic import check_output
from dpnn_bridge.batch.executors import DaskExecutor
from dpnn_bridge.conversion import registry
from dpnn_bridge.errors import OutputError
from dpnn_bridge.plugins import load_plugins, only_plugins

PLUGIN = """
from torch import nn
from dpnn_bridge import lua_class

@lua_class("shared.Worker")
class Mine(nn.Module):
    number = {number}
"""


class Worker:
    """A client of Dask whose only worker is this thread."""

    loop = SimpleNamespace(add_callback=lambda copy, result, future: future.set_result(result))

    def submit(self, call: Any, pure: bool) -> Any:
        return call()


def run(function: Any, *arguments: Any, plugins: tuple[Path, ...] = ()) -> Any:
    pytest.importorskip("distributed", reason="optional extra is not installed")
    return DaskExecutor(Worker(), plugins).submit(function, *arguments).result(10)


def plugin(path: Path, number: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(PLUGIN.format(number=number))
    return path


def numbers(*plugins: Path) -> list[int]:
    load_plugins(plugins)
    return [mapping.torch_type.number for mapping in registry.mappings_of("shared.Worker")]


def test_a_call_uses_the_plugins_of_its_own_program_alone(tmp_path: Path) -> None:
    one, other = (plugin(tmp_path / str(n) / "mine.py", n) for n in (1, 2))
    for _ in range(2):
        assert run(numbers, one, plugins=(one,)) == [1]
        assert run(numbers, other, plugins=(other,)) == [2]
        assert run(numbers) == []
        assert not [path for path in registry.files_of_users() if path.startswith(str(tmp_path))]


def test_a_plugin_that_only_a_call_names_does_not_stay(tmp_path: Path) -> None:
    one = plugin(tmp_path / "only.py", 6)
    assert run(numbers, one) == [6]
    assert run(numbers) == []


def test_a_plugin_that_the_process_loaded_itself_stays(tmp_path: Path) -> None:
    own = plugin(tmp_path / "own.py", 3)
    try:
        assert numbers(own) == [3]
        assert run(numbers, own, plugins=(own,)) == [3]
        assert run(numbers) == [3]
    finally:
        registry.unregister("dpnn_bridge_plugin_own")


def test_calls_with_other_plugins_wait(tmp_path: Path) -> None:
    one, other = (plugin(tmp_path / f"{n}.py", n) for n in (4, 5))
    inside, leave = threading.Event(), threading.Event()

    def long_call() -> list[int]:
        with only_plugins((one,)):
            inside.set()
            leave.wait(10)
            return numbers(one)

    def short_call(path: Path) -> list[int]:
        with only_plugins((path,)):
            return numbers(path)

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(long_call)
        assert inside.wait(10)
        waiting = pool.submit(short_call, other)
        assert pool.submit(short_call, one).result(10) == [4]
        assert not waiting.done()
        leave.set()
        assert (first.result(10), waiting.result(10)) == ([4], [5])
    with only_plugins(()):
        assert numbers() == []


def test_an_output_replaces_no_file_that_the_worker_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_worker.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    helper = importlib.import_module("helper_of_worker")
    monkeypatch.setitem(sys.modules, "helper_of_worker", helper)  # removed afterwards
    with pytest.raises(OutputError, match="which is never replaced"):
        run(check_output, helper.__file__, True)
