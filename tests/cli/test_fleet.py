"""Thousands of files: other executors, Dask with a worker that dies, files in stores, manifests."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge import batch
from dpnn_bridge.base import remote
from dpnn_bridge.batch import executors, running
from dpnn_bridge.batch.manifest import Manifest, last_lines
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.terminal import executor_of
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import MissingFileError, OutputError, OutputExistsError, T7Error, T7Warning, VerificationError
from dpnn_bridge.files.converting import is_converted
from dpnn_bridge.outputs.formats.pt import Pt

MODEL = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"


def copies(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy(MODEL, folder / f"{i}.t7")) for i in range(count)]


def run(command: Any, *arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


# ---------------------------------------------------------------------- executors
def test_threads_convert(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from torch import nn\nfrom dpnn_bridge import lua_class\n@lua_class('x.Y')\nclass Y(nn.Module):\n    pass"
    )
    tasks = batch.tasks_for(copies(tmp_path / "in", 8), tmp_path / "out", ".pt")
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(batch.run(tasks, executor=pool, plugins=(plugin,)))
    assert [(o.status, o.message) for o in outcomes] == [("converted", "")] * 8
    assert all(is_converted(t.source, t.target) for t in tasks)
    first = dpnn_bridge.load(tasks[0].target)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), dpnn_bridge.load(MODEL).parameters(), strict=True))


class Broken(Executor):
    """Loses every call, as a cluster does whose workers die again and again."""

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(ConnectionError("no worker is left"))
        return future


def test_what_an_executor_loses_is_a_failure_of_its_own(tmp_path: Path) -> None:
    tasks = batch.tasks_for(copies(tmp_path / "in", 2), tmp_path / "out", ".pt")
    outcomes = list(batch.run(tasks, executor=Broken()))
    assert [o.status for o in outcomes] == ["failed", "failed"]
    assert "no worker is left" in outcomes[0].message
    assert {o.task.source for o in outcomes} == {t.source for t in tasks}


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="optional extra is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


#: ends the first process that comes so far, with a file half written
FATAL = """
import os, signal
from pathlib import Path
from dpnn_bridge.outputs.formats.pt import Pt

verify = Pt.verify

