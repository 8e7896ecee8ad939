"""Provide executors with the interface of ``concurrent.futures``: local processes and the workers of a Dask cluster."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from dpnn_bridge.base.extras import missing_package
from dpnn_bridge.base.folders import ending_in_order, importing_nothing_from_here, remove_temporary
from dpnn_bridge.errors import OptionError


def why_lost(error: Exception) -> str:
    """Return the message for a call that an executor did not complete."""
    if isinstance(error, BrokenProcessPool):
        return "a worker process died, perhaps for lack of memory; use fewer --jobs for what is left"
    if isinstance(error, ModuleNotFoundError):
        return f"a worker lacks a package: {error}; install dpnn_bridge and what it needs where the workers are"
    return f"the executor gave up: {type(error).__name__}: {error}"


# ---------------------------------------------------------------------- processes
@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """Create local processes that end when this process ends, for any reason."""
    # spawned, since a forked process can hang on the locks of PyTorch's threads
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)  # workers end when it closes, which it does when this process ends
    start = partial(_start_worker, jobs, watched, logging.root.manager.disable)
    with ending_in_order(), importing_nothing_from_here():
        pool = ProcessPoolExecutor(jobs, context, start)
        try:
            yield pool
        except BaseException:
            held.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            held.close()
            watched.close()


def _start_worker(jobs: int, watched: Any, silent: int) -> None:
    """Initialize a worker: ignore interrupts, end with the parent, use its verbosity."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()
    if silent:
        logging.disable(silent)
        warnings.simplefilter("ignore")
    import torch  # takes seconds

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _end_with_parent(watched: Any) -> None:
    with suppress(EOFError, OSError):
        watched.recv_bytes()
    remove_temporary()
    os._exit(130)


# ---------------------------------------------------------------------- Dask
class DaskExecutor(Executor):
    """The workers of a Dask cluster.

    Other than with ``Client.get_executor()``, calls end when the scheduler does, and a worker that lacks a package says
    so, where it would die of a call that names one.

    Args:
        client: a ``distributed.Client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        from distributed.protocol.pickle import dumps

        call = dumps(partial(function, *arguments, **options))
        # a function of no module goes to the workers as it is
        theirs = self._client.submit(lambda: pickle.loads(call)(), pure=False)
        ours: Future[Any] = Future()
        ours.add_done_callback(lambda done: theirs.cancel() if done.cancelled() else None)
        self._client.loop.add_callback(self._hand_on, theirs, ours)
        return ours

    async def _hand_on(self, theirs: Any, ours: Future[Any]) -> None:
        result, error = None, None
        try:
            result = await theirs
        except (Exception, asyncio.CancelledError) as raised:
            error = ConnectionError("the Dask scheduler is gone") if theirs.cancelled() else raised
        if not ours.set_running_or_notify_cancel():
            return
        if error is None:
            ours.set_result(result)
        else:
            ours.set_exception(error)


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Yield an executor for the workers of a Dask cluster. Check that each has this package.

    Args:
        address: of the scheduler, such as ``tcp://host:8786``.

    Raises:
        MissingPackageError: dask.distributed is not installed.
        OptionError: nobody answers there.
    """
    try:
        from distributed import Client
    except ImportError as e:
        raise missing_package("dask= (--dask)", "dask", e) from e
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as e:
        raise OptionError(f"no Dask scheduler answers at {address}: {e}") from e
    with client:
        if not client.scheduler_info()["workers"]:
            logging.getLogger(__name__).warning("%s has no workers yet; what is to be done waits for them", address)
        yield DaskExecutor(client)
