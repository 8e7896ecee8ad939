"""Faults of the disk while files are written: what is to be tried again is, and the rest is one error of the file."""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import re
import signal
import stat
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import dpnn_bridge
from dpnn_bridge.base import atomic, folders, reading, writing
from dpnn_bridge.base.atomic import DeferredErrorFile, check_output, imported_files, protecting, replacing
from dpnn_bridge.base.file_set import find_same
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.batch import manifest
from dpnn_bridge.batch.manifest import Manifest
from dpnn_bridge.errors import FileAccessError, OutputError, OutputExistsError, T7FormatError
from dpnn_bridge.outputs.formats import format_of, suffixes

NEEDS = {".onnx": "onnxscript", ".safetensors": "safetensors"}
SUFFIXES = [s for s in suffixes() if s != ".json"]


def save(path: Path) -> None:
    pytest.importorskip(NEEDS.get(path.suffix, "torch"), reason="optional extra is not installed")
    options: dict[str, Any] = {"input": torch.ones(2, 3)} if "input" in format_of(path).options else {}
    torch.manual_seed(0)
    dpnn_bridge.save(path, nn.Sequential(nn.Linear(3, 2), nn.Tanh()).eval(), **options)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[str]]:
    """Lets the first tries of everything that writes fail, so many of them; says which files were tried."""

    def install(number: int, count: int) -> list[str]:
        real, tries = reading.retry_eagain, []

        def faulty(act: Callable[[], Any], name: str) -> Any:
            failures = iter(range(count))

            def one() -> Any:
                tries.append(name)
                if next(failures, None) is None:
                    return act()
                if number == errno.EAGAIN:
                    return None  # as io.FileIO says it
                raise OSError(number, os.strerror(number))

            return real(one, name)

        for module in (writing, manifest):
            monkeypatch.setattr(module, "retry_eagain", faulty)
        return tries

    return install


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_the_system_asks_to_try_again_is_tried_again(suffix: str, tmp_path: Path, fault: Any) -> None:
    tries = fault(errno.EAGAIN, 2)
    save(tmp_path / f"m{suffix}")
    tried = [os.path.basename(name) for name in tries]
    assert tried.count(f"m{suffix}") >= 9, tries  # opened, written and moved, each at the third try
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(suffix)] == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_of_the_disk_names_the_file(suffix: str, number: int, tmp_path: Path, fault: Any) -> None:
    fault(number, 10**6)
    target = tmp_path / f"m{suffix}"
    with pytest.raises(OutputError, match=re.escape(f"cannot write {target}: {os.strerror(number)}")):
        save(target)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_never_answers_is_an_error(tmp_path: Path, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAUSES", (0.0, 0.0))
    tries = fault(errno.EAGAIN, 10**6)
    with pytest.raises(OutputError, match=r"m\.t7: Resource temporarily unavailable"):
        save(tmp_path / "m.t7")
    assert len(tries) == 3
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_an_installation_are_those_in_its_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those in a folder whose name begins with its name, or beside the folders of a virtual environment."""
    installed, library = f"{sysconfig.get_path('purelib')}/a.py", f"{sysconfig.get_path('stdlib')}/b.py"
    own = [f"{sys.prefix}/c.py", f"{sysconfig.get_path('stdlib')}-project/d.py"]
    for number, file in enumerate([installed, library, *own]):
        module = ModuleType(f"module{number}")
        module.__file__ = file
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = imported_files()
    assert set(own) <= set(found)
    assert not {installed, library} & set(found)


def test_an_imported_file_in_an_archive_is_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "own.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("module_of_an_archive.py", "")
    monkeypatch.syspath_prepend(archive)
    importlib.import_module("module_of_an_archive")
    with protecting(imported_files), pytest.raises(OutputError, match=r"is the input .*own\.zip"):
        check_output(archive, True)
    del sys.modules["module_of_an_archive"]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
@pytest.mark.parametrize("force", [True, False])
def test_a_move_is_tried_again(force: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "replace" if force else "link"
    real, failures = getattr(os, name), iter([1, 2])

    def busy(source: Any, target: Any) -> None:
        if next(failures, None):
            raise OSError(number, os.strerror(number), source, None, target)
        real(source, target)

    monkeypatch.setattr(os, name, busy)
    dpnn_bridge.save(tmp_path / "m.t7", nn.Tanh(), force=force)
    assert next(failures, None) is None
    assert isinstance(dpnn_bridge.load(tmp_path / "m.t7"), nn.Tanh)


def test_a_line_of_a_manifest_is_tried_again(tmp_path: Path, fault: Any) -> None:
    lines = Manifest(tmp_path / "done.jsonl")
    lines.add({"target": "m.pt"})
    tries = fault(errno.EAGAIN, 2)
    lines.add({"target": "n.pt"})
    assert len(tries) == 3
    assert (tmp_path / "done.jsonl").read_text() == '{"target": "m.pt"}\n{"target": "n.pt"}\n'


def test_a_full_disk_leaves_no_empty_manifest(tmp_path: Path, fault: Any) -> None:
    fault(errno.ENOSPC, 10**6)
    path = tmp_path / "done.jsonl"
    with pytest.raises(OutputError, match=re.escape(f"cannot write the manifest {path}: No space left on device")):
        Manifest(path).add({"target": "m.pt"})
    assert list(tmp_path.iterdir()) == []


def test_of_two_programs_that_create_a_manifest_both_add_their_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Manifest(tmp_path / "m.jsonl"), Manifest(tmp_path / "m.jsonl")
    real = manifest.write_file

    def late(path: Path, text: str) -> None:
        monkeypatch.setattr(manifest, "write_file", real)
        first.add({"target": "a.pt"})
        real(path, text)

    monkeypatch.setattr(manifest, "write_file", late)
    second.add({"target": "b.pt"})
    assert (tmp_path / "m.jsonl").read_text().splitlines() == ['{"target": "a.pt"}', '{"target": "b.pt"}']


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not open folders")
def test_a_folder_that_cannot_be_opened_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def fails(path: Any, *args: Any, **options: Any) -> int:
        if os.path.basename(path).startswith(".dpnn-") and not options:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path, *args, **options)

    monkeypatch.setattr(folders.os, "open", fails)
    with pytest.raises(OutputError, match="Input/output error"):
        dpnn_bridge.save(tmp_path / "m.t7", nn.Tanh())
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    assert not any(folder.parent == tmp_path for folder in folders._folders)


def test_a_folder_whose_entries_cannot_be_listed_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: object) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    folders.remove_abandoned(tmp_path)


def test_a_disk_error_of_an_abandoned_folder_is_none_of_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entry:  # of a file system that lists no types
        name, path = ".dpnn-0123456789abcdef", str(tmp_path / ".dpnn-0123456789abcdef")

        def is_dir(self, **options: object) -> bool:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.path)

    monkeypatch.setattr(os, "scandir", lambda path: [Entry()])
    folders.remove_abandoned(tmp_path)


def test_a_disk_error_of_the_folder_of_outputs_is_left_to_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.stat

    def fails(path: Any, **options: Any) -> os.stat_result:
        if os.fspath(path) == str(tmp_path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return real(path, **options)

    monkeypatch.setattr(os, "stat", fails)
    assert find_same([tmp_path / "a.pt", tmp_path / "b.pt"]) is None


def test_a_link_in_the_path_of_an_output_that_cannot_be_read_is_left_to_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Any) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os.path, "realpath", fails)
    assert find_same([tmp_path / "a.pt", tmp_path / "b.pt"]) is None
    assert find_same([tmp_path / "a.pt", tmp_path / "a.pt"]) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes")
def test_what_appears_while_a_file_is_written_is_not_replaced(tmp_path: Path) -> None:
    def write(path: Path, meanwhile: Callable[[Path], object]) -> None:
        with replacing(path, force=True) as temporary:
            temporary.write_text("new")
            meanwhile(path)

    def become_an_input(path: Path) -> None:
        path.write_text("old")
        inputs.append(path)

    inputs: list[Path] = []
    with pytest.raises(OutputError, match="is a named pipe"):
        write(tmp_path / "pipe", os.mkfifo)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(OutputError, match=r"is the input .*plugin\.py"), protecting(lambda: inputs):
        write(tmp_path / "plugin.py", become_an_input)
    assert (tmp_path / "plugin.py").read_text() == "old"


def test_an_output_is_compared_with_many_imported_files_without_their_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To resolve the paths of 1,000 files took 35 ms for each check of an output."""
    files, resolved = [tmp_path / f"{i}.py" for i in range(20)], []
    for file in [*files, tmp_path / "m.pt"]:
        file.touch()
    monkeypatch.setattr(os.path, "realpath", lambda path, of=os.path.realpath: (resolved.append(path), of(path))[1])
    with protecting(lambda: files):
        check_output(tmp_path / "m.pt", True)
        with pytest.raises(OutputError, match=r"is the input .*17\.py"):
            check_output(tmp_path / "17.py", True)
    assert len(resolved) < 5


def test_a_function_replaces_none_of_its_own_inputs(tmp_path: Path) -> None:
    dpnn_bridge.write_t7(tmp_path / "m.t7", nn.Tanh())
    (tmp_path / "link.t7").symlink_to(tmp_path / "m.t7")
    for name in ("m.t7", "link.t7"):
        with pytest.raises(OutputError, match=r"is the input .*m\.t7"):
            dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / name, force=True)


