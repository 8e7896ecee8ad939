"""Outputs are complete or not there: faults of the disk, signals, several writers, things that must not be replaced."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from samples import SAMPLES
from torch import nn

import dpnn_bridge
from dpnn_bridge import batch
from dpnn_bridge.base import atomic
from dpnn_bridge.base.atomic import DeferredErrorFile, check_output, replacing, write_text
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.verify import verify_command
from dpnn_bridge.errors import OutputError, OutputExistsError, T7Error
from dpnn_bridge.files.converting import convert, is_converted
from dpnn_bridge.objects import LuaTable, LuaTensor
from dpnn_bridge.outputs.formats import format_of, suffixes

MODEL = SAMPLES / "torch-demos__mnist_convnet" / "model.t7"
REFERENCE = MODEL.with_name("ref.t7")
NEEDS = {".onnx": "onnxscript", ".safetensors": "safetensors"}
SUFFIXES = [s for s in suffixes() if s != ".json"]
ROOT = Path(dpnn_bridge.__file__).parents[1]


@pytest.fixture(params=SUFFIXES)
def suffix(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(NEEDS.get(request.param, "torch"), reason="optional extra is not installed")
    return request.param


def example_for(target: Path) -> dict[str, Any]:
    takes = "input" in format_of(target).options
    return {"input": torch.ones(1, 1, 32, 32)} if takes else {}


def write(source: Path, target: Path, **options: Any) -> None:
    convert(source, target, **example_for(target), **options)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(convert_command, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def started(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dpnn_bridge", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition: Callable[[], object], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


# ---------------------------------------------------------------------- the disk
FullDisk = Callable[[], AbstractContextManager[Path]]


@contextmanager
def limited_to(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size; not in a fixture, where pytest's own output would be limited too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def mounted_without_space(folder: Path) -> Iterator[None]:
    """A file system in memory on a folder, with no byte left."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        (folder / ".full").write_bytes(bytes(8192))
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["size", "tmpfs"])
def full_disk(request: pytest.FixtureRequest, tmp_path: Path) -> FullDisk:
    """A context in which no file of more than 256 bytes can be written to a folder."""
    folder = tmp_path / "disk"
    folder.mkdir()

    @contextmanager
    def full() -> Iterator[Path]:
        with limited_to(256) if request.param == "size" else mounted_without_space(folder):
            yield folder

    return full


def test_a_full_disk_is_one_error_and_nothing_is_left(suffix: str, full_disk: FullDisk) -> None:
    with full_disk() as folder:
        target = folder / f"m{suffix}"
        with pytest.raises(
            OutputError, match=rf"cannot write {re.escape(str(target))}: (No space left|File too large)"
        ):
            write(MODEL, target)
        assert [p.name for p in folder.iterdir() if p.name != ".full"] == []


def test_a_full_disk_is_one_line_of_the_command(full_disk: FullDisk) -> None:
    with full_disk() as folder:
        code, output = run(MODEL, folder / "m.pt")
    assert code == 6
    assert output.startswith("error: cannot write ")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("name", ["/proc/m.pt", "/dev/null/m.pt", "x" * 300 + ".pt", "x" * 300 + "/m.pt", "a\0b.pt"])
