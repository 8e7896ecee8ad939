"""Files that appear complete or not at all, whatever ends the program.

A file is written in a hidden folder beside its place and moved there when it is complete. The folder goes when this is
done or failed, when SIGINT, SIGTERM or SIGHUP end the program, and, if nothing could be done any more (SIGKILL, no
power), when the next file is written beside it: its owner holds a lock on it as long as it lives.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from dpnn_bridge.base.remote import beside, check_upload, place_of, upload
from dpnn_bridge.errors import OutputError, OutputExistsError

try:
    import fcntl
except ImportError:  # Windows: folders of programs that were killed stay
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]

_NAME = re.compile(r"\.dpnn-[0-9a-f]{16}")
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
#: what a disk says, also where a library turned it into an error of its own
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}

_lock = threading.RLock()  # a signal may interrupt the thread that holds it
_folders: dict[Path, int | None] = {}


# ---------------------------------------------------------------------- what may be written
def check_output(path: StrPath, force: bool, inputs: Iterable[StrPath] = ()) -> None:
    """Raises unless a file may be written to ``path``.

    Args:
        path: the output.
        force: whether a file that is there may be replaced.
        inputs: files that are read, which are never replaced.

    Raises:
        OutputExistsError: a file is there and ``force`` is False.
        OutputError: something is there that is never replaced: a directory, a device, a pipe, an input; or the store
            of a URL cannot be asked.
    """
    path = place_of(path)
    if isinstance(path, str):
        return check_upload(path, force)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if not force and path.is_symlink():
            raise OutputExistsError(f"{path} is a link to a file that is not there; give another name") from None
        return
    except (OSError, ValueError) as e:
        raise _cannot_write(path, e) from None
    if not stat.S_ISREG(found.st_mode):
        raise OutputError(f"{path} is {_kind(found.st_mode)}, which is never replaced; give another name")
    for source in inputs:
        with suppress(OSError, ValueError):
            if os.path.samestat(found, os.stat(source)):
                raise OutputError(f"{path} is the input {source}, which is never replaced; give another name")
    if not force:
        raise OutputExistsError(f"{path} exists; use --force (force=True) to replace it")


def _kind(mode: int) -> str:
    names = {stat.S_ISDIR: "a directory", stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_kind, name in names.items() if is_kind(mode)), "a device")


def _cannot_write(path: Path, error: Exception) -> OutputError:
    reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return OutputError(f"cannot write {path}: {reason}; nothing was written")


# ---------------------------------------------------------------------- writing
@contextmanager
def replacing(path: StrPath, *, force: bool, inputs: Iterable[StrPath] = (), parts: bool = False) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well, and vanishes otherwise.

    Of several programs that write the same file without ``force``, one succeeds. The mode of the file is that of any
    new file, as the umask says.

    Args:
        path: the file to write, or a URL: the file is made on this machine and put there, see
            :func:`dpnn_bridge.base.remote.upload`.
        force: replace a file that is there.
        inputs: files that are never replaced.
        parts: other files that the block leaves beside the temporary path appear beside ``path``, before it.

    Raises:
        OutputError: as :func:`check_output`, or the disk refused (full, read-only, …); nothing was written.
    """
    target, inputs = place_of(path), tuple(inputs)
    check_output(path, force, inputs)
    path = Path(tempfile.gettempdir(), target.rpartition("/")[2]) if isinstance(target, str) else target
    with ending_in_order():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path.parent)
            folder = _make_folder(path.parent)
            try:
                temporary = folder / path.name
                yield temporary
                others = sorted(p for p in folder.iterdir() if parts and p != temporary)
                places = [(file, beside(target, file.name)) for file in [*others, temporary]]
                for file, place in places:
                    _set_mode(file)
                    check_output(place, force, inputs)
                for file, place in places:
                    if isinstance(place, str):
                        upload(file, place, force)
                    else:
                        _put(file, place, force)
            finally:
                _remove(folder)
        except OutputError:
            raise
        except OSError as e:
            raise _cannot_write(path, e) from e
        except Exception as e:
            if disk := _disk_error(e):
                raise _cannot_write(path, disk) from e
            raise


def write_text(path: StrPath, text: str, *, inputs: Iterable[StrPath] = ()) -> None:
    """Writes a text file, in place of one that is there; complete or not at all."""
    with replacing(path, force=True, inputs=inputs) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _put(temporary: Path, path: Path, force: bool) -> None:
    if force:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # fails where something is, which no rename of POSIX does
    except FileExistsError:
        raise OutputExistsError(f"{path} exists since another program wrote it meanwhile") from None
    except OSError as e:
        if e.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV):
            raise
        os.rename(temporary, path)  # a file system without hard links


def _set_mode(path: Path) -> None:
    """The mode that a new file gets here: some libraries write files that only their owner can read."""
    probe = path.with_name("mode" if path.name != "mode" else "modes")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        probe.unlink()
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def _disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk that an error goes back to."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _DISK:
            return error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


class PatientFile(io.RawIOBase):
    """A file whose ``write`` never raises, for libraries in C++ that end the program when it does.

    Closing it, which a ``with`` block does, raises the error instead.

    Args:
        path: the file to write.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = open(path, "wb")  # noqa: SIM115 - closed by close
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
        """Writes unless an earlier call failed; says that it wrote everything."""
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


# ---------------------------------------------------------------------- temporary folders
def _make_folder(parent: Path) -> Path:
    with _lock:
        while True:
            folder = parent / f".dpnn-{secrets.token_hex(8)}"
            _folders[folder] = None  # first, so that a signal finds it
            try:
                folder.mkdir(mode=0o700)
            except BaseException:
                del _folders[folder]
                raise
            if _hold(folder):
                return folder


def _hold(folder: Path) -> bool:
    """Takes the lock on a new folder; False when another program took it for one that was left."""
    if fcntl is None:
        return True
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:
        pass  # a file system without locks: no other program can take it either
    _folders[folder] = descriptor
    return folder.exists()


def _remove(folder: Path) -> None:
    with _lock:
        shutil.rmtree(folder, ignore_errors=True)
        descriptor = _folders.pop(folder, None)
        if descriptor is not None:
            os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Removes the folders of programs that were killed."""
    if fcntl is None:
        return
    for entry in list(os.scandir(parent)):
        if not _NAME.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False) or Path(entry.path) in _folders:
            continue
        with suppress(OSError):
            descriptor = os.open(entry.path, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(descriptor)


def remove_temporary() -> None:
    """Removes all temporary folders of this program, which is about to end; no thread makes new ones afterwards."""
    _lock.acquire()
    for folder in list(_folders):
        shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------------- signals
class Terminated(KeyboardInterrupt):
    """A signal asks the program to end. No ``except Exception`` stops it.

    Attributes:
        exit_code: what shells say of a program that the signal ended.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Within it, signals that end the program remove what is half written, then raise, so that ``finally`` blocks run.

    SIGINT raises KeyboardInterrupt, the others :class:`Terminated`. Where the program has
    handlers of its own, or this is not the main thread, nothing is changed.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {n: h for n, h in found.items() if h in (signal.SIG_DFL, signal.default_int_handler)}
    for number in before:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: Any) -> NoReturn:
    for other in _SIGNALS:
        if signal.getsignal(other) is _end:
            signal.signal(other, _end_at_once)
    with _lock:
        for folder in list(_folders):
            shutil.rmtree(folder, ignore_errors=True)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)


def _end_at_once(number: int, _frame: Any) -> NoReturn:
    """A second signal while the first one's exception is on its way."""
    remove_temporary()
    os._exit(128 + number)
