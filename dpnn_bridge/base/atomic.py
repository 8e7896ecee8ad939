"""Write files that appear complete or not at all, even if the program is killed.

A file is written in a hidden folder beside its destination (:mod:`dpnn_bridge.base.folders`) and moved to the
destination when the file is complete.
"""

from __future__ import annotations

import errno
import io
import os
import site
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from dpnn_bridge.base.boundary import as_package_error
from dpnn_bridge.base.display import counted
from dpnn_bridge.base.file_set import FileSet, StrPath, folded
from dpnn_bridge.base.folders import defer_signals, is_abandoned, temporary_folder
from dpnn_bridge.base.reading import causing_disk_error
from dpnn_bridge.base.remote import Location, beside, check_upload, location_of, remove_upload, upload, url_place
from dpnn_bridge.base.scoped import scoped
from dpnn_bridge.base.writing import WrittenBytes, move, open_output, write_file
from dpnn_bridge.errors import DpnnBridgeError, OutputError, OutputExistsError, T7Error, VerificationError

#: errno values of errors that only writing causes
_WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}

#: end of a message about the only output of a command
_NOTHING_WRITTEN = "; nothing was written"


# ---------------------------------------------------------------------- checks of an output path
#: folders of the system, and the beginning of the folders of the kernel: their links may lead to regular files, as
#: /dev/stdout does
_DEVICES, _KERNEL = ("/dev", "/proc", "/sys"), ("/proc/", "/sys/")
#: suffix of files that are never replaced, because running Lua code may `require` them
_LUA = ".lua"
Files = Iterable[StrPath] | FileSet
_protected: ContextVar[tuple[Callable[[], Files], ...]] = ContextVar("protected inputs", default=())


def protecting(inputs: Callable[[], Files]) -> AbstractContextManager[None]:
    """Refuse outputs that would replace an input, inside the ``with`` block.

    Args:
        inputs: Returns the input files; called when an output is checked.
    """
    return scoped(_protected, (*_protected.get(), inputs))


def imported_files() -> list[str]:
    """Return the files from which this process has imported modules, except those of Python and of installed packages.

    For a module in a zip archive, this is the archive.
    """
    files = list(map(_file_of, list(sys.modules.values())))
    return [file for file in files if isinstance(file, str) and not file.startswith(_installed())]


def _file_of(module: Any) -> Any:
    return getattr(getattr(module, "__loader__", None), "archive", None) or getattr(module, "__file__", None)


@cache
def _installed() -> tuple[str, ...]:
    """Return the folders of Python and of installed packages. ``sys.prefix`` may be the folder of a project."""
    folders = [os.path.dirname(os.__file__), *site.getsitepackages()]
    return tuple(os.path.join(folder, "") for folder in folders if folder != sys.prefix)  # which Windows lists too


def check_output(path: StrPath, force: bool, inputs: Files = ()) -> None:
    """Raise unless a file may be written to ``path``.

    Args:
        path: the output.
        force: whether an existing file may be replaced.
        inputs: input files, which are never replaced, in addition to the inputs of :func:`protecting`; of a URL, its
            :func:`~dpnn_bridge.base.remote.url_place`.

    Raises:
        OutputExistsError: a file exists and ``force`` is False.
        OutputError: the path is a directory, a device, a pipe or an input, which are never replaced; the folder is
            missing, temporary or of the system, such as ``/dev``; or the store of a URL cannot be reached.
    """
    path = _output_location(path)
    all_inputs = (inputs, *(protected() for protected in _protected.get()))
    if isinstance(path, str):
        place = url_place(path)
        if any(place in (files.urls if isinstance(files, FileSet) else files) for files in all_inputs):
            raise OutputError(f"{path} is an input, which is never replaced; choose another name")
        return check_upload(path, force)
    for folder in filter(is_abandoned, path.absolute().parents):
        reason = f"{folder} has the name of a temporary folder and will be removed"
        raise OutputError(f"cannot write {path}: {reason}; choose another folder")
    try:
        status, folder = _status(path, force), os.path.realpath(path.parent)
    except (OSError, ValueError) as e:
        raise _cannot_write(path, e) from e
    if status is not None and not stat.S_ISREG(status.st_mode):
        raise OutputError(f"{path} is {_file_type(status.st_mode)}, which is never replaced; choose another name")
    if folder in _DEVICES or folder.startswith(_KERNEL):
        raise OutputError(f"cannot write {path}: {folder} is a folder of the system; choose another folder")
    if status is None:
        return
    if folded(os.path.realpath(path)).endswith(_LUA):  # Z.LUA may be z.lua
        raise OutputError(f"{path} is a Lua file, which is never replaced; choose another name")
    for files in all_inputs:
        if (source := _same_file(files, path, status)) is not None:
            raise OutputError(f"{path} is the input {source}, which is never replaced; choose another name")
    if not force:
        raise OutputExistsError(f"{path} exists; use --force (force=True) to replace it")


