"""Many threads at once: what is made at first use is made once, and nothing that threads share is left changed."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FIXTURES
from torch import nn

from dpnn_bridge import read_t7, save, write_t7
from dpnn_bridge.base import lazy_exports
from dpnn_bridge.base.cached import cached_property
from dpnn_bridge.base.exclusive import Exclusive, process_wide
from dpnn_bridge.batch.executors import ignore_working_directory
from dpnn_bridge.compare.precision import full_precision
from dpnn_bridge.conversion import registry
from dpnn_bridge.conversion.lua_class import LuaClass
from dpnn_bridge.conversion.registry import find
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.plugins import load_plugins

THREADS = 8


@pytest.fixture(autouse=True)
def _many_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def together(work: Callable[[], Any], count: int = THREADS) -> list[Any]:
    """What each of several threads gets that begin at one moment; an error of one of them is raised."""
    barrier, results, errors = threading.Barrier(count), [], []

    def run() -> None:
        barrier.wait()
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error
    return results


@pytest.mark.parametrize("mode", ["binary", "ascii"])
@pytest.mark.parametrize("how", ["numpy", "torch", "both"])
def test_a_storage_is_loaded_once(how: str, mode: Any, tmp_path: Path) -> None:
    count = 60
    table = LuaTable({i + 1: LuaTensor.from_numpy(np.zeros(5000)) for i in range(count)})
    write_t7(tmp_path / "a.t7", table, mode=mode)
    again = read_t7(tmp_path / "a.t7")
    for i in range(1, count + 1):
        tensor, turns = again[i], iter(range(THREADS))

        def touch(tensor: Any = tensor, turns: Iterator[int] = turns) -> Any:
            as_numpy = how == "numpy" or (how == "both" and next(turns) % 2)
            return tensor.numpy() if as_numpy else tensor.torch()

        got = together(touch)
        for n, each in enumerate(got):
            each[n] += 1  # an element of its own, so that no addition is lost to another thread's
        assert again[i].numpy()[:THREADS].tolist() == [1.0] * THREADS
        assert len({each.data_ptr() if isinstance(each, torch.Tensor) else each.ctypes.data for each in got}) == 1


def test_a_storage_is_copied_while_another_thread_loads_it() -> None:
    for _ in range(300):
        storage = LuaStorage("torch.DoubleStorage", 4, lambda: np.arange(4.0))
        turns = iter(range(4))
        got = together(lambda s=storage, t=turns: s.copy() if next(t) % 2 else s.numpy(), 4)
        assert all(each.tolist() == [0, 1, 2, 3] for each in got)


def test_storages_of_text_leave_the_warnings_as_they_are(
    tmp_path: Path, in_a_new_process: Callable[[str], str]
) -> None:
    table = LuaTable({i + 1: LuaTensor.from_numpy(np.arange(2000.0)) for i in range(100)})
    write_t7(tmp_path / "a.t7", table, mode="ascii")
    again, before = read_t7(tmp_path / "a.t7"), list(warnings.filters)
    left = iter(range(1, 101))  # each thread takes the next

    def work() -> None:
        for i in left:
            assert again[i].numpy()[1999] == 1999

    together(work)
    assert list(warnings.filters) == before


@pytest.fixture
def in_a_new_process(python: list[str]) -> Callable[[str], str]:
    """Returns the output of a program in which nothing of dpnn_bridge has been used yet."""

    def run(code: str) -> str:
        names = "import sys, threading\nsys.setswitchinterval(1e-6)\n"
        result = subprocess.run([*python, "-c", names + code], capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
        return result.stdout

    return run


def test_threads_that_load_first_find_every_class(in_a_new_process: Callable[[str], str]) -> None:
    sample = FIXTURES / "samples" / "torch-demos__mnist_convnet" / "model.t7"
    code = f"""
barrier, kinds = threading.Barrier(8), []
def work():
    barrier.wait()
    import dpnn_bridge
    from dpnn_bridge.objects import LuaObject, LuaTable
    from dpnn_bridge.conversion.registry import find, known_names
    model = dpnn_bridge.load({str(sample)!r})
    kinds.append((len(known_names()), str(model), find(LuaObject("nn.LSTM", LuaTable())) is None))
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(len(kinds), len(set(kinds)))
"""
    assert in_a_new_process(code) == "8 1\n"


@pytest.mark.parametrize("first", ["conversion", "lua", "optim.momentum", "training"])
def test_threads_import_packages_at_once(in_a_new_process: Callable[[str], str], first: str) -> None:
    """Python fails if a package imports a module that another thread imports, which waits for the package."""
    code = f"""
