"""Lock objects between threads, and change the state of the process for a limited time.

A lock exists only while a thread owns it or waits for it, so a locked object needs no attribute for its lock. In a
forked process every lock is free, because the threads that owned the locks do not exist there.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType


class Exclusive:
    """A context manager that acquires the reentrant lock of a key.

    Args:
        key: the locked object.

    Examples:
        >>> with Exclusive("the table"):
        ...     pass
    """

    __slots__ = ("_key", "_lock")

    def __init__(self, key: Hashable) -> None:
        self._key = key

    def __enter__(self) -> None:
        with _guard:
            entry = _locks.get(self._key)
            if entry is None:
                entry = _locks[self._key] = _Lock()
            entry.users += 1
        self._lock = entry
        entry.lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.lock.release()
        with _guard:
            self._lock.users -= 1
            if not self._lock.users and _locks.get(self._key) is self._lock:
                del _locks[self._key]


class _Lock:
    """A lock, and the number of threads that own it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock, self.users = threading.RLock(), 0


def process_wide(
    make: Callable[[], AbstractContextManager[None]],
) -> Callable[[], AbstractContextManager[None]]:
    """Decorate a context manager that changes the process, so that several threads can use it at the same time.

    The first thread enters the context of ``make``, and the last thread exits it.

    Args:
        make: returns a new context; a function that ``contextmanager`` decorates.
    """
    entered: list[AbstractContextManager[None]] = []  # once for each thread that is inside

    @contextmanager
    def inside() -> Iterator[None]:
        with Exclusive(inside):
            if not entered:
                context = make()
                context.__enter__()
                entered.append(context)
            else:
                entered.append(entered[0])
        try:
            yield
        finally:
            with Exclusive(inside):
                context = entered.pop()
                if not entered:
                    context.__exit__(None, None, None)

    inside.__doc__ = make.__doc__
    return inside


_guard = threading.Lock()
_locks: dict[Hashable, _Lock] = {}


def _free_all() -> None:
    global _guard
    _guard = threading.Lock()
    _locks.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_free_all)