def _same_file(files: Files, path: Path, status: os.stat_result) -> StrPath | None:
    """Return the file that is the existing output ``path`` under any name, or None."""
    if isinstance(files, FileSet):
        return files.find(path, status)
    for file in files:
        with suppress(OSError, ValueError):
            if os.path.samestat(status, os.stat(file)):
                return file
    return None


def _status(path: Path, force: bool) -> os.stat_result | None:
    """Return the status of an output, or None if the file is missing and its folder exists."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not force and path.is_symlink():
            raise OutputExistsError(f"{path} is a link to a missing file; choose another name") from None
        if not path.parent.is_dir():
            reason = f"the folder {path.parent} does not exist; create it first"
            if path.parent.exists():
                reason = f"{path.parent} is not a folder; choose another one"
            raise OutputError(f"cannot write {path}: {reason}") from None
        return None


def _output_location(path: StrPath) -> Location:
    if os.path.basename(path) in ("", "."):  # pathlib would remove the end of "model.pt/"
        raise OutputError(f"cannot write {os.fspath(path) or repr('')}: it names a folder; append the name of a file")
    return location_of(path)


def _file_type(mode: int) -> str:
    names = {stat.S_ISDIR: "a directory", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_type, name in names.items() if is_type(mode)), "a device")


def _cannot_write(path: Path, error: Exception) -> OutputError:
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return OutputError(f"cannot write {path}: {reason}{_NOTHING_WRITTEN}")


@contextmanager
def after_writing(*written: StrPath) -> Iterator[None]:
    """State in every error about another output of a command that the first outputs exist."""
    done = f"{' and '.join(map(str, written))} {'was' if len(written) == 1 else 'were'} written"
    try:
        yield
    except DpnnBridgeError as error:
        error.args = (f"{done}, but {str(error).removesuffix(_NOTHING_WRITTEN)}", *error.args[1:])
        raise
    except OSError as error:
        raise as_package_error(error, OutputError, f"{done}, but the files cannot be described") from error


# ---------------------------------------------------------------------- writing
@contextmanager
def replacing(
    path: StrPath,
    *,
    force: bool,
    inputs: Iterable[StrPath] = (),
    parts: Callable[[Path], list[Path]] | None = None,
) -> Iterator[Path]:
    """Yield a temporary path that is moved to ``path`` if the ``with`` block succeeds, and removed otherwise.

    Of several programs that write the same file without ``force``, one succeeds. The umask determines the mode of the
    file.

    Args:
        path: the file to write, or a URL: the file is written on this machine and then uploaded, see
            :func:`dpnn_bridge.base.remote.upload`.
        force: replace an existing file.
        inputs: files that are never replaced.
        parts: only if ``path`` is an index that lists other files: returns the files that an index lists. The block
            writes the new files, with new names, beside the temporary path. They are moved first, then the index, and
            then the files of the old index are removed. So ``path`` is always the old index or the new one.

    Raises:
        OutputError: as :func:`check_output`, or a disk error (full, read-only, …); nothing was written.
    """
    target, inputs = _output_location(path), tuple(inputs)
    if isinstance(target, Path):  # for a URL, only before the upload: a request takes as long as a small upload
        check_output(path, force, inputs)
    path = Path(tempfile.gettempdir(), target.rpartition("/")[2]) if isinstance(target, str) else target
    complete = of_input = False  # whether the block succeeded, and whether it failed to read another file
    try:
        with temporary_folder(path.parent) as folder:
            temporary = folder / path.name
            with naming(temporary, target):
                try:
                    yield temporary
                    complete = True
                    others = sorted(p for p in folder.iterdir() if parts and p != temporary)
                    check_output(target, force, inputs)
                    replaced = parts(target) if parts and isinstance(target, Path) else []
                    with nullcontext() if isinstance(target, str) else defer_signals():
                        _move_all([(file, beside(target, file.name)) for file in others], (temporary, target), force)
                        _discard(replaced, inputs)
                except Exception as error:
                    of_input = not complete and _is_of_input(_disk_error(error), folder, path)
                    raise
    except OutputError:
        raise
    except Exception as e:
        disk = _disk_error(e)
        if disk is None or of_input:
            raise
        raise _cannot_write(path, disk) from e


@contextmanager
def reading_back(path: StrPath) -> Iterator[None]:
    """Raise a VerificationError if a written file cannot be read, inside the ``with`` block that compares it.

    Args:
        path: the file, for the message.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, DpnnBridgeError) and not isinstance(error, T7Error):
            raise
        raise as_package_error(error, VerificationError, f"{path}: reading the written file back") from error


