"""Provide executors with the interface of ``concurrent.futures`` for local processes and for Dask clusters."""

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
from dpnn_bridge.base.folders import clean_up_on_signals, ignore_working_directory, remove_temporary
from dpnn_bridge.errors import OptionError


def failure_message(error: Exception) -> str:
    """Return the message for a call that an executor did not complete."""
    if isinstance(error, BrokenProcessPool):
        return "a worker process died, perhaps for lack of memory; run the command again with fewer --jobs"
    if isinstance(error, ModuleNotFoundError):
        return f"a worker lacks a package: {error}; install dpnn_bridge and its requirements on the workers"
    return f"the executor failed: {type(error).__name__}: {error}"


# ---------------------------------------------------------------------- processes
@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """Create local processes that end when this process ends, for any reason."""
    # not forked, because a forked process can hang on the locks of PyTorch's threads
    context = multiprocessing.get_context("spawn")
    # workers end when the pipe is closed, which also happens when this process ends
    reader, writer = context.Pipe(duplex=False)
    start = partial(_start_worker, jobs, reader, logging.root.manager.disable)
    with clean_up_on_signals(), ignore_working_directory():
        pool = ProcessPoolExecutor(jobs, context, start)
        try:
            yield pool
        except BaseException:
            writer.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            writer.close()
            reader.close()


def _start_worker(jobs: int, reader: Any, disabled_level: int) -> None:
    """Initialize a worker: ignore interrupts, end with the parent process, use the parent's log level."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(reader,), daemon=True).start()
    if disabled_level:
        logging.disable(disabled_level)
        warnings.simplefilter("ignore")
    import torch  # takes seconds

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))


def _end_with_parent(reader: Any) -> None:
    with suppress(EOFError, OSError):
        reader.recv_bytes()
    remove_temporary()
    os._exit(130)


# ---------------------------------------------------------------------- Dask
class DaskExecutor(Executor):
    """Executor on the workers of a Dask cluster.

    Unlike with ``Client.get_executor()``, pending calls fail when the scheduler ends. A worker that lacks a package
    reports an error and continues.

    Args:
        client: a ``distributed.Client``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        from distributed.protocol.pickle import dumps

        call = dumps(partial(function, *arguments, **options))
        # a lambda is pickled by value, so the workers need not import it
        dask_future = self._client.submit(lambda: pickle.loads(call)(), pure=False)
        future: Future[Any] = Future()
        future.add_done_callback(lambda done: dask_future.cancel() if done.cancelled() else None)
        self._client.loop.add_callback(self._copy_result, dask_future, future)
        return future

    async def _copy_result(self, dask_future: Any, future: Future[Any]) -> None:
        result, error = None, None
        try:
            result = await dask_future
        except (Exception, asyncio.CancelledError) as raised:
            error = ConnectionError("the Dask scheduler has ended") if dask_future.cancelled() else raised
        if not future.set_running_or_notify_cancel():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """Yield an executor for the workers of a Dask cluster, which need dpnn_bridge too.

    Args:
        address: address of the scheduler, such as ``tcp://host:8786``.

    Raises:
        MissingPackageError: dask.distributed is not installed.
        OptionError: no scheduler answers at the address.
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
            logging.getLogger(__name__).warning("%s has no workers yet; waiting for workers", address)
        yield DaskExecutor(client)