def test_a_place_where_nothing_can_be_written(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        convert(MODEL, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x" * 300 + ".pt", "x" * 300 + "/m.pt"])
def test_an_impossible_name_is_one_line_of_the_command(name: str, tmp_path: Path) -> None:
    code, output = run(MODEL, tmp_path / name)
    assert (code, len(output.splitlines())) == (6, 1)
    assert output.startswith("error: cannot write ")


def test_a_patient_file_reports_the_first_error_when_it_closes(full_disk: FullDisk) -> None:
    with full_disk() as folder:
        file = DeferredErrorFile(folder / "x")
        assert [file.write(b"a" * 9000) for _ in range(3)] == [9000] * 3
        with pytest.raises(OSError, match=r"No space left|File too large"):
            file.close()


# ---------------------------------------------------------------------- what is never replaced
@pytest.mark.parametrize("name", ["layer.lua", "LAYER.LUA"])  # on some file systems two names of one file
def test_no_lua_file_is_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("local x = 1")
    with pytest.raises(OutputError, match="is a Lua file, which is never replaced"):
        check_output(tmp_path / name, force=True)


def test_devices_pipes_and_folders_are_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "null.pt").symlink_to("/dev/null")
    for name, kind in {"pipe.pt": "a named pipe", "folder.pt": "a directory", "null.pt": "a device"}.items():
        code, output = run(MODEL, tmp_path / name, "--force")
        assert (code, kind in output) == (6, True)
        assert run(MODEL, tmp_path / "m.pt", "--report", tmp_path / name)[0] == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.pt", "null.pt", "pipe.pt"]
    assert stat.S_ISFIFO((tmp_path / "pipe.pt").stat().st_mode)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these folders")
@pytest.mark.parametrize("name", ["/dev/x.pt", "/dev/fd/{}", "/proc/self/fd/{}", "/sys/x.pt", "link/x", "link/fd/{}"])
def test_no_file_in_a_folder_of_the_system_is_replaced(name: str, tmp_path: Path) -> None:
    """/dev/stdout is a link too: to a regular file, if the output of the command is redirected to one."""
    (tmp_path / "link").symlink_to("/dev")
    with open(tmp_path / "page.html", "w") as page:
        name = name.format(page.fileno())
        with pytest.raises(OutputError, match="is a folder of the system"):
            check_output(tmp_path / name, True)


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_inputs_are_never_replaced(link: Callable[[Path, Path], None], tmp_path: Path) -> None:
    source, other = tmp_path / "m.t7", tmp_path / "other.t7"
    source.write_bytes(MODEL.read_bytes())
    link(other, source)
    plugin = tmp_path / "plugin.py"
    plugin.write_text("")
    assert run(source, other, "--force")[0] != 0
    assert run(source, plugin, "--force", "--plugin", plugin)[0] == 6
    assert run(source, tmp_path / "m.pt", "--report", other)[0] == 6
    assert run(source, tmp_path / "m.pt", "--report", plugin, "--plugin", plugin)[0] == 6
    html = CliRunner().invoke(verify_command, [str(MODEL), "--reference", str(REFERENCE), "--html", str(MODEL)])
    assert html.exit_code == 6
    assert source.read_bytes() == MODEL.read_bytes()
    assert not (tmp_path / "m.pt").exists()


def test_out_dir_of_the_inputs_does_not_overwrite_them(tmp_path: Path) -> None:
    for name in ("a.t7", "b.t7"):
        (tmp_path / name).write_bytes(MODEL.read_bytes())
    code, output = run(tmp_path / "a.t7", tmp_path / "b.t7", "--out-dir", tmp_path, "--to", "t7", "--force")
    assert (code, "is the input" in output) == (6, True)
    assert (tmp_path / "a.t7").read_bytes() == (tmp_path / "b.t7").read_bytes() == MODEL.read_bytes()


def test_links_of_a_cache_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "3f5a").write_bytes(MODEL.read_bytes())
    (tmp_path / "model.t7").symlink_to("blobs/3f5a")
    assert run(tmp_path / "model.t7", "--out-dir", tmp_path / "out")[0] == 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.pt"]


# ---------------------------------------------------------------------- modes, writers
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_the_mode_follows_the_umask(suffix: str, mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write(MODEL, tmp_path / f"m{suffix}")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / f"m{suffix}").stat().st_mode) == 0o666 & ~mask


def test_one_of_several_writers_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, put_all = threading.Barrier(8), atomic._move_all

    def put_together(*arguments: Any) -> None:
        together.wait(60)  # each has looked, and found nothing
        put_all(*arguments)

    monkeypatch.setattr(atomic, "_move_all", put_together)

    def attempt(n: int) -> str:
        try:
            with replacing(tmp_path / "x", force=False) as temporary:
                temporary.write_text(str(n) * 1000)
        except OutputExistsError:
            return ""
        return str(n)

    with ThreadPoolExecutor(8) as pool:
        winners = [w for w in pool.map(attempt, range(8)) if w]
    assert len(winners) == 1
    assert (tmp_path / "x").read_text() == winners[0] * 1000
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