def fatal(self, module, path, job):
    try:
        os.close(os.open({marker!r}, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return verify(self, module, path, job)
    os.kill(os.getpid(), signal.SIGKILL)

Pt.verify = fatal
"""


def test_a_fleet_that_loses_a_worker_finishes(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies(tmp_path / "in", 12)
    (tmp_path / "fatal.py").write_text(FATAL.format(marker=str(tmp_path / "killed")))
    monkeypatch.chdir(tmp_path)  # of which the workers know nothing
    sources = [f"in/{i}.t7" for i in range(12)]
    options = ("--out-dir", "out", "--dask", scheduler, "--manifest", "done.jsonl", "--plugin", "fatal.py")
    code, out, err = run(convert_command, *sources, *options)
    assert (code, err, (tmp_path / "killed").exists()) == (0, "", True), out
    assert sorted(p.name for p in Path("out").iterdir()) == sorted(f"{i}.pt" for i in range(12))
    monkeypatch.setattr(Pt, "verify", Pt.verify)  # restores what the plugin replaces
    assert all(is_converted(MODEL, p, plugins=["fatal.py"]) for p in Path("out").iterdir())
    lines = last_lines(Path("done.jsonl"))
    assert {(line["verdict"], line["message"]) for line in lines.values()} == {("equal", "")}
    code, out, _ = run(verify_command, "done.jsonl", "--dask", scheduler)
    assert (code, out) == (0, "12 files: 12 equal\n")


def test_workers_that_lack_the_package_say_so(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="optional extra is not installed")
    hidden = "import sys; sys.modules['dpnn_bridge'] = None"
    worker = {"cls": distributed.Nanny, "options": {"nthreads": 1, "preload": [hidden]}}
    with distributed.SpecCluster(
        workers={0: worker},
        scheduler={"cls": distributed.Scheduler, "options": {"port": 0, "dashboard": False, "dashboard_address": ":0"}},
        silence_logs=50,
    ) as cluster:
        code, _, err = run(convert_command, MODEL, "--out-dir", tmp_path / "o", "--dask", cluster.scheduler_address)
    assert (code, "a worker lacks a package" in err, "on the workers" in err) == (1, True, True)


def test_a_scheduler_that_ends_ends_its_calls(tmp_path: Path) -> None:
    """Those that are done are done, the others are failures."""
    dask = pytest.importorskip("dask", reason="optional extra is not installed")
    distributed = pytest.importorskip("distributed", reason="optional extra is not installed")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, silence_logs=50
        ) as cluster,
        executors.dask_executor(cluster.scheduler_address) as executor,
    ):
        assert executor.submit(pow, 2, 3).result(30) == 8
        cluster.scale(0)  # a worker with work would be waited for
        while cluster.scheduler.workers:
            time.sleep(0.01)
        waiting = executor.submit(pow, 2, 3)
        cluster.close()
        with pytest.raises(ConnectionError, match="the Dask scheduler has ended"):
            waiting.result(60)


def test_commands_print_no_log_messages_of_dask() -> None:
    """Its client logs a traceback if the scheduler ends."""
    distributed = pytest.importorskip("distributed", reason="optional extra is not installed")
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    client = logging.getLogger("distributed.client")
    client.addHandler(handler)
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None, silence_logs=50) as cluster,
        executor_of(cluster.scheduler_address),
    ):
        client.critical("within the command")
    client.critical("after it")
    client.removeHandler(handler)
    assert logged == ["after it"]


def test_a_scheduler_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dask = pytest.importorskip("dask", reason="optional extra is not installed")
    pytest.importorskip("distributed", reason="optional extra is not installed")
    (source,) = copies(tmp_path, 1)
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        code, _, err = run(convert_command, source, "--out-dir", tmp_path / "out", "--dask", "tcp://127.0.0.1:9")
    assert (code, "no Dask scheduler answers at tcp://127.0.0.1:9" in err) == (2, True)


@pytest.mark.parametrize("address", [None, "head", "tcp://a:b:c", "file://scheduler.json"])
def test_another_program_or_a_wrong_address_is_one_line(address: str | None, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="optional extra is not installed")
    (source,) = copies(tmp_path, 1)
    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = address or f"tcp://127.0.0.1:{server.getsockname()[1]}"
        answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"HTTP/1.1 400 Bad Request"), daemon=True)
        answer.start()
        code, _, err = run(convert_command, source, "--out-dir", tmp_path / "out", "--dask", address)
        with socket.create_connection(server.getsockname()):
            answer.join()
    assert (code, err.startswith(f"error: no Dask scheduler answers at {address}: ")) == (2, True)
    assert len(err.splitlines()) == 1
    assert threading.active_count() <= threads  # a thread of Dask would print a traceback at exit


# ---------------------------------------------------------------------- stores
@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty folder."""
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    if request.param == "file":
        yield f"file://{tmp_path}/store"
    elif request.param == "memory":
        yield "memory://zoo/store"
        fsspec.filesystem("memory").rm("/zoo", recursive=True)
    else:
        pytest.importorskip("s3fs", reason="optional extra is not installed")
        server = pytest.importorskip("moto.server", reason="optional extra is not installed")
        running = server.ThreadedMotoServer(port=0, verbose=False)
        running.start()
        host, port = running.get_host_and_port()
        settings = {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s", "ENDPOINT_URL": f"http://{host}:{port}"}
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        bucket = f"zoo-{uuid.uuid4()}"  # moto keeps what it holds
        type(fsspec.filesystem("s3")).clear_instance_cache()  # of the server before
        fsspec.filesystem("s3").mkdir(bucket)
        yield f"s3://{bucket}/store"
        running.stop()


def put(url: str, data: bytes) -> None:
    import fsspec

    files, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    if files.root_marker:
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
    with files.open(path, "wb") as file:
        file.write(data)


def names(url: str) -> list[str]:
    """What lies below a folder."""
    import fsspec

    files, path = fsspec.core.url_to_fs(url, skip_instance_cache=True)
    return sorted(name.partition("store/")[2] for name in files.find(path))


def test_sources_and_targets_in_a_store(store: str, tmp_path: Path) -> None:
    for name in ("in/a.t7", "in/b/c.t7"):
        put(f"{store}/{name}", MODEL.read_bytes())
    manifest = tmp_path / "done.jsonl"
    command = (f"{store}/in/**/*.t7", "--out-dir", f"{store}/out", "--manifest", manifest)
    code, out, err = run(convert_command, *command, "--json")
    assert code == 0, err
    assert [row["status"] for row in json.loads(out)] == ["converted", "converted"]
    assert names(store) == ["in/a.t7", "in/b/c.t7", "out/a.pt", "out/b/c.pt"]
    assert isinstance(dpnn_bridge.load(f"{store}/out/b/c.pt"), torch.nn.Sequential)
    assert run(verify_command, manifest, "--trust-manifest")[:2] == (0, "2 files: 2 equal\n")
    assert [row["status"] for row in json.loads(run(convert_command, *command, "--json")[1])] == ["skipped"] * 2

    put(f"{store}/out/a.pt", MODEL.read_bytes()[:100])
    code, _, err = run(verify_command, manifest, "--trust-manifest")
    assert (code, "has changed since the conversion" in err) == (4, True)
    code, _, err = run(convert_command, *command)
    assert (code, "is not known to be the result of this input with these options" in err) == (6, True)
    assert run(convert_command, *command, "--force")[0] == run(verify_command, manifest, "--trust-manifest")[0] == 0


def test_one_file_to_a_store(store: str) -> None:
    target = f"{store}/one/m.safetensors"
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    if store.startswith("file://"):
        Path(store.removeprefix("file://"), "one").mkdir(parents=True)
    assert run(convert_command, MODEL, target)[0] == 0
    assert names(store) == ["one/m.safetensors"]
    code, _, err = run(convert_command, MODEL, target)
    assert (code, "exists; use --force" in err) == (6, True)
    code, out, _ = run(convert_command, MODEL, target, "--force", "--json")
    assert (code, json.loads(out)["metadata"]["parameters"]) == (0, 165_866 + 3640)


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    yield fsspec.filesystem("memory")
    fsspec.filesystem("memory").store.clear()


def test_a_shard_that_a_store_lost_is_not_done(memory: Any, tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    shards = ("--to", "safetensors", "--max-shard-size", "300KB")
    command = (MODEL, "--out-dir", "memory://zoo/out", *shards, "--manifest", tmp_path / "done.jsonl")
    assert run(convert_command, *command)[0] == run(convert_command, *command)[0] == 0
    memory.rm(next(name for name in memory.find("/zoo/out") if "-00002-of-00003" in name))
    code, _, err = run(convert_command, *command)
    assert (code, "exists and is not known to be the result of this input with these options; use --force" in err) == (
        6,
        True,
    )


def test_what_ends_while_it_is_sent_is_not_there(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFile

    written = MemoryFile.write

    def failing(self: Any, data: Any) -> int:
        written(self, data[:100])
        raise ConnectionResetError("the line is cut")

    monkeypatch.setattr(MemoryFile, "write", failing)
    with pytest.raises(OutputError, match=r"cannot write memory://zoo/m\.pt: ConnectionResetError: the line is cut"):
        dpnn_bridge.convert(MODEL, "memory://zoo/m.pt")
    assert not memory.exists("memory://zoo/m.pt")


def test_what_a_store_spoils_is_noticed(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFile

    written = MemoryFile.write
    monkeypatch.setattr(MemoryFile, "write", lambda self, data: written(self, bytes(data)[:-1] + b"\0\0"))
    with pytest.raises(VerificationError, match="differs after reading back"):
        dpnn_bridge.convert(MODEL, "memory://zoo/m.pt")
    assert not memory.exists("memory://zoo/m.pt")


def test_what_was_sent_is_not_read_back_from_a_cache(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, calls = type(memory), list[str]()
    opened, forgot = kind.open, kind.invalidate_cache

    def opens(self: Any, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        calls.append(mode)
        return opened(self, path, mode, **kwargs)

    def forgets(self: Any, path: str | None = None) -> None:
        calls.append("forgets")
        forgot(self, path)

    monkeypatch.setattr(kind, "open", opens)
    monkeypatch.setattr(kind, "invalidate_cache", forgets)
    dpnn_bridge.convert(MODEL, "memory://zoo/m.pt")
    assert "wb" in calls[:-2]
    assert calls[-2:] == ["forgets", "rb"]


@pytest.mark.parametrize("mode", ["wb", "rb"])
def test_a_store_that_answers_500_keeps_a_whole_set(
    mode: str, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, calls, fails = type(memory).open, 0, 0

    def failing(self: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += mode in (*args, *kwargs.values())
        if mode in (*args, *kwargs.values()) and calls == fails:
            raise OSError("Internal Server Error (500)")
        return opened(self, path, *args, **kwargs)

    monkeypatch.setattr(type(memory), "open", failing)
    for name in ("old", "new"):
        dpnn_bridge.save(tmp_path / f"{name}.t7", torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)))
    old = dpnn_bridge.load(tmp_path / "old.t7").state_dict()
    target, shards = "memory://zoo/m.safetensors", {"max_shard_size": "40B"}
    dpnn_bridge.convert(tmp_path / "old.t7", target, **shards)
    before = set(memory.find("/zoo"))
    for number in range(1, len(before) + 1):
        calls, fails = 0, number
        with pytest.raises(OutputError, match=r"cannot (write .*|be read back): OSError: Internal Server Error"):
            dpnn_bridge.convert(tmp_path / "new.t7", target, force=True, **shards)
        fails = 0
        found = dpnn_bridge.load(f"{target}.index.json").state_dict()
        if number < len(before):
            assert set(memory.find("/zoo")) == before
        if number < len(before) or mode == "wb":
            assert all(torch.equal(found[name], value) for name, value in old.items())


def test_names_in_a_store_do_not_leave_the_folder(memory: Any, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="outside of"):
        batch.tasks_for(["s3://zoo/a/x.t7", "s3://zoo/a/b/../../../../etc/x.t7"], tmp_path, ".pt")
    with pytest.raises(OutputExistsError, match="would both be written"):
        batch.tasks_for(["s3://zoo/x.t7", "s3://zoo/x.net"], "s3://zoo/out", ".pt")
    with pytest.raises(MissingFileError, match="no file matches"):
        batch.tasks_for(["memory://zoo/*.t7"], tmp_path, ".pt")
    with pytest.raises(
        T7Error, match=r"nowhere://zoo/\*\.t7: its files cannot be listed: ValueError: Protocol not known"
    ):
        batch.tasks_for(["nowhere://zoo/*.t7"], tmp_path, ".pt")


#: letters that mean something in a URL, a pattern, or a file name elsewhere
NAMES = (
    "what?.t7",
    "what?2.t7",
    "hash#1.t7",
    "per%20cent.t7",
    "per cent.t7",
    "100%.t7",
    "[2016]/br[ack].t7",
    "ü/☃+&=.t7",
)


def test_any_name_in_a_store(store: str, tmp_path: Path) -> None:
    for name in NAMES:
        put(f"{store}/in/{name}", MODEL.read_bytes())
    command = ("--out-dir", f"{store}/out", "--manifest", tmp_path / "done.jsonl")
    code, _, err = run(convert_command, f"{store}/in/**", *command)
    assert (code, err) == (0, "")
    assert names(f"{store}/out") == sorted(f"out/{name[:-3]}.pt" for name in NAMES)
    verified = run(verify_command, tmp_path / "done.jsonl", "--trust-manifest")
    assert verified[:2] == (0, f"{len(NAMES)} files: {len(NAMES)} equal\n")
    code, out, _ = run(
        convert_command, f"{store}/in/[2016]/*.t7", *command, "--json"
    )  # and nothing else than * is a pattern
    assert (code, [row["status"] for row in json.loads(out)]) == (0, ["converted"])


# ---------------------------------------------------------------------- manifests
def test_a_manifest_tells_what_became_of_every_file(tmp_path: Path) -> None:
    sources = copies(tmp_path / "in", 2)
    data, bad = tmp_path / "in" / "data.t7", tmp_path / "in" / "bad.t7"
    dpnn_bridge.write_t7(data, {"mean": torch.ones(3)})
    bad.write_bytes(MODEL.read_bytes()[:5000])
    manifest = tmp_path / "done.jsonl"
    command = (*sources, data, bad, "--out-dir", tmp_path / "out", "--to", "npz", "--manifest", manifest)
    assert run(convert_command, *command)[0] == 3
    lines = {Path(target).name: line for target, line in last_lines(manifest).items()}
    assert {name: line["verdict"] for name, line in lines.items()} == {
        "0.npz": "equal",
        "1.npz": "equal",
        "data.npz": "equal",
        "bad.npz": "failed",
    }
    assert all(line["seconds"] > 0 and os.path.isabs(line["source"]) for line in lines.values())
    code, out, err = run(verify_command, manifest, "--json")
    report = json.loads(out)
    assert (code, report["verdicts"], report["ok"]) == (4, {"equal": 3, "failed": 1}, False)

    count = len(manifest.read_text().splitlines())
    bad.write_bytes(MODEL.read_bytes())  # mended: only this one is converted
    code, out, _ = run(convert_command, *command, "--json")
    assert [row["status"] for row in json.loads(out)] == ["skipped"] * 3 + ["converted"]
    assert len(manifest.read_text().splitlines()) == count + 1
    assert run(verify_command, manifest)[:2] == (0, "4 files: 4 equal\n")

    (tmp_path / "out" / "0.npz").unlink()
    shutil.copy(tmp_path / "out" / "data.npz", tmp_path / "out" / "1.npz")
    code, out, err = run(verify_command, manifest)
    assert (code, out) == (4, "4 files: 1 different, 2 equal, 1 missing\n")
    assert "0.npz is missing" in err
    assert "1.npz has changed since the conversion" in err


def test_a_flipped_bit_is_not_done(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    (source,) = copies(tmp_path, 1)
    command = (source, "--out-dir", tmp_path, "--to", "safetensors", "--manifest", tmp_path / "done.jsonl")
    assert run(convert_command, *command)[0] == 0
    target = tmp_path / "0.safetensors"
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    assert run(convert_command, *command)[0] == 6


def test_a_line_that_a_killed_program_left_half_written(tmp_path: Path) -> None:
    path = tmp_path / "done.jsonl"
    whole = {"source": "/a.t7", "target": "/a.pt", "verdict": "equal"}
    Manifest(path).add(whole)
    with open(path, "a") as file:
        file.write('{"source": "/b.t7", "tar')
    with pytest.warns(T7Warning, match="line 2 is incomplete and ignored; run the conversion again"):
        assert list(last_lines(path)) == ["/a.pt"]
    Manifest(path).add(whole | {"target": "/c.pt"})
    with pytest.warns(T7Warning, match="line 2 is"):
        assert list(last_lines(path)) == ["/a.pt", "/c.pt"]
    line = json.dumps(whole | {"target": "/d.pt"}).encode() + b"\n"
    cut = (b'{"source": "/b.t7", "tar', b'{"source"', b"{", b'{"source"{"source": "/{b}', b'{"source": {"b": 1}')
    for before in (*cut, b"\0" * 512, b"\0" * 512 + b"\n"):
        expected = pytest.warns(T7Warning, match="line 2 is") if before in cut else nullcontext()
        path.write_bytes(line.replace(b"d.pt", b"c.pt") + before + line)  # as `cat` does, and a machine that crashed
        with expected:
            assert list(last_lines(path)) == ["/c.pt", "/d.pt"]
        path.write_bytes(line + before)
        with expected:
            assert list(last_lines(path)) == ["/d.pt"]
    path.write_bytes(line.replace(b"d.pt", b"c.pt").strip() + line)  # only the end of the line is missing
    assert list(last_lines(path)) == ["/c.pt", "/d.pt"]
    path.write_bytes(line.replace(b"d.pt", b"c.pt").strip() + line.strip()[:-9])
    with pytest.warns(T7Warning, match="line 1 is"):
        assert list(last_lines(path)) == ["/c.pt"]
    for text in (b"nonsense\n", b"\0\xff\n", b'{"a": 1}{"source": 1}\n'):
        path.write_bytes(text)
        code, _, err = run(verify_command, path)
        assert (code, f"{path}: line 1 is not a manifest line" in err, "remove the line" in err) == (3, True, True)
    path.write_bytes(b"")
    assert run(verify_command, path)[:2] == (0, "0 files: nothing was converted\n")


def test_a_manifest_that_cannot_be_written(tmp_path: Path) -> None:
    """It stands on this machine: a store's files do not grow."""
    manifest = Manifest(tmp_path / "full")
    manifest.path.symlink_to("/dev/full")
    manifest._file = "/dev/full"  # a link is not followed if it appears later
    with pytest.raises(OutputError, match=r"cannot write the manifest .*full: No space left .*; solve this and run"):
        manifest.add({"source": "/a.t7", "target": "/a.pt", "verdict": "equal"})
    options = (*copies(tmp_path / "in", 1), "--out-dir", tmp_path / "out")
    (tmp_path / "circle").symlink_to("circle")
    for impossible in ("circle", "x" * 300):
        code, _, err = run(convert_command, *options, "--manifest", tmp_path / impossible, "--force")
        assert (code, "error: cannot write the manifest" in err, "solve this and run" in err) == (6, True, True), err
    shutil.rmtree(tmp_path / "out")
    code, _, err = run(convert_command, *options, "--manifest", "s3://zoo/done.jsonl")
    assert (code, "lines are appended to a manifest" in err, (tmp_path / "out").exists()) == (2, True, False)
    code, _, err = run(convert_command, *options, "--manifest", f"file://{tmp_path}/done.jsonl")
    assert (code, (tmp_path / "done.jsonl").exists()) == (0, True)


def test_what_was_made_with_other_options_is_not_done(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    command = (MODEL, "--out-dir", tmp_path, "--to", "safetensors", "--manifest", tmp_path / "done.jsonl")
    assert run(convert_command, *command, "--max-shard-size", "300KB")[0] == 0
    assert run(convert_command, *command, "--max-shard-size", "300KB")[0] == 0
    assert run(convert_command, *command, "--max-shard-size", "100KB")[0] == 6


def test_options_for_many_files_are_for_many_files(tmp_path: Path) -> None:
    assert run(convert_command, MODEL, tmp_path / "m.pt", "--manifest", tmp_path / "done.jsonl")[0] == 2
    assert run(verify_command, MODEL, "--jobs", 2)[0] == 2


def test_a_file_system_is_made_once_for_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec", reason="optional extra is not installed")
    (tmp_path / "x").write_bytes(b"content")
    made, real = [], remote._store
    monkeypatch.setattr(remote, "_own", threading.local())
    monkeypatch.setattr(remote, "_store", lambda url, **own: (made.append(url) if own else None, real(url, **own))[1])
    for i in range(5):
        remote.upload(tmp_path / "x", f"memory://once/{i}")
    assert made == ["memory://once/0"]
    assert fsspec.filesystem("memory").cat("/once/4") == b"content"


def test_how_often_a_store_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time of small files goes into requests."""
    pytest.importorskip("fsspec", reason="optional extra is not installed")
    asked, real = [], remote.url_exists
    monkeypatch.setattr(remote, "url_exists", lambda url: asked.append(url) or real(url))
    monkeypatch.setattr(running, "url_exists", remote.url_exists)
    (outcome,) = batch.run(batch.tasks_for([MODEL], f"memory://{uuid.uuid4()}", ".pt"))
    assert (outcome.status, len(asked)) == ("converted", 3)  # is it done, may it be written, is it still not there