import importlib
names = ["{first}", "lua.bridge", "optim", "loaders.t7_reader", "conversion.fields", "batch"]
barrier, errors = threading.Barrier(len(names)), []
def work(name):
    barrier.wait()
    try:
        importlib.import_module(f"dpnn_bridge.{{name}}")
    except BaseException as error:
        errors.append(repr(error))
threads = [threading.Thread(target=work, args=(name,)) for name in names]
[t.start() for t in threads]; [t.join() for t in threads]
print(errors)
"""
    assert in_a_new_process(code) == "[]\n"


def test_one_thread_at_a_time_imports_exported_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python fails if one thread imports a package, which imports its modules, and another imports one of these."""
    importing, most = [], []

    def slow(name: str) -> Any:
        importing.append(name)
        most.append(len(importing))
        time.sleep(0.005)
        importing.remove(name)
        return SimpleNamespace(first=1, second=2)

    monkeypatch.setattr(lazy_exports, "importlib", SimpleNamespace(import_module=slow))
    find, _ = lazy_exports.lazy_exports(__name__, {"first": "one", "second": "two"})
    turns = iter(range(THREADS))
    together(lambda: find("first" if next(turns) % 2 else "second"))
    assert most == [1] * THREADS


def test_programs_are_written_and_the_defaults_stay(tmp_path: Path) -> None:
    names, before = iter(range(THREADS)), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    layers = [nn.Linear(2, 2) for _ in range(THREADS)]  # writing a program changes the default for a moment
    try:
        together(lambda: save(tmp_path / f"{(i := next(names))}.py", layers[i]))
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(before)
    assert len(list(tmp_path.iterdir())) == THREADS


class Waiting(nn.Module):
    """A layer that another thread creates, which parses source code."""

    def __init__(self) -> None:
        super().__init__()
        parser, ended = importlib.import_module("dpnn_bridge.base.python_parser"), threading.Event()
        threading.Thread(target=lambda: parser.parse("1") and ended.set(), daemon=True).start()
        if not ended.wait(1):
            raise RuntimeError("the thread waits")


def test_a_layer_of_a_program_may_wait_for_another_thread(tmp_path: Path) -> None:
    save(tmp_path / "a.py", Waiting())


def test_an_attribute_is_computed_while_another_thread_computes_it() -> None:
    """A lock for all objects, as functools had it before Python 3.12, stays locked in a forked process."""

    class Slow:
        @cached_property
        def value(self) -> object:
            inside.wait(5)
            return object()

    inside, one = threading.Barrier(2), Slow()
    assert len({id(value) for value in together(lambda: one.value, 2)}) == 1


def test_a_class_is_found_while_another_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is being sorted looks empty to other threads."""
    linear = LuaObject("nn.Linear", LuaTable({"weight": 1}))
    assert find(linear) is not None
    monkeypatch.setattr(registry, "_BY_NAME", {name: [*mappings] for name, mappings in registry._BY_NAME.items()})
    looked = []

    own = registry.is_built_in

    def look(cls: type[LuaClass]) -> bool:  # asked for while the mappings are put in order
        looked.append(find(linear) is not None)
        return own(cls)

    monkeypatch.setattr(registry, "is_built_in", look)
    body = {"torch_type": type("M", (nn.Module,), {}), "matches": classmethod(lambda cls, obj: "race" in obj)}
    registry.lua_class("nn.Linear")(type("Again", (LuaClass,), body))
    assert looked
    assert all(looked)


def test_a_plugin_runs_once(tmp_path: Path) -> None:
    plugin, other = tmp_path / "once.py", tmp_path / "again" / "once.py"
    other.parent.mkdir()
    for path in (plugin, other):
        path.write_text("import time\ntime.sleep(0.05)\nwith open(__file__ + '.ran', 'a') as f: f.write('x')\n")
    turns = iter(range(THREADS))
    together(lambda: load_plugins([plugin if next(turns) % 2 else other]))
    assert [path.with_suffix(".py.ran").read_text() for path in (plugin, other)] == ["x", "x"]
    assert {sys.modules[n].__file__ for n in sys.modules if n.startswith("dpnn_bridge_plugin_once")} == {
        str(plugin),
        str(other),
    }


def test_a_type_with_ties_is_one_type() -> None:
    from dpnn_bridge.conversion.ties import _sharing_type

    for i in range(50):
        plain = type(f"Plain{i}", (nn.Module,), {})
        assert len(set(together(lambda p=plain: _sharing_type(p, ("weight",))))) == 1


def test_a_state_of_the_process_is_restored_by_the_last_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = torch.backends.cuda.matmul.allow_tf32
    inside = threading.Barrier(2)

    def work() -> bool:
        for _ in range(100):
            with ignore_working_directory(), full_precision():
                if os.environ.get("PYTHONSAFEPATH") != "1" or torch.backends.cuda.matmul.allow_tf32:
                    return False
        return True

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert all(together(work))
        assert torch.backends.cuda.matmul.allow_tf32

        def first() -> None:  # enters first and leaves first
            with ignore_working_directory():
                inside.wait()

        thread = threading.Thread(target=first)
        thread.start()
        with ignore_working_directory():
            inside.wait()
            thread.join()
            assert os.environ["PYTHONSAFEPATH"] == "1"
        assert "PYTHONSAFEPATH" not in os.environ
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_an_error_in_such_a_state_restores_it() -> None:
    from contextlib import contextmanager

    said = []

    @process_wide
    @contextmanager
    def state() -> Iterator[None]:
        said.append("in")
        try:
            yield
        finally:
            said.append("out")

    with pytest.raises(RuntimeError), state(), state():
        raise RuntimeError
    assert said == ["in", "out"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_waits_for_no_thread_that_it_has_not(in_a_new_process: Callable[[str], str]) -> None:
    """A thread that loads a storage at the moment of a fork does not exist in the child."""
    code = """
