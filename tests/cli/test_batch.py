"""Many files at once: failures stay their own, an interruption leaves nothing half done."""
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge import batch
from dpnn_bridge.batch import executors
from dpnn_bridge.batch.executors import _start_resource_tracker, workers
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.errors import MissingFileError, OptionError, OutputExistsError
from dpnn_bridge.loaders import read_t7, write_t7
from dpnn_bridge.objects import LuaTable

MODEL = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"


def copies(folder: Path, *names: str) -> list[Path]:
    """The model under several names."""
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODEL, path)
    return paths


def test_outputs_keep_their_folders(tmp_path: Path) -> None:
    sources = copies(tmp_path, "a/model.t7", "b/model.t7", "b/c/model.t7")
    targets = [t.target for t in batch.tasks_for(sources, tmp_path / "out", ".pt")]
    assert targets == [tmp_path / "out" / p for p in ("a/model.pt", "b/model.pt", "b/c/model.pt")]


def test_two_sources_for_one_output_are_refused(tmp_path: Path) -> None:
    sources = copies(tmp_path, "model.t7", "model.net")
    with pytest.raises(OutputExistsError, match=r"model\.net"):
        batch.tasks_for(sources, tmp_path / "out", ".pt")


@pytest.mark.parametrize("targets", [("a/x.pt", "a/../a/x.pt"), ("s3://a/x.pt", "s3://a//x.pt"), ("a/x.pt", "b/x.pt")])
def test_two_tasks_for_one_output_are_refused(targets: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    found = [name if "://" in name else tmp_path / name for name in targets]
    tasks = [batch.Task(tmp_path / f"{i}.t7", target) for i, target in enumerate(found)]
    with pytest.raises(OptionError, match="two outputs are the same file"):
        next(batch.run(tasks))
    if isinstance(found[0], Path):
        with pytest.raises(OptionError, match="two outputs are the same file"):
            next(batch.run(tasks[:1], manifest=found[1]))
    assert [outcome.status for outcome in batch.run([tasks[0]] * 2)] == ["failed"] * 2  # no such input


def test_a_wrong_key_fails_alone(tmp_path: Path) -> None:
    tasks = [batch.Task(tmp_path / "a.t7", tmp_path / "a.pt", key=["a"])]  # type: ignore[arg-type]
    assert [outcome.message for outcome in batch.run(tasks)] == [
        "options: argument key: expected a string or None, found a list"
    ]


def test_one_file_named_twice_is_one_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = copies(tmp_path, "model.t7")
    monkeypatch.chdir(tmp_path)
    assert len(batch.tasks_for([source, Path("model.t7")], tmp_path / "out", ".pt")) == 1


def test_a_text_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies(tmp_path, "a.t7")
    monkeypatch.chdir(tmp_path)
    assert batch.Task("a.t7", "new/a.pt") == batch.Task(Path("a.t7"), Path("new/a.pt"))
    assert [outcome.status for outcome in batch.run([batch.Task("a.t7", "new/a.pt")])] == ["converted"]
    targets = [task.target for task in batch.tasks_for_models("a.t7", "out.pt", ["enc", "dec"])]
    assert targets == [Path("out.enc.pt"), Path("out.dec.pt")]
    with pytest.raises(MissingFileError, match=r"none\*\.t7: no file matches"):
        batch.tasks_for(["none*.t7"], "out", ".pt")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_name_with_a_star_is_a_pattern_unless_a_file_has_it(tmp_path: Path, kind: type) -> None:
    copies(tmp_path, "a*.t7", "ab.t7")
    (tmp_path / "folder").mkdir()
    both = {"a*.pt", "ab.pt"}
    of_paths = [("a?.t7", both), ("?b.t7", {"ab.pt"})] if kind is Path else [("a?.t7", {"a?.pt"})]
    for pattern, expected in [("a*.t7", {"a*.pt"}), ("**", both), *of_paths]:
        tasks = batch.tasks_for([kind(tmp_path / pattern)], tmp_path / "out", ".pt")
        assert {task.target.name for task in tasks} == expected


def test_a_file_that_is_the_model_has_a_name_too() -> None:
    tasks = batch.tasks_for_models(Path("a.t7"), Path("m.pt"), ["", "model", "[]"])
    assert [str(t.target) for t in tasks] == ["m.model.pt", "m.model-2.pt", "m.model-3.pt"]


def test_numbers_are_no_suffixes(tmp_path: Path) -> None:
    sources = copies(tmp_path, "loss_1.25", "loss_1.5")
    targets = [t.target.name for t in batch.tasks_for(sources, tmp_path / "out", ".pt")]
    assert targets == ["loss_1.25.pt", "loss_1.5.pt"]


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_stay_their_own(tmp_path: Path, jobs: int) -> None:
    sources = copies(tmp_path, "good.t7", "fine.t7")
    bad = tmp_path / "bad.t7"
    bad.write_bytes(MODEL.read_bytes()[:5000])
    tasks = batch.tasks_for([*sources, bad, tmp_path], tmp_path / "out", ".pt")
    outcomes = {o.task.source.name: o for o in batch.run(tasks, jobs=jobs)}
    assert {name: o.status for name, o in outcomes.items() if name != tmp_path.name} == {
        "good.t7": "converted",
        "fine.t7": "converted",
        "bad.t7": "failed",
    }
    assert outcomes[tmp_path.name].status == "failed"
    again = {o.task.source.name: o.status for o in batch.run(tasks, jobs=jobs)}
    assert again["good.t7"] == again["fine.t7"] == "skipped"
    assert sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file()) == ["fine.pt", "good.pt"]


