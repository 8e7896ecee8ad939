"""Provide options, errors, tables and progress for all commands.

Commands print one line with :func:`say`, several lines with :func:`say_lines` and tables with :func:`console`. All
three escape terminal control sequences.
"""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dpnn_bridge.base.atomic import imported_files, protecting
from dpnn_bridge.base.boundary import as_package_error
from dpnn_bridge.base.display import LONGEST_LINE, printable, printable_lines, shortened
from dpnn_bridge.base.file_set import FileSet
from dpnn_bridge.base.folder_locks import keep_folders_of
from dpnn_bridge.base.folders import Terminated, raise_ignored
from dpnn_bridge.base.reading import DISK_ERRORS
from dpnn_bridge.base.remote import input_place, location_of
from dpnn_bridge.base.shards import shards_of
from dpnn_bridge.base.standard_streams import drop_unwritten_output, find_stdout, prepare_streams
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.cli.torch_import import checking_torch
from dpnn_bridge.errors import EXIT_CODES, DpnnBridgeError, FileAccessError, OutputError, UnsupportedClassError
from dpnn_bridge.outputs.onnx_files import external_files
from dpnn_bridge.outputs.options import DTYPES as DTYPES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: exit code after Ctrl-C, as in shells
INTERRUPTED = 130

#: errno values of errors of printing
_PRINTING = {*DISK_ERRORS, errno.EBADF}

#: text for callers of the Python API -> its replacement on the command line
_TERMS = (
    (r" \((force=True|input=tensor|model\.float\(\))\)", ""),
    (r"\b\w+=\S{0,40} \((--[^)]{1,60})\)", r"\1"),  # bounded, because the message may contain text of a file
)


class ReportingCommand(click.Command):
    """A command that reports an error as a message on stderr and an exit code of :mod:`dpnn_bridge.errors`.

    With ``DPNN_TRACEBACK=1`` in the environment, an exception other than :class:`DpnnBridgeError` prints its traceback.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run as a program. Another Ctrl-C while it ends prints no traceback, also not of libraries that end."""
        try:
            return self.main(*args, **options)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        finally:  # called before the functions that libraries have registered earlier
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)

    def main(self, *args: Any, **options: Any) -> Any:
        with errors_as_lines(self.name or ""):  # completion prints here
            return super().main(*args, **options)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with errors_as_lines(info_name or ""):  # --help and --version print here
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with errors_as_lines(ctx.info_name or ""), raise_ignored():
            return super().invoke(ctx)