def write_text(path: StrPath, text: str, *, force: bool) -> None:
    """Write a text file completely or not at all.

    Args:
        path: the file to write.
        text: its content.
        force: replace an existing file.

    Raises:
        OutputError: the file cannot be written.
        VerificationError: the file differs after reading back.
    """
    with replacing(path, force=force) as temporary:
        write_file(temporary, text)


@contextmanager
def naming(temporary: Path, target: Location) -> Iterator[None]:
    """Replace the path of a file in a temporary folder by the output path in the message of an error."""
    try:
        yield
    except Exception as error:
        if error.args and isinstance(error.args[0], str):
            folder = str(temporary.parent)
            text = error.args[0].replace(str(temporary), str(target)).replace(f"{folder}{os.sep}", "")
            error.args = (text.replace(folder, str(temporary.parent.parent)), *error.args[1:])
        raise


def _move_all(others: list[tuple[Path, Location]], last: tuple[Path, Location], force: bool) -> None:
    """Move files to their destinations, or none of them.

    Args:
        others: files with new names, moved first.
        last: the file to move last. If its upload fails, the store may contain the file nevertheless, so the uploads
            of ``others`` are kept.
        force: whether ``last`` may replace an existing file.
    """
    moved: list[Location] = []
    try:
        for file, location in [*others, last]:
            if isinstance(location, str):
                moved.append(location)
                upload(file, location)
            else:
                _move_one(file, location, force and location == last[1])
                moved.append(location)
    except BaseException as error:
        left: list[Path] = []
        for location in moved:
            if isinstance(location, Path):
                try:
                    location.unlink(missing_ok=True)
                except OSError:  # for example a file system that has become read-only
                    left.append(location)
            elif last[1] not in moved:
                remove_upload(location)
        if left and isinstance(error, OSError):
            remaining = f"{counted(len(left), 'new file')} could not be removed, the first is {left[0].name}"
            raise OutputError(f"cannot write {last[1]}: {error.strerror or error}; {remaining}; remove them") from error
        raise


def _discard(files: list[Path], inputs: Iterable[StrPath]) -> None:
    """Remove files of a replaced index, except inputs. Files that cannot be removed are ignored."""
    for file in files:
        with suppress(OSError, OutputError):
            check_output(file, True, inputs)
            file.unlink()


def _move_one(temporary: Path, path: Path, force: bool) -> None:
    if force:
        move(os.replace, temporary, path)
        return
    try:
        # fails if the path exists, as a rename does only on Windows
        move(os.rename if sys.platform == "win32" else os.link, temporary, path)
    except FileExistsError:
        raise OutputExistsError(f"{path} exists: another program has written it in the meantime") from None
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        move(os.rename, temporary, path)  # a file system without hard links


def _disk_error(error: BaseException) -> OSError | None:
    """Return an OSError, or the disk error among the causes of another exception."""
    if isinstance(error, OSError):
        return error
    return causing_disk_error(error)


def _is_of_input(error: OSError | None, folder: Path, path: Path) -> bool:
    """Return whether an error names a file that is neither the output nor in its temporary folder, and read it."""
    if error is None or error.errno in _WRITE_ERRORS or not isinstance(error.filename, (str, os.PathLike)):
        return False
    name, path, folder = (Path(os.path.abspath(p)) for p in (error.filename, path, folder))
    return name not in (path, path.parent, folder) and folder not in name.parents


class DeferredErrorFile(io.RawIOBase):
    """A file whose errors are raised by ``close``, for C++ libraries that abort if ``write`` raises.

    Args:
        path: the file to write.
        written: object that gets everything that is written.
    """

    def __init__(self, path: Path, written: WrittenBytes | None = None) -> None:
        super().__init__()
        self._file = open_output(path, written)
        self._error: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        return self._try(self._file.tell)

    def write(self, data: Any) -> int:
        """Write unless an earlier call failed; return the size of ``data`` in either case."""
        self._try(lambda: self._file.write(data))
        return memoryview(data).nbytes

    def _try(self, action: Callable[[], int]) -> int:
        if self._error is None:
            try:
                return action()
            except OSError as e:
                self._error = e
        return 0

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        try:
            self._file.close()
        except OSError as e:
            self._error = self._error or e
        if self._error is not None:
            raise self._error
