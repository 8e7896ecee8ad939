"""Create temporary folders that are removed when the program ends for any reason, and handle signals.

A folder is removed when its ``with`` block ends, or when SIGINT, SIGTERM or SIGHUP end the program. After SIGKILL or a
power failure, it is removed when the next temporary folder is created beside it. The owner of a folder locks it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

from dpnn_bridge.base.folder_locks import NAME, opened
from dpnn_bridge.base.reading import causing_disk_error, retry_eagain
from dpnn_bridge.errors import DpnnBridgeError, FileAccessError

if sys.platform != "win32":  # on Windows, folders of killed programs remain
    import fcntl

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

_lock = threading.RLock()  # a signal may interrupt the thread that holds it
_moves: set[threading.RLock] = set()  # one lock for each thread in :func:`defer_signals`, which holds it
_folders: dict[Path, int | None] = {}
#: attempts to delete a folder while another thread adds files
_ATTEMPTS = 100
#: a parent with at least this many entries is searched only sometimes, so that writing many files takes linear time
_MANY = 100
_searches_to_skip: dict[Path, int] = {}  # parent -> number of searches for abandoned folders to skip
_deferred: list[int] | None = None  # signals received during :func:`defer_signals`
_ignored: int | None = None  # signal whose exception Python ignored in :func:`clean_up_on_signals`
_raised: int | None = None  # signal whose exception was raised there, and that a library may have caught
_without_exception = False  # whether this is inside :func:`end_without_exception`


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Create a hidden folder for the duration of the ``with`` block.

    Args:
        parent: the folder that contains it; default: the system's folder for temporary files.
    """
    if parent is None:
        parent = Path(tempfile.gettempdir())
        errors = _disk_errors_of(parent)
    else:
        errors = nullcontext()
    with clean_up_on_signals(), errors:
        _search_abandoned(parent)
        folder = _make_folder(parent)
        try:
            yield folder
        finally:
            _remove(folder)


@contextmanager
def _disk_errors_of(parent: Path) -> Iterator[None]:
    """Let a disk error in a temporary folder name the system's folder for temporary files, and how to change it."""
    try:
        yield
    except Exception as error:
        disk = causing_disk_error(error)
        if disk is None or not _is_in_temporary(disk.filename, parent):
            raise
        text = (
            f"cannot use the folder for temporary files {parent}: {disk.strerror}; solve this, or select another "
            "folder with the environment variable TMPDIR"
        )
        if not isinstance(error, DpnnBridgeError):
            raise FileAccessError(text) from error
        error.args = (text, *error.args[1:])
        raise


def _is_in_temporary(name: object, parent: Path) -> bool:
    """Return whether the name of a file or folder is the name of a temporary folder in ``parent``, or in one."""
    if not isinstance(name, (str, os.PathLike)):
        return False
    path = Path(name)
    return any(p.parent == parent and NAME.fullmatch(p.name) for p in (path, *path.parents))


def is_abandoned(folder: Path) -> bool:
    """Return whether a folder has the name of a temporary folder and no program owns it. It need not exist."""
    if sys.platform == "win32" or not NAME.fullmatch(folder.name) or folder in _folders:
        return False
    try:
        with opened(folder, shared=True) as is_free:
            return is_free
    except OSError:
        return True


def _make_folder(parent: Path) -> Path:
    with _lock:
        while True:
            folder = parent / f".dpnn-{secrets.token_hex(8)}"
            _folders[folder] = None  # before it exists, so that a signal handler removes it
            try:
                retry_eagain(lambda new=folder: new.mkdir(mode=0o700) or new, str(folder))
            except BaseException:
                del _folders[folder]
                raise
            try:
                if _lock_folder(folder):
                    return folder
            except BaseException:
                _remove(folder)
                raise
            _remove(folder)


def _lock_folder(folder: Path) -> bool:
    """Lock a new folder; return False if another program removed it as abandoned."""
    if sys.platform == "win32":
        return True
    try:
        mode = folder.stat().st_mode
        if mode & 0o700 != 0o700:  # the umask withholds rights of the owner
            folder.chmod(mode | 0o700)  # not 0o700, which would remove the setgid bit
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    except OSError:
        pass  # a file system without locks: no other program can lock it either
    _folders[folder] = descriptor
    return folder.exists()


def _delete(folder: Path) -> None:
    """Delete a folder, also if another thread adds files to it until it is gone."""
    for _ in range(_ATTEMPTS):
        with suppress(OSError):  # of a failing disk, which rmtree does not ignore everywhere
            shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        if sys.platform != "win32":
            with suppress(OSError):
                _delete_files(folder)


def _delete_files(folder: Path) -> None:
    """Delete a folder of files, not the target of a link in its place. Opens one file at a time, and rmtree two."""
    names = os.listdir(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in names:
            os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(folder)


def _remove(folder: Path) -> None:
    with _lock:
        if folder not in _folders:  # it belongs to the parent of this forked process
            return
        descriptor, place = _folders[folder], _place_of(folder)
        if place != folder:
            _folders[place] = None  # listed until it is deleted, for a signal handler
        _folders[folder] = None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)  # first: deleting needs a free descriptor
        _delete(place)
        _folders.pop(place, None)
        _folders.pop(folder, None)