class Command(ReportingCommand):
    """A command that prints names of files, and replaces none of its inputs."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes. A script that ``dpnn-lua`` runs may end with further exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # escape characters that the encoding lacks
                stream.reconfigure(errors="backslashreplace")
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        ctx.with_resource(checking_torch())
        ctx.with_resource(protecting(imported_files))  # ends after the contexts of protect_inputs
        ctx.with_resource(_warnings_as_lines())
        return super().invoke(ctx)


@contextmanager
def errors_as_lines(name: str) -> Iterator[None]:
    """Print an error as one line and end the program with its exit code."""
    prepare_streams()
    try:
        yield
        sys.stdout.flush()
    except DpnnBridgeError as error:
        indent = "" if isinstance(error, UnsupportedClassError) else "    "  # lines of Lua code look like no result
        say_lines("error: " + in_options(str(error)).replace("\n", f"\n{indent}"), err=True)
        sys.exit(error.exit_code)
    except Terminated as end:
        sys.exit(end.exit_code)
    except KeyboardInterrupt:
        say("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.message = printable_lines(error.message)  # type: ignore[misc]  # names files and values of options
        with suppress(OSError):  # the exit code remains
            error.show()
        sys.exit(error.exit_code)
    except (click.Abort, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        sys.exit(DpnnBridgeError.exit_code)
    except Exception as error:
        if os.environ.get("DPNN_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.filename is None and error.errno in _PRINTING:
            error.filename, name = "stdout", "printing"  # errors of files name them
        say(f"error: {as_package_error(error, DpnnBridgeError, name or 'running')}", err=True)
        sys.exit(DpnnBridgeError.exit_code)
    finally:
        drop_unwritten_output()


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print a warning as one line with escapes, because it may contain text of a file; omit the source line."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}", err=True)
        yield


def say(text: Any, *, err: bool = False) -> None:
    """Print one line. Control characters and line breaks are escaped."""
    _echo(shortened(printable(str(text)), LONGEST_LINE), err)


def say_lines(text: Any, *, err: bool = False) -> None:
    """Print lines. Control characters except line breaks are escaped."""
    _echo(printable_lines(str(text)), err)


def _echo(text: str, err: bool) -> None:
    with suppress(OSError) if err else nullcontext():  # the exit code remains, where stderr takes no message
        click.echo(text, err=err)


def say_written(source: Any, target: Path, what: str) -> None:
    """Print one line about an additional output file, such as a report, with its size.

    Another program may have moved the complete file. Then the line has no size.
    """
    from dpnn_bridge.checkpoints.describe import format_bytes

    with suppress(OSError):
        what = f"{what}, {format_bytes(os.path.getsize(target))}"
    say(f"{source} -> {target}: {what}")


def in_options(message: str) -> str:
    """Replace arguments of the Python API in a message by command-line options: ``key=`` by ``--key``."""
    for pattern, option in _TERMS:
        message = re.sub(pattern, option, message)
    return message


def _be_quiet(ctx: click.Context, _: click.Parameter, quiet: bool) -> bool:
    """Silence warnings and log messages of libraries, until the command ends."""
    if quiet and not ctx.resilient_parsing:
        ctx.with_resource(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        ctx.call_on_close(lambda: logging.disable(previous))
    return quiet


class SourceType(click.ParamType):
    """Parameter type of an input file: a path, a URL, or ``-`` for stdin."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and (value == "-" or "://" in value):
            return value
        return Path(_file_name(self, value, param, ctx))


def _file_name(kind: click.ParamType, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
    """Return a path; raise a usage error for ``model.pt/`` and an empty name, which pathlib would change."""
    if not value:
        kind.fail("the name of the file is empty; pass a name", param, ctx)
    if os.path.basename(value) in ("", ".") and not os.path.isdir(value):
        kind.fail(f"{os.fspath(value)!r} is not the name of a file; remove the end of the path", param, ctx)
    return value


class InputType(click.Path):
    """Parameter type of a local input: a file or a folder. Reading it raises the error if there is no permission."""

    def __init__(self, **accepted: bool) -> None:
        super().__init__(path_type=Path, readable=False, **accepted)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        value = location_of(_file_name(self, value, param, ctx) if self.file_okay else value)
        if isinstance(value, str):
            self.fail(f"{value} is a URL, and this argument takes only local files; download it first", param, ctx)
        try:
            os.stat(value)
            if not self.file_okay:
                os.scandir(value).close()
        except PermissionError as error:  # click reports a missing file
            raise as_package_error(error, FileAccessError, "reading") from error
        except (OSError, ValueError):
            pass
        return super().convert(value, param, ctx)


class OutputType(click.Path):
    """Parameter type of a local output file."""

    def __init__(self, **accepted: bool) -> None:
        super().__init__(path_type=Path, readable=False, **(accepted or {"dir_okay": False}))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_file_name(self, value, param, ctx) if self.file_okay else value, param, ctx)


class FileType(OutputType):
    """Parameter type of an output file: a path or a URL."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in str(value) else super().convert(value, param, ctx)


class FolderType(FileType):
    """Parameter type of an output folder: a path, or a URL such as ``s3://bucket/folder``."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not value:  # pathlib would write into the current folder
            self.fail("the name of the folder is empty; pass a name, or . for the current folder", param, ctx)
        return super().convert(value, param, ctx)