FOLDERS = """
import sys
from pathlib import Path
from dpnn_bridge.base.folders import temporary_folder
for i in range(400):
    with temporary_folder(Path(sys.argv[1])) as folder:
        (folder / "x").touch()
"""


def test_programs_that_make_folders_in_one_place_leave_each_other_theirs(tmp_path: Path) -> None:
    programs = [
        subprocess.Popen([sys.executable, "-c", FOLDERS, tmp_path], env=os.environ | {"PYTHONPATH": str(ROOT)})
        for _ in range(4)
    ]
    assert [p.wait(60) for p in programs] == [0] * 4
    assert list(tmp_path.iterdir()) == []


def test_three_programs_write_one_file(tmp_path: Path) -> None:
    programs = [started("convert", MODEL, tmp_path / "m.pt") for _ in range(3)]
    assert sorted(p.wait(120) for p in programs) == [0, 6, 6]
    assert is_converted(MODEL, tmp_path / "m.pt")


# ---------------------------------------------------------------------- what counts as done
def test_done_is_what_is_whole_and_of_this_input(suffix: str, tmp_path: Path) -> None:
    target = tmp_path / f"m{suffix}"
    write(MODEL, target)
    other = tmp_path / "other.t7"
    model = dpnn_bridge.load(MODEL)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    dpnn_bridge.write_t7(other, model)
    example = example_for(target)
    assert is_converted(MODEL, target, **example)
    assert not is_converted(other, target, **example)
    if suffix not in (".pt", ".pth", ".t7"):  # these are compared with what the input gives
        assert not is_converted(MODEL, target, **example, allow_unsupported=True)
    whole = target.read_bytes()
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2]):
        target.write_bytes(damaged)
        assert not is_converted(MODEL, target, **example)


def test_an_open_file_is_compared_with_an_output(tmp_path: Path) -> None:
    pair = {"a": nn.Tanh(), "b": nn.Linear(1, 1)}
    dpnn_bridge.write_t7(tmp_path / "m.t7", LuaTable({k: dpnn_bridge.to_lua(m) for k, m in pair.items()}))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "a.pt", key="a", checksum=True)
    for key in pair:
        with open(tmp_path / "m.t7", "rb") as source:
            assert is_converted(source, tmp_path / "a.pt", key=key) is (key == "a")