def test_an_option_that_cannot_be_pickled_is_refused_before_workers_start(tmp_path: Path) -> None:
    tasks = batch.tasks_for(copies(tmp_path, "a.t7", "b.t7"), tmp_path / "out", ".py")
    with pytest.raises(OptionError, match=r"^run: argument input: cannot be pickled .*; pass jobs=1$"):
        list(batch.run(tasks, jobs=2, input=lambda model: None))


class FaultyExecutor(Executor):
    """Fails to run or to submit calls, except the first that it submits."""

    def __init__(self, fails_to_submit: bool) -> None:
        self.futures: list[Future[Any]] = []
        self.fails_to_submit = fails_to_submit

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.fails_to_submit and self.futures:
            raise ValueError("no more")
        future = Future[Any]()
        self.futures.append(future)
        future.set_exception(ValueError("no result"))
        return future


def test_a_call_that_an_executor_does_not_take_fails_alone(tmp_path: Path) -> None:
    tasks = batch.tasks_for(copies(tmp_path, "a.t7", "b.t7"), tmp_path / "out", ".pt")
    outcomes = {o.task.source.name: o.message for o in batch.run(tasks, executor=FaultyExecutor(fails_to_submit=True))}
    assert sorted(outcomes.items()) == [
        ("a.t7", "the executor failed: ValueError: no result"),
        ("b.t7", "the executor failed: ValueError: no more"),
    ]


def test_a_result_of_another_version_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = FaultyExecutor(fails_to_submit=False)
    monkeypatch.setattr(Future, "set_exception", lambda future, error: future.set_result(error))
    (outcome,) = batch.run(batch.tasks_for(copies(tmp_path, "a.t7"), tmp_path / "out", ".pt"), executor=executor)
    assert (outcome.status, outcome.message[:30]) == ("failed", "the executor failed: TypeError")


def test_a_call_of_a_process_pool_without_a_result_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "workers", lambda jobs: nullcontext(FaultyExecutor(fails_to_submit=False)))
    tasks = batch.tasks_for(copies(tmp_path, "a.t7", "b.t7"), tmp_path / "out", ".pt")
    outcomes = list(batch.run(tasks, jobs=2))
    assert [o.message for o in outcomes] == ["the executor failed: ValueError: no result"] * 2