def test_a_folder_that_a_failing_disk_keeps_is_no_failure_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error said that nothing was written, although the file was there."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(folders.shutil, "rmtree", fail)
    atomic.write_text(tmp_path / "page", "text", force=True)
    assert (tmp_path / "page").read_text() == "text"


def test_an_error_of_reading_an_input_is_none_of_the_output(tmp_path: Path) -> None:
    """It said that the output cannot be written, with exit code 6."""
    error = OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / "in.t7"))

    def write(cause: OSError | None) -> None:
        with replacing(tmp_path / "page", force=True):
            if cause is None:
                raise error
            raise T7FormatError("damaged") from cause

    for cause, raised in ((None, OSError), (error, T7FormatError)):
        with pytest.raises(raised):
            write(cause)
    error.errno = errno.ENOSPC  # of a temporary file of a library
    with pytest.raises(OutputError, match="page"):
        write(error)


@pytest.mark.parametrize("cut", ['{"source": "a{1}', '{"source": "a", "target": "b', '{"source": "a"'])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_that_a_killed_program_cut_is_ignored(cut: str, end: str, tmp_path: Path) -> None:
    """A line that ends in a name with a brace was an error."""
    (tmp_path / "done.jsonl").write_text(cut + end, newline="")
    assert manifest.last_lines(tmp_path / "done.jsonl") == {}