@pytest.mark.parametrize("name", ["memory://x/", "m.pt/", "m.pt/.", ""])
def test_a_name_of_a_folder_is_no_output(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = "it names a folder; append the name of a file"
    with pytest.raises(OutputError, match=message):
        dpnn_bridge.save(name, nn.Tanh(), to="pt")
    with pytest.raises(OutputError, match=message):
        dpnn_bridge.write_t7(name, nn.Tanh())
    with pytest.raises(OutputError, match=message):
        dpnn_bridge.convert(MODEL, name, to="pt")
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_missing_in_a_store_is_not_converted() -> None:
    pytest.importorskip("fsspec", reason="optional extra is not installed")
    assert not is_converted(MODEL, "memory://missing/m.pt")


@pytest.mark.parametrize("how", ["replaced", "overwritten", "overwritten with the old time"])
@pytest.mark.parametrize(
    ("name", "checksum"),
    [("m.npz", False), ("m.pt", True), ("d.json", True), ("m.pt", False), ("out.t7", False), ("d.json", False)],
)
def test_an_input_that_changes_meanwhile_is_one_error(how: str, name: str, checksum: bool, tmp_path: Path) -> None:
    """The output could mix both inputs, or store the checksum of another input, so it would be taken for that one's."""
    files = tmp_path / "m.t7", tmp_path / "new.t7"
    for number, file in enumerate(files):
        weight = LuaTensor.from_numpy(torch.full((3,), float(number)).numpy())
        dpnn_bridge.write_t7(file, LuaTable({"a": weight}) if name[0] == "d" else torch.nn.Linear(2, 2))

    def change(step: str) -> None:
        if step.startswith("writing"):
            then = files[0].stat().st_mtime_ns
            files[1].replace(files[0]) if how == "replaced" else files[0].write_bytes(files[1].read_bytes())
            if how.endswith("time"):
                os.utime(files[0], ns=(then, then))

    with pytest.raises(T7Error, match="changed while it was read"):
        convert(files[0], tmp_path / name, checksum=checksum, progress=change)
    assert not (tmp_path / name).exists()
    convert(files[0], tmp_path / name, checksum=checksum)


@pytest.mark.parametrize("name", ["d.json", "d.npz", "d.pt", "d.safetensors"])
def test_data_is_done_when_it_is_the_same_data(name: str, tmp_path: Path) -> None:
    if name == "d.safetensors":
        pytest.importorskip("safetensors")
    one, two = tmp_path / "one.t7", tmp_path / "two.t7"
    dpnn_bridge.write_t7(one, LuaTable({"a": 1.0, "b": LuaTensor.from_numpy(torch.ones(3).numpy())}))
    dpnn_bridge.write_t7(two, LuaTable({"a": 2.0, "b": LuaTensor.from_numpy(torch.zeros(3).numpy())}))
    convert(one, tmp_path / name)
    assert all(is_converted(one, tmp_path / name) for _ in range(6))  # metadata of .safetensors stand in any order
    assert not is_converted(two, tmp_path / name)


def test_a_present_python_file_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")
    assert not is_converted(MODEL, tmp_path / "m.py")
    assert not (tmp_path / "marker").exists()
    os.truncate(tmp_path / "m.py", 1 << 26)
    tracemalloc.start()
    try:
        assert format_of(Path("m.py")).origin(tmp_path / "m.py") is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_batch_names_present_files_that_are_something_else(tmp_path: Path) -> None:
    sources = [tmp_path / n for n in ("a.t7", "b.t7")]
    for source in sources:
        source.write_bytes(MODEL.read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.pt").touch()
    code, output = run(*sources, "--out-dir", out)
    assert (code, "exists and is not known to be the result of this input with these options" in output) == (6, True)
    assert ((out / "a.pt").stat().st_size, is_converted(sources[1], out / "b.pt")) == (0, True)
    assert run(*sources, "--out-dir", out, "--force")[0] == 0
    code, output = run(*sources, "--out-dir", out)
    assert (code, "2 files: 2 skipped" in output) == (0, True)


# ---------------------------------------------------------------------- names of several models
def test_every_model_of_a_file_gets_a_name_of_its_own(tmp_path: Path) -> None:
    keys = ["a.b", "a/b", "A_b", "../../up", "x" * 300, "x" * 301, "\x1b[31m", "a b", "a'b", "a]b", 'a"b', ""]
    source = tmp_path / "in" / "many.t7"
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
    dpnn_bridge.write_t7(
        source,
        LuaTable(
            {**{k: dpnn_bridge.read_t7(MODEL) for k in keys[1:]}, "a": LuaTable({"b": dpnn_bridge.read_t7(MODEL)})}
        ),
    )
    code, output = run(source, tmp_path / "out" / "m.pt", "--all", "--json")
    assert code == 0, output
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert len({n.casefold() for n in names}) == len(names) == len(keys)
    assert all(n.startswith("m.") and n.endswith(".pt") and n.isprintable() for n in names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out"]


def test_a_model_of_a_long_key_is_written_in_shards(tmp_path: Path) -> None:
    """The names of shards are longer than that of their index."""
    pytest.importorskip("safetensors", reason="optional extra is not installed")
    (task,) = batch.tasks_for_models(MODEL, tmp_path / f"m{INDEX}", ["x" * 300])
    dpnn_bridge.save(task.target, nn.Linear(2, 2))
    assert max(len(p.name) for p in tmp_path.iterdir()) == 255


def test_two_forms_of_a_character_are_two_files(tmp_path: Path) -> None:
    """Also on a file system on which both are the same name."""
    tasks = batch.tasks_for_models(MODEL, tmp_path / "m.pt", ["\uac00", "\u1100\u1161"])
    assert len({unicodedata.normalize("NFC", str(task.target)) for task in tasks}) == 2


# ---------------------------------------------------------------------- signals
SLOW = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
from pathlib import Path
from typing import Any
from dpnn_bridge.base.atomic import replacing
with replacing(sys.argv[1], force=False) as temporary:
    temporary.write_text("half")
    Path(sys.argv[2]).touch()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing(number: int, tmp_path: Path) -> None:
    out, ready = tmp_path / "out", tmp_path / "ready"
    out.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, out / "x", ready], env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=-3
    )
    assert wait_for(ready.exists)
    process.send_signal(number)
    assert process.wait(20) != 0
    assert list(out.iterdir()) == []


def test_what_a_killed_program_left_goes_with_the_next_file(tmp_path: Path) -> None:
    out, ready = tmp_path / "out", tmp_path / "ready"
    out.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, out / "x", ready], env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=-3
    )
    assert wait_for(ready.exists)
    (held,) = out.iterdir()
    write_text(out / "first", "1", force=True)
    assert held.exists()  # its owner lives
    process.kill()
    process.wait(20)
    write_text(out / "second", "2", force=True)
    assert sorted(p.name for p in out.iterdir()) == ["first", "second"]


