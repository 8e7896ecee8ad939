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
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

from dpnn_bridge.base.atomic import StrPath, imported_files, protecting
from dpnn_bridge.base.exclusive import process_wide
from dpnn_bridge.base.extras import missing_package
from dpnn_bridge.base.folders import clean_up_on_signals, remove_temporary
from dpnn_bridge.errors import OptionError

#: seconds in which a Dask scheduler must answer the first request, after the time to connect
_DASK_SECONDS = 30
#: the positional arguments of a call
Call = tuple[Any, ...]


def failure_message(error: Exception) -> str:
    """Return the message for a call that an executor did not complete."""
    if isinstance(error, BrokenProcessPool):
        return "a worker process died, perhaps for lack of memory; use fewer workers or a machine with more memory"
    if isinstance(error, ModuleNotFoundError):
        return f"a worker lacks a package: {error}; install dpnn_bridge and its requirements on the workers"
    return f"the executor failed: {type(error).__name__}: {error}"


# ---------------------------------------------------------------------- processes
@process_wide
@contextmanager
def ignore_working_directory() -> Iterator[None]:
    """Prevent new Python processes from importing modules of the working directory.

    multiprocessing starts them with ``python -c``, which searches that folder first. Python 3.10 ignores this setting.
    """
    added = "PYTHONSAFEPATH" not in os.environ
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        yield
    finally:
        if added:
            os.environ.pop("PYTHONSAFEPATH", None)


@contextmanager
def workers(jobs: int) -> Iterator[Executor]:
    """Create local processes that end when this process ends, for any reason."""
    # not forked, because a forked process can hang on the locks of PyTorch's threads
    context = multiprocessing.get_context("spawn")
    # workers end when the pipe is closed, which also happens when this process ends
    reader, writer = context.Pipe(duplex=False)
    start = partial(_start_worker, jobs, reader, logging.root.manager.disable)
    with clean_up_on_signals(), ignore_working_directory():
        _start_resource_tracker()
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


def run_in_workers(function: Callable[..., Any], calls: Iterable[Call], jobs: int) -> Iterator[tuple[Call, Any]]:
    """Call a function in local processes; yield the arguments and the result of each call when it ends.

    Each call that ran when a worker died runs again in a separate worker. It fails if that worker dies too.

    Yields:
        Pairs of arguments and result. The result of a call that the executor did not complete is the exception, see
        :func:`failure_message`.
    """
    queue = deque(calls)
    while queue:
        for call in (yield from _run_until_worker_dies(function, queue, jobs)):
            if (yield from _run_until_worker_dies(function, deque([call]), 1)):
                yield call, BrokenProcessPool()


def _run_until_worker_dies(
    function: Callable[..., Any], queue: deque[Call], jobs: int
) -> Generator[tuple[Call, Any], None, Sequence[Call]]:
    """Run the calls of a queue until a worker dies; return the calls that were running then."""
    lost: list[Call] = []
    with workers(min(jobs, len(queue))) as pool:
        running: dict[Future[Any], Call] = {}
        while (queue or running) and not lost:
            while queue and len(running) < jobs:
                call = queue.popleft()
                try:
                    running[pool.submit(function, *call)] = call
                except (BrokenProcessPool, OSError):  # OSError: the system starts no more processes
                    lost.append(call)
                    break
            done, _ = wait(running, return_when=ALL_COMPLETED if lost else FIRST_COMPLETED)
            for future in done:
                call = running.pop(future)
                try:
                    yield call, future.result()
                except BrokenProcessPool:
                    lost.append(call)
                except Exception as e:  # for example if the result cannot be pickled
                    yield call, e
    return [*lost, *running.values()]


def _start_resource_tracker() -> None:
    """Start multiprocessing's resource tracker so that it ignores SIGHUP, as it does SIGINT and SIGTERM.

    If a closed terminal ended it before this process, it would be started again and print errors.
    """
    if hasattr(signal, "SIGHUP"):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # the new process inherits the mask
        try:
            resource_tracker.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(jobs: int, reader: Any, disabled_level: int) -> None:
    """Initialize a worker: end with the parent process, not at the signals of its terminal; use its log level."""
    for name in ("SIGINT", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
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
    reports an error and continues. A worker may serve other programs too: calls use only the plugins of this executor,
    and outputs cannot replace Python files that the worker has imported.

    Args:
        client: a ``distributed.Client``.
        plugins: the plugins of the calls.
    """

    def __init__(self, client: Any, plugins: Sequence[StrPath] = ()) -> None:
        self._client = client
        self._plugins = tuple(plugins)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        from distributed.protocol.pickle import dumps

        call = dumps(partial(_run_in_shared_worker, self._plugins, function, *arguments, **options))
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


def _run_in_shared_worker(
    plugins: Sequence[StrPath], function: Callable[..., Any], /, *arguments: Any, **options: Any
) -> Any:
    """Run a call in a worker that also runs calls of other programs."""
    from dpnn_bridge.plugins import only_plugins  # imports PyTorch, which the program of the calls may not need

    with only_plugins(plugins), protecting(imported_files):
        return function(*arguments, **options)


async def _check_scheduler(address: str) -> None:
    """Raise an exception unless a Dask scheduler answers at an address."""
    from dask import config
    from dask.utils import parse_timedelta
    from distributed.core import rpc
    from distributed.security import Security

    seconds = parse_timedelta(config.get("distributed.comm.timeouts.connect"))
    async with rpc(address, connection_args=Security().get_connection_args("client")) as scheduler:
        await asyncio.wait_for(scheduler.identity(), seconds + _DASK_SECONDS)


@contextmanager
def dask_executor(address: str, plugins: Sequence[StrPath] = ()) -> Iterator[Executor]:
    """Yield an executor for the workers of a Dask cluster, which need dpnn_bridge too.

    Args:
        address: address of the scheduler, such as ``tcp://host:8786``.
        plugins: the plugins of the calls.

    Raises:
        MissingPackageError: dask.distributed is not installed.
        OptionError: no scheduler answers at the address, or the address is empty.
    """
    if not address:  # Dask would start a scheduler
        raise OptionError("dask= (--dask): the address is empty; pass that of a scheduler, such as tcp://host:8786")
    try:
        from distributed import Client
    except ImportError as e:
        raise missing_package("dask= (--dask)", "dask", e) from e
    try:  # Client would leave threads and a connection behind, which take a minute at exit and print a traceback
        asyncio.run(_check_scheduler(address))
    except Exception as e:  # of any type: another program may answer at the address
        raise OptionError(f"no Dask scheduler answers at {address}: {str(e) or type(e).__name__}") from e
    with Client(address, set_as_default=False) as client:
        if not client.scheduler_info()["workers"]:
            logging.getLogger(__name__).warning("%s has no workers yet; waiting for workers", address)
        yield DaskExecutor(client, plugins)