def test_an_error_of_the_temporary_folder_does_not_name_it(tmp_path: Path) -> None:
    def write() -> None:
        with replacing(tmp_path / "page", force=True) as temporary:
            raise OutputError(f"{temporary.parent}: input/output error")

    with pytest.raises(OutputError, match=re.escape(f"{tmp_path}: input/output error")):
        write()


@pytest.mark.parametrize("step", ["create", "write"])
def test_an_error_of_the_folder_for_temporary_files_names_this_folder(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message was "cannot write /tmp/.dpnn-f22bdf6bc0d0dbb4/m.pt: No space left on device; nothing was written"."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def full(path: Any, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))

    monkeypatch.setattr(*((Path, "mkdir", full) if step == "create" else (writing, "_OutputFile", full)))
    with (
        pytest.raises(FileAccessError if step == "create" else OutputError) as raised,
        temporary_folder() as folder,
        replacing(folder / "m.pt", force=False) as temporary,
    ):
        writing.write_file(temporary, "text")
    assert str(raised.value) == (
        f"cannot use the folder for temporary files {tmp_path}: No space left on device; solve this, or select another "
        "folder with the environment variable TMPDIR"
    )


def test_an_error_of_writing_comes_before_one_of_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "full")

        def close(self) -> None:
            raise OSError(errno.EIO, "failing")

    monkeypatch.setattr(atomic, "open_output", lambda *_: Failing())
    file = DeferredErrorFile(tmp_path / "x")
    assert file.write(b"abc") == 3
    with pytest.raises(OSError, match="full"):
        file.close()