def test_many_files_in_one_folder_take_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at, real = 0, os.scandir

    def counting(path: Any) -> Any:
        nonlocal looked_at
        looked_at += len(os.listdir(path)) if path == tmp_path else 0
        return real(path)

    monkeypatch.setattr(os, "scandir", counting)
    for i in range(1000):
        (tmp_path / f"there{i}").touch()
    for i in range(200):
        write_text(tmp_path / f"new{i}", "", force=True)
    assert 0 < looked_at < 30_000
    monkeypatch.undo()
    (tmp_path / ".dpnn-0123456789abcdef").mkdir()
    for i in range(20):
        write_text(tmp_path / f"newer{i}", "", force=True)
    assert not (tmp_path / ".dpnn-0123456789abcdef").exists()


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    plugin = tmp_path / "slow.py"  # holds every conversion between writing and comparing
    plugin.write_text(
        f"import os, time\nfrom pathlib import Path\nfrom dpnn_bridge.outputs.formats import pt\n"
        f"def slow(*args):\n    Path({str(tmp_path)!r}, f'{{os.getpid()}}.pid').touch()\n    time.sleep(60)\n"
        "pt.Pt.verify = slow\n"
    )
    sources = [tmp_path / f"{n}.t7" for n in "abcd"]
    for source in sources:
        source.write_bytes(MODEL.read_bytes())

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    for number in (signal.SIGTERM, signal.SIGKILL):
        out = tmp_path / f"out{number}"
        process = started("convert", *sources, "--out-dir", out, "--jobs", 2, "--plugin", plugin)
        assert wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        workers = [int(p.stem) for p in tmp_path.glob("*.pid")]
        process.send_signal(number)
        assert process.wait(30) != 0
        if number == signal.SIGKILL:
            assert wait_for(lambda: not any(map(alive, workers)), 10)  # noqa: B023 - called here
        assert not any(map(alive, workers))
        assert list(out.glob("*")) == []
        for path in tmp_path.glob("*.pid"):
            path.unlink()


# ---------------------------------------------------------------------- folders
@pytest.mark.parametrize("report", [False, True])
def test_a_folder_that_is_not_there_is_not_made(report: bool, tmp_path: Path) -> None:
    names = (tmp_path / "m.pt", "--report", tmp_path / "no" / "such" / "m.json") if report else ()
    for arguments in (names,) if report else ((tmp_path / "no" / "m.pt",), (tmp_path / "no" / "m.pt", "--all")):
        code, output = run(MODEL, *arguments)
        assert (code, "does not exist" in output, "create it first" in output) == (6, True, True)
    with pytest.raises(OutputError, match="does not exist"):
        dpnn_bridge.save(tmp_path / "no" / "m.pt", dpnn_bridge.load(MODEL))
    assert list(tmp_path.iterdir()) == []
    assert run(MODEL, "--out-dir", tmp_path / "made" / "here")[0] == 0