import os, signal, numpy as np
from dpnn_bridge.objects import LuaStorage
begun, go = threading.Event(), threading.Event()
def load():
    if threading.current_thread() is not threading.main_thread():
        begun.set(); go.wait()
    return np.arange(4.0)
s = LuaStorage("torch.DoubleStorage", 4, load)
t = threading.Thread(target=s.numpy); t.start(); begun.wait()
pid = os.fork()
if not pid:
    signal.alarm(20)
    os._exit(0 if s.numpy()[3] == 3 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go.set(); t.join()
"""
    assert in_a_new_process(code) == "0\n"


def test_a_lock_is_forgotten_when_nobody_holds_it() -> None:
    from dpnn_bridge.base import exclusive

    with Exclusive("a"), Exclusive("a"), Exclusive("b"):
        assert len(exclusive._locks) == 2
    assert not exclusive._locks


def test_one_bridge_takes_calls_from_many_threads() -> None:
    pytest.importorskip("lupa")
    from dpnn_bridge.lua import LuaBridge

    bridge = LuaBridge()
    bridge.execute("n = 0  function up(t) for i = 1, 200 do local x = n; t:add(1); n = x + 1 end return n end")
    tensor = torch.zeros(3)

    def work() -> None:
        for _ in range(5):
            bridge.execute("return up(...)", tensor)
        bridge.require("nn")
        layer = bridge.new("nn.Linear", 3, 2)
        assert bridge.to_python(bridge.method(layer, "forward", torch.ones(1, 3).double())).shape == (1, 2)

    together(work)
    assert bridge.execute("return n") == 200 * 5 * THREADS
    assert tensor.tolist() == [200 * 5 * THREADS] * 3


def test_a_table_is_read_while_another_thread_fills_it() -> None:
    pytest.importorskip("lupa")
    from dpnn_bridge.lua import LuaBridge

    bridge = LuaBridge()
    bridge.execute("t = {}  function fill(n) for i = 1, 50 do t[n .. ' ' .. i] = i end end")
    turns = iter(range(THREADS))

    def work() -> None:
        turn = next(turns)
        for i in range(30):
            if turn % 2:
                bridge.execute("fill(...)", f"{turn} {i}")
            else:
                bridge.execute("return t")

    together(work)
    assert len(bridge.execute("return t")) == 50 * 30 * THREADS // 2


def test_blocks_are_shared_while_another_thread_looks_for_stale_ones() -> None:
    pytest.importorskip("lupa")
    from dpnn_bridge.lua.mirror import SharedStorages
    from dpnn_bridge.lua.tensor import Storage

    shared, kept = SharedStorages(), []

    def work() -> None:
        for _ in range(300):
            kept.append(Storage("Double", 1))
            shared.add(kept[-1])
            assert shared.stale_blocks() == []

    together(work, 4)


def test_bridges_begin_in_many_threads(in_a_new_process: Callable[[str], str]) -> None:
    pytest.importorskip("lupa")
    code = """
barrier, got = threading.Barrier(6), []
def work():
    barrier.wait()
    from dpnn_bridge.lua import LuaBridge
    b = LuaBridge()
    b.require("nn")
    got.append(b.execute("return nn.Linear(3, 2):forward(torch.ones(3)):size(1)"))
threads = [threading.Thread(target=work) for _ in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
print(got)
"""
    assert in_a_new_process(code) == "[2, 2, 2, 2, 2, 2]\n"