def piped(source: Any) -> Any:
    """Return a value of :class:`SourceType`, or the binary stdin for ``-``."""
    return sys.stdin.buffer if source == "-" else source


def protect_inputs(*inputs: Any) -> None:
    """Prevent the running command from replacing or removing one of its inputs.

    Args:
        *inputs: Files that the command reads, with their shards and external data; ``-`` for stdin. Others are ignored.
    """
    found = [input_place("/dev/stdin" if name == "-" else name) for name in inputs]
    paths = [place for place in found if isinstance(place, Path)]
    files, parts = list(filter(os.path.isfile, paths)), []
    for file in files:
        if file.name.endswith(INDEX):
            with suppress(DpnnBridgeError):  # the reader reports the error
                parts += shards_of(file)
        elif file.suffix == ".onnx":
            parts += external_files(file)
    kept = FileSet([*files, *parts, *(place for place in found if isinstance(place, str))])
    if (source := find_stdout(kept)) is not None:
        raise OutputError(f"stdout is the input {source}, which is never replaced; redirect it to another file")
    for resource in (protecting(lambda: kept), keep_folders_of(*paths, *parts)):
        click.get_current_context().with_resource(resource)


def accept_only(form: str, *names: str) -> None:
    """Raise an error if the command line has an option that the command does not accept in its present mode.

    Args:
        form: Description of the mode, for the message.
        *names: Parameters of the running command that are accepted, besides ``quiet``.

    Raises:
        UsageError: The command line has another option.
    """
    ctx = click.get_current_context()
    other = [
        option.opts[-1]
        for option in ctx.command.params
        if isinstance(option, click.Option)
        and option.name not in ("quiet", *names)
        and ctx.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    ]
    if other:
        raise click.UsageError(f"{form} does not take {', '.join(other)}")


quiet_option = click.option("-q", "--quiet", is_flag=True, callback=_be_quiet, help="Print only errors.")

sha256_option = click.option("--sha256", metavar="HEX", help="Expected checksum of the input file.")


json_option = click.option("--json", "as_json", is_flag=True, help="Print the complete result as JSON.")


jobs_option = click.option(
    "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Number of processes for many files."
)

dask_option = click.option("--dask", metavar="ADDRESS", help="Use the workers of this Dask scheduler, tcp://host:8786.")


partial_sandbox_option = click.option(
    "--partial-sandbox", is_flag=True, help="Like --sandbox, also if the kernel cannot confine the process."
)

version_option = click.version_option(package_name="dpnn-bridge")


def console(*, stderr: bool = False) -> Console:
    """Return the console of a command: without color with NO_COLOR, and not wrapped if stdout is not a terminal.

    Text is printed without rich's markup. Control characters are escaped.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:
            for segment in super().render(*args, **kwargs):
                if segment.control or segment.text.replace("\n", "").isprintable():
                    yield segment
                else:
                    yield Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 1000
    colors = None if os.environ.get("NO_COLOR") else "auto"
    return Escaping(stderr=stderr, width=width, color_system=colors, markup=False, emoji=False)


def plain_table(**options: Any) -> Table:
    """Return a table with a line below the heading and no other lines."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, **options)


@contextmanager
def executor_of(dask: str | None, plugins: Sequence[Any] = ()) -> Iterator[Any]:
    """Yield the executor of the option ``--dask`` for calls with these plugins; None without the option."""
    from dpnn_bridge.batch.executors import dask_executor

    if dask is None:
        yield None
        return
    client = logging.getLogger("distributed.client")
    disabled, client.disabled = client.disabled, True  # the calls report a scheduler that ends
    try:
        with dask_executor(dask, plugins) as executor:
            yield executor
    finally:
        client.disabled = disabled


@contextmanager
def steps(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step on stderr, if stderr is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.text import Text

    terminal = console(stderr=True)
    with terminal.status("starting") as status:
        terminal.show_cursor()  # a signal that ends the program would leave it hidden
        yield lambda step: status.update(Text(f"{step} …"))