def test_a_worker_that_dies_is_reported(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    tasks = batch.tasks_for(copies(tmp_path, "a.t7", "b.t7"), tmp_path / "out", ".pt")
    outcomes = list(batch.run(tasks, jobs=2, plugins=(plugin,)))
    assert [o.status for o in outcomes] == ["failed", "failed"]
    assert "worker" in outcomes[0].message


@pytest.mark.usefixtures("forked_workers")
def test_only_the_file_is_lost_that_kills_its_worker(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import ctypes\nfrom dpnn_bridge.files import converting\n"
        "local_file = converting.local_file\n"
        "def dies(origin, *args):\n"
        "    if 'bad' in str(origin):\n        ctypes.string_at(0)\n"  # SIGKILL is in the test above
        "    return local_file(origin, *args)\n"
        "converting.local_file = dies\n"
    )
    names = [f"{i:02}.t7" for i in range(7)]
    names[3], names[4] = "bad1.t7", "bad2.t7"
    tasks = batch.tasks_for(copies(tmp_path, "0.t7", *names), tmp_path / "out", ".pt")
    outcomes = {o.task.source.stem: o for o in batch.run(tasks, jobs=2, plugins=(plugin,))}
    assert sorted(name for name, o in outcomes.items() if o.status == "failed") == ["bad1", "bad2"]
    assert len(outcomes) == 8
    assert outcomes["bad1"].exit_code == 1
    assert "a worker process died" in outcomes["bad1"].message
    assert len(list((tmp_path / "out").iterdir())) == 6


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no signal for a closed terminal")
def test_the_resource_tracker_outlives_a_closed_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker: Any = resource_tracker.ResourceTracker()
    monkeypatch.setattr(resource_tracker, "ensure_running", tracker.ensure_running)
    _start_resource_tracker()
    os.kill(tracker._pid, signal.SIGHUP)
    time.sleep(0.02)
    assert os.waitpid(tracker._pid, os.WNOHANG) == (0, 0)
    tracker._stop()
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.usefixtures("forked_workers")
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no signal for a closed terminal")
def test_workers_leave_the_signals_of_a_terminal_to_their_parent() -> None:
    with workers(1) as pool:
        assert list(pool.map(signal.getsignal, [signal.SIGINT, signal.SIGHUP])) == [signal.SIG_IGN] * 2


@pytest.mark.usefixtures("forked_workers")
def test_what_a_dead_worker_was_writing_is_gone(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import os\nfrom dpnn_bridge.outputs.formats import pt\n"
        "pt.Pt.verify = lambda self, module, path, job: os.abort() if 'bad' in str(path) else None\n"
    )
    tasks = batch.tasks_for(copies(tmp_path, "bad.t7", "good.t7"), tmp_path / "out", ".pt")
    statuses = {o.task.source.name: o.status for o in batch.run(tasks, jobs=2, plugins=(plugin,))}
    assert statuses.pop("bad.t7") == "failed"
    assert statuses in ({"good.t7": "converted"}, {"good.t7": "skipped"})  # skipped: its result was lost, not the file
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.pt"]


def test_an_interruption_leaves_no_temporary_files(tmp_path: Path) -> None:
    plugin = tmp_path / "slow.py"  # holds every conversion between writing and comparing
    plugin.write_text(
        "import time\nfrom dpnn_bridge.outputs.formats import pt\nt = pt.Pt\n"
        "verify = t.verify\n"
        "def slow(*args):\n    time.sleep(60)\n    verify(*args)\n"
        "t.verify = slow\n"
    )
    sources = copies(tmp_path, "a.t7", "b.t7", "c.t7", "d.t7")
    out = tmp_path / "out"
    command = [
        "-m",
        "dpnn_bridge",
        "convert",
        *map(str, sources),
        "--out-dir",
        str(out),
        "--jobs",
        "2",
        "--plugin",
        str(plugin),
    ]
    root = str(Path(dpnn_bridge.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, *command],
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": root},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while len(list(out.glob(".*"))) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(list(out.glob(".*"))) == 2
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) != 0
    assert list(out.glob("*")) == []


def test_no_module_of_a_folder_is_run(tmp_path: Path) -> None:
    """The working folder, which is that of the checkpoints and of the outputs too, may hold files from strangers."""
    libraries = ("torch", "numpy", "click", "jinja2", "rich", "zlib_ng", "lupa", "safetensors", "fsspec", "dpnn_bridge")
    also = ("sitecustomize", "usercustomize", "conftest", "dpnn_plugin", "a")
    copies(tmp_path, "a.t7", "b.t7")
    marker = tmp_path / "marker"
    for name in (*sys.stdlib_module_names, *libraries, *also):
        (tmp_path / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name!r})\n")
    jobs = ["--jobs", "2"] if sys.version_info >= (3, 11) else []  # Python 3.10 cannot leave the folder out
    command = [Path(sys.executable).with_name("dpnn-convert"), "a.t7", "b.t7", "--out-dir", ".", "--to", "py", *jobs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not marker.exists(), marker.read_text()
    assert "a.py exists and is not known to be the result of this input with these options" in done.stderr
    assert (done.returncode, (tmp_path / "b.py").stat().st_size > 1000) == (6, True)


def test_a_key_is_for_each_of_many_files(tmp_path: Path) -> None:
    table = tmp_path / "a.t7"
    write_t7(table, LuaTable({"x": read_t7(MODEL), "y": LuaTable({"z": read_t7(MODEL)})}))
    arguments = [str(table), "--out-dir", str(tmp_path / "out"), "--key", "y.z", "--json"]
    result = CliRunner().invoke(convert_command, arguments)
    assert (result.exit_code, json.loads(result.stdout)[0]["key"]) == (0, "y.z")


def test_a_folder_of_outputs_that_failed_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "bad.t7").write_bytes(b"\x04\x00\x00\x00")
    arguments = [str(tmp_path / "bad.t7"), "--out-dir", str(tmp_path / "new" / "out")]
    assert CliRunner().invoke(convert_command, arguments).exit_code == 3
    assert [p.name for p in tmp_path.iterdir()] == ["bad.t7"]