def test_a_link_to_a_missing_file_is_refused_before_the_output_is_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    with pytest.raises(OutputExistsError, match="is a link to a missing file"):
        check_output(tmp_path / "link", force=False)
    check_output(tmp_path / "link", force=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_nobody_else_sees_temporary_folders(tmp_path: Path) -> None:
    with folders.temporary_folder(tmp_path) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_goes_although_another_thread_writes_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's thread ends it while its main thread writes."""
    folder, rmdir, added = tmp_path / ".dpnn-0123456789abcdef", os.rmdir, iter(range(3))
    folder.mkdir()

    def remove(*args: Any, **options: Any) -> None:
        if (number := next(added, None)) is not None:
            (folder / str(number)).touch()
        rmdir(*args, **options)

    monkeypatch.setattr(os, "rmdir", remove)
    folders._delete(folder)
    assert not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other links")
def test_a_link_in_place_of_the_temporary_folder_replaces_no_file(tmp_path: Path) -> None:
    """In a folder without the sticky bit, others can rename the folder."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.pt").write_text("kept")
    with temporary_folder(tmp_path) as folder:
        folder.rename(tmp_path / "moved")
        folder.symlink_to(tmp_path / "theirs")
        with pytest.raises(FileExistsError):
            writing.open_output(folder / "a.pt")
    assert (tmp_path / "theirs" / "a.pt").read_text() == "kept"


@pytest.mark.skipif(sys.platform != "linux", reason="finds the folder through /proc")
@pytest.mark.parametrize("ended", [False, True])
def test_a_temporary_folder_goes_although_the_folder_above_it_was_renamed(ended: bool, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    with suppress(KeyboardInterrupt), temporary_folder(before) as folder:
        (folder / "file").touch()
        before.rename(after)
        assert os.listdir(after) == [folder.name]
        if ended:
            signal.raise_signal(signal.SIGINT)
    assert os.listdir(after) == []


def test_a_manifest_makes_the_folders_above_it(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "today" / "m.jsonl"
    Manifest(path).add({"target": "a.pt", "status": "done"})
    assert '"a.pt"' in path.read_text()


@pytest.mark.parametrize("asked", ["is_symlink", "is_dir"])
def test_an_output_whose_status_cannot_be_read_is_an_error_of_the_output(
    asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file's folder, or a link in its place, that could not be read was an error of exit code 1."""

    def fails(self: Path) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(self))

    monkeypatch.setattr(Path, asked, fails)
    with pytest.raises(OutputError, match=r"cannot write .*m\.pt: Input/output error; nothing was written"):
        check_output(tmp_path / "m.pt", False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of this kind")
@pytest.mark.parametrize("content", [["file"], []])
def test_a_folder_goes_although_the_process_may_open_no_more_files(content: list[str], tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    try:
        with temporary_folder(tmp_path) as folder:
            for name in content:
                (folder / name).touch()
            opened.append(os.open(os.devnull, os.O_RDONLY))
            resource.setrlimit(resource.RLIMIT_NOFILE, (opened[0] + 1, limits[1]))
            with suppress(OSError):
                while True:
                    opened.append(os.dup(opened[0]))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in opened:
            os.close(descriptor)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not open folders")
def test_a_deep_folder_of_another_program_stops_nobody(tmp_path: Path) -> None:
    """In a folder that others may write, such as /tmp, anybody can create a folder with such a name."""
    (tmp_path / f".dpnn-{'0' * 16}" / ("a/" * 200)).mkdir(parents=True)
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 150)
    try:
        with folders.temporary_folder(tmp_path) as own:
            assert own.is_dir()
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_a_temporary_folder_is_open_to_its_owner_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        with folders.temporary_folder(tmp_path) as own:
            assert own.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(before)


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are always followed here")
def test_a_manifest_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    """A link that stands there from the beginning is."""
    other, path = tmp_path / "other", tmp_path / "done.jsonl"
    path.symlink_to(tmp_path / "target.jsonl")
    manifest = Manifest(path)
    for name in ("a.pt", "b.pt"):
        manifest.add({"target": name})
    assert (tmp_path / "target.jsonl").read_text().count("\n") == 2
    other.write_text("words")
    (tmp_path / "target.jsonl").unlink()
    (tmp_path / "target.jsonl").symlink_to(other)
    with pytest.raises(OutputError, match="cannot write the manifest"):
        manifest.add({"target": "c.pt"})
    assert other.read_text() == "words"