def _place_of(folder: Path) -> Path:
    """Return the path of a temporary folder, also on Linux after a folder that contains it was renamed."""
    descriptor = _folders[folder]
    with suppress(OSError):
        if descriptor is not None and not folder.exists():
            place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if place.name == folder.name:
                return place
    return folder


def _search_abandoned(parent: Path) -> None:
    if (remaining := _searches_to_skip.pop(parent, 0)) > 0:
        _searches_to_skip[parent] = remaining - 1
    else:
        remove_abandoned(parent)


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders that killed programs left in ``parent``."""
    if sys.platform == "win32":
        return
    try:
        entries = list(os.scandir(parent))
    except OSError:  # a missing folder, or one whose entries cannot be listed but may be written
        return
    if len(entries) >= _MANY:
        _searches_to_skip[parent] = len(entries) // _MANY
    for entry in entries:
        if NAME.fullmatch(entry.name) and Path(entry.path) not in _folders:
            with suppress(OSError, RecursionError), opened(Path(entry.path)) as is_free:  # others may create it
                if is_free:
                    shutil.rmtree(entry.path)  # ends at the first error


def remove_temporary() -> None:
    """Remove all temporary folders before the program ends, and keep other threads from creating new ones."""
    _lock.acquire()
    _remove_all()


def _remove_all() -> None:
    """Remove all temporary folders when other threads have moved their files. The caller holds the lock."""
    for move in list(_moves):
        with move:
            pass
    for folder in list(_folders):
        _delete(_place_of(folder))


def _forget_parent() -> None:
    """Free the locks of threads that do not exist in a forked process, and leave the folders to its parent."""
    global _lock, _deferred
    _lock, _deferred = threading.RLock(), None
    _moves.clear()
    for descriptor in _folders.values():  # the parent still holds the locks
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)
    _folders.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_parent)


# ---------------------------------------------------------------------- signals
class Terminated(KeyboardInterrupt):
    """Raised for a signal that ends the program. ``except Exception`` does not catch it.

    Attributes:
        exit_code: exit code of a program that the signal ended.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def clean_up_on_signals() -> Iterator[None]:
    """Remove incomplete files on signals that end the program, then raise, so that ``finally`` blocks run.

    SIGINT raises KeyboardInterrupt, the others :class:`Terminated`, see :func:`raise_ignored`. Signals for which the
    program has its own handlers are not changed. In other threads than the main thread, no signal is changed.
    """
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        previous = {n: h for n, h in found.items() if h in (signal.SIG_DFL, signal.default_int_handler)}
    with raise_ignored() if previous else nullcontext():
        for number in previous:
            signal.signal(number, _end)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def raise_ignored() -> Iterator[None]:
    """Raise the exception of a signal at the end of the ``with`` block if Python ignored it.

    Python ignores it if the signal comes during a finalizer (``__del__``). If the block ends with another exception, a
    signal that was caught inside is raised too: some imports of PyTorch catch it and then fail.
    """
    global _ignored, _raised
    hook = sys.unraisablehook

    def remember(error: sys.UnraisableHookArgs) -> None:
        global _ignored
        if isinstance(error.exc_value, KeyboardInterrupt):
            _ignored = getattr(error.exc_value, "exit_code", 128 + signal.SIGINT) - 128
        else:
            hook(error)

    sys.unraisablehook = remember
    try:
        try:
            yield
        except Exception:  # an effect of the signal, such as removed folders or an incomplete import
            _raise_again(_ignored or _raised)
            raise
        _raise_again(_ignored)
    finally:
        sys.unraisablehook = hook
        _ignored = _raised = None


def _raise_again(number: int | None) -> None:
    """Raise the exception of a signal, in the main thread."""
    if number is not None and threading.current_thread() is threading.main_thread():
        raise _exception_of(number)


def _exception_of(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


@contextmanager
def end_without_exception() -> Iterator[None]:
    """Let the signals of :func:`clean_up_on_signals` end the program at once, after incomplete files are removed.

    For Lua scripts, whose ``pcall`` catches every exception.
    """
    global _without_exception
    previous, _without_exception = _without_exception, True
    try:
        yield
    finally:
        _without_exception = previous


@contextmanager
def defer_signals() -> Iterator[None]:
    """Delay what ends the program, for a short ``with`` block.

    That is the signals that :func:`clean_up_on_signals` handles, and :func:`remove_temporary` in another thread.
    Several threads can be in such a block at the same time.
    """
    global _deferred
    if threading.current_thread() is not threading.main_thread():  # Python handles signals in the main thread
        with _moving():
            yield
        return
    _deferred = []
    try:
        with _moving():
            yield
    finally:
        deferred, _deferred = _deferred, None
        if deferred:
            _end(deferred[0], None)


@contextmanager
def _moving() -> Iterator[None]:
    move = threading.RLock()
    with move:
        with _lock:  # which an ending program keeps
            _moves.add(move)
        try:
            yield
        finally:
            _moves.discard(move)


def _end(number: int, _frame: Any) -> None:
    global _raised
    if _deferred is not None:
        _deferred.append(number)
        return
    for other in _SIGNALS:
        if signal.getsignal(other) is _end:
            signal.signal(other, _end_at_once)
    with _lock:
        _remove_all()
    if _without_exception:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
    _raised = number
    raise _exception_of(number)


def _end_at_once(number: int, _frame: Any) -> NoReturn:
    """Handle a second signal during the exception of the first one."""
    remove_temporary()
    os._exit(128 + number)
