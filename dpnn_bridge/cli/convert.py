"""Implement dpnn-convert: parse options, call the API, print the result. PyTorch is imported only when needed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.base.atomic import after_writing, check_output, naming, write_text
from dpnn_bridge.base.display import printable
from dpnn_bridge.base.file_set import check_distinct
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.reading import file_status
from dpnn_bridge.base.regular import is_accepted
from dpnn_bridge.base.remote import location_of, manifest_path
from dpnn_bridge.base.shell import shell_file
from dpnn_bridge.base.suffixes import INDEX, index_of
from dpnn_bridge.cli.conversions import list_classes_of_lua, print_many, print_one
from dpnn_bridge.cli.terminal import (
    Command,
    FileType,
    FolderType,
    InputType,
    OutputType,
    SourceType,
    accept_only,
    console,
    dask_option,
    executor_of,
    in_options,
    jobs_option,
    json_option,
    partial_sandbox_option,
    piped,
    protect_inputs,
    quiet_option,
    say_lines,
    say_written,
    sha256_option,
    steps,
    version_option,
)
from dpnn_bridge.cli.torch_import import load_torch
from dpnn_bridge.errors import ConversionError, VerificationError
from dpnn_bridge.outputs.formats import suffix_of, suffixes
from dpnn_bridge.outputs.options import ConvertOptions

if TYPE_CHECKING:
    from dpnn_bridge.batch.running import Outcome
    from dpnn_bridge.batch.tasks import Task
    from dpnn_bridge.conversion.report import Report


def conversion_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the command-line option of each field of :class:`ConvertOptions` with metadata."""
    types: dict[type, Callable[[Any], Any]] = {tuple: click.Choice, int: click.IntRange, str: lambda _: InputType()}
    for option in reversed(fields(ConvertOptions)):
        if not option.metadata:
            continue
        own = ("flag", "also", "parse", "scope")
        settings = {name: value for name, value in option.metadata.items() if name not in own}
        kind = settings.pop("type", None)
        if kind is not None:
            settings["type"] = types[type(kind)](kind)
        flags = [option.metadata[name] for name in ("flag", "also") if name in option.metadata]
        command = click.option(*flags, option.name, **settings)(command)
    return command


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Convert the options of the command line to keyword arguments of ``convert``."""
    found: dict[str, Any] = {}
    options = options | ({"sandbox": "partial"} if options.get("partial_sandbox") else {})
    for option in fields(ConvertOptions):
        value = options.get(option.name)
        if value is not None and value is not False and value != ():  # 0 is a value
            found[option.name] = option.metadata.get("parse", lambda v: v)(value)
    for name in {"plugins", "lua"} & found.keys():
        found[name] = tuple(map(os.path.abspath, found[name]))
    return found


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", metavar="IN.t7 OUT | IN.t7... --out-dir DIR", nargs=-1, type=SourceType())
@click.option(
    "--to",
    type=click.Choice([suffix[1:] for suffix in suffixes()]),
    help="Output format. Default: the suffix of OUT, or pt.",
)
@conversion_options
@partial_sandbox_option
@click.option(
    "--all", "all_models", is_flag=True, help="Convert all models to OUT.KEY.pt. With --into: all deviations."
)
@click.option(
    "--into",
    metavar="FILE.py:NET",
    help="Load the weights into this network and prove that it computes the same. Runs the file. Needs --input.",
)
@click.option("--out-dir", type=FolderType(), help="Folder or URL for the outputs of many files.")
@jobs_option
@dask_option
@click.option(
    "--manifest",
    type=FileType(),
    help="Append one line of JSON per file: checksums, verdict, seconds. dpnn-verify FILE.jsonl verifies the outputs.",
)
@click.option("--force", is_flag=True, help="Replace existing outputs and model cards.")
@sha256_option
@click.option(
    "--report",
    type=OutputType(dir_okay=True),
    help="Write mappings as JSON, or a port as .json or .html. Replaces the file.",
)
@click.option(
    "--card",
    type=OutputType(),
    help="Compare OUT with IN and write a model card in Markdown: architecture, provenance, verdicts.",
)
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print the table of classes, or one row per file.")
@click.option("--list-classes", is_flag=True, help="List the supported Lua classes.")
@version_option
def convert_command(
    files: tuple[Any, ...],
    to: str | None,
    all_models: bool,
    into: str | None,
    out_dir: Any,
    report: Path | None,
    list_classes: bool,
    **options: Any,
) -> None:
    """Convert Torch7 models to PyTorch.

    \b
      one file; the suffix chooses the format
        dpnn-convert model.t7 model.pt
      many files; complete outputs are skipped
        dpnn-convert *.t7 --out-dir converted
      export to Torch7
        dpnn-convert model.pt model.t7
      weights for your own network, with proof that it computes the same
        dpnn-convert in.t7 net.pt --into my_models.py:Net --input 1x3x224x224
      data without a model; --key selects a part
        dpnn-convert stats.t7 stats.npz
      larger than memory, in shards with an index
        dpnn-convert large.t7 model.safetensors --max-shard-size 2GB
      an address (extra remote); - is stdin or stdout
        dpnn-convert hf://user/repo/model.t7 out.pt
      many files on a cluster
        dpnn-convert 's3://zoo/**/*.t7' --out-dir s3://new \\
          --dask tcp://head:8786 --manifest done.jsonl

    Load OUT.pt with dpnn_bridge.load or torch.load(weights_only=True). Other suffixes: .pth (as .pt), .safetensors and
    .npz (weights), .onnx and .pt2 (need --input), .py (a definition that needs only torch), .t7, and .json for data.

    The folder of OUT must exist; the folder of --out-dir is created.
    """
    if list_classes:
        accept_only("--list-classes", "list_classes", "as_json")
        if files:
            raise click.UsageError("--list-classes takes no files")
        list_classes_of_lua(options["as_json"])
        return
    if into is not None:
        from dpnn_bridge.cli.port import CLASSES, Comparison, convert_into

        accept_only("--into", "into", "input", "key", "all_models", "force", "report", "as_json", "verbose", *CLASSES)
        if len(files) != 2:
            raise click.UsageError("--into takes IN.t7 and one output: OUT.pt, OUT.pth or OUT.safetensors")
        shared = {name: options[name] for name in ("key", "as_json", "quiet", "verbose")}
        shared["classes"] = {n: v for n, v in _chosen(options).items() if n in CLASSES}
        comparison = Comparison(files[0], into, options["input"], later=all_models, report_to=report, **shared)
        convert_into(comparison, files[1], options["force"])
        return
    request = _Request(files, to, all_models, out_dir, report, **options)
    if out_dir is None and not all_models:
        request.convert_one()
    else:
        request.convert_many()


class _Request:
    """The parsed arguments of the command line."""

    def __init__(
        self,
        files: tuple[Any, ...],
        to: str | None,
        all_models: bool,
        out_dir: Any,
        report: Path | None,
        *,
        jobs: int,
        dask: str | None,
        manifest: Any,
        force: bool,
        sha256: str | None,
        card: Path | None,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        **options: Any,
    ) -> None:
        self.started = time.perf_counter()
        self.files, self.to, self.out_dir, self.report = files, to, out_dir, report
        self.jobs, self.dask, self.manifest, self.force, self.sha256 = jobs, dask, manifest, force, sha256
        self.as_json, self.quiet, self.verbose, self.card = as_json, quiet, verbose, card
        self.options = _chosen(options)
        self._check_usage(all_models)
        self.suffix = to or ("pt" if out_dir is not None or files[1] == "-" else PurePath(files[1]).suffix[1:])
        self.sharded = "max_shard_size" in self.options
        self._check_files()

    def _check_usage(self, all_models: bool) -> None:
        files, out_dir = self.files, self.out_dir
        if not files or (out_dir is None and len(files) != 2):
            raise click.UsageError("pass IN and OUT, or several inputs and --out-dir DIR")
        if self.card is not None and (out_dir is not None or all_models or not all(isinstance(f, Path) for f in files)):
            raise click.UsageError("--card needs one local input file and its output")
        if out_dir is not None and (all_models or self.report):
            raise click.UsageError("--all and --report take IN.t7 OUT, not --out-dir")
        if all_models and "key" in self.options:
            raise click.UsageError("--all converts every model; omit it to convert the one of --key")
        if (out_dir is not None or all_models) and (self.report or self.sha256):
            raise click.UsageError("--report and --sha256 need one input and one output")
        if "-" in files and (out_dir is not None or all_models):
            raise click.UsageError("- cannot be combined with --out-dir or --all")
        if files[-1] == "-" and "max_shard_size" in self.options:
            raise click.UsageError("--max-shard-size writes several files; name one instead of -")
        if (self.manifest or self.dask is not None or self.jobs > 1) and out_dir is None and not all_models:
            raise click.UsageError("--jobs, --manifest and --dask need --out-dir or --all")
        if self.options.get("sandbox") and "lua" not in self.options:
            raise click.UsageError("--sandbox and --partial-sandbox need --lua")
        if out_dir is None:
            _check_pair(files, self.to)

    def _check_files(self) -> None:
        """Raise an error if an output would replace an input."""
        named = [file for name in ("plugins", "lua", "input") for file in self.options.get(name, ())]
        protect_inputs(*named, *(self.files if self.out_dir is not None else self.files[:1]))
        if self.manifest is not None:
            self.manifest = manifest_path(self.manifest)
            if is_accepted(file := os.path.realpath(self.manifest)):
                check_output(file, True)
                protect_inputs(file)
        out = self.files[1] if self.out_dir is None else None
        if out is not None:
            written = index_of(out) if self.sharded else out
            check_distinct(None if written == "-" else location_of(written), self.card, self.report)
        for output, may_replace in ((out, True), (self.card, self.force), (self.report, True)):  # users edit cards
            if isinstance(output, Path):
                check_output(output, may_replace)

    def _load(self, progress: Callable[[str], None]) -> Any:
        """Import PyTorch, parse the options that need PyTorch, and raise an error if the format rejects an option."""
        load_torch(progress)
        from dpnn_bridge.cli.inputs import ExampleInput
        from dpnn_bridge.files import converting

        if "input" in self.options:
            self.options["input"] = ExampleInput.of(self.options["input"], self.options.get("dtype"))
        name = f"out.{self.suffix}" if self.out_dir is not None or self.files[1] == "-" else self.files[1]
        _, format = converting.target_of(name, self.to, self.options.get("max_shard_size"))
        ConvertOptions.of(self.options).of_format(format, os.fspath(name))
        return converting

    def convert_one(self) -> None:
        """Convert a file and print the result."""
        with steps(self.quiet or self.as_json) as progress:
            converting = self._load(progress)
            with _output(self.files[1], self.suffix) as target:
                arguments = {"to": self.to, "force": self.force, "sha256": self.sha256, "progress": progress}
                done = converting.convert(piped(self.files[0]), target, **arguments, **self.options)
        with after_writing(self.files[1]):
            if self.report is not None:
                write_text(self.report, json.dumps(done.to_dict(), indent=2) + "\n", force=True)
        with after_writing(self.files[1], *([] if self.report is None else [self.report])):
            if self.card is not None:
                self._write_card(done)
        if self.as_json:
            click.echo(json.dumps(done.to_dict(), indent=2))
        elif not self.quiet and self.files[1] != "-":
            shown = (self.files[0], index_of(self.files[1])) if self.sharded else self.files
            print_one(done, shown, self.verbose, time.perf_counter() - self.started)
            for written, what in ((self.report, "report"), (self.card, "model card")):
                if written is not None:
                    say_written(self.files[0], written, what)

    def _write_card(self, done: Report) -> None:
        """Compare the output with the input, and write the model card."""
        from dpnn_bridge.cli.inputs import ExampleInput
        from dpnn_bridge.files import load
        from dpnn_bridge.modules.inputs import input_shapes
        from dpnn_bridge.parity.api import verify
        from dpnn_bridge.parity.card import card

        if "modules" not in done.metadata:
            raise ConversionError(f"{self.card}: a model card needs a model; {self.files[1]} contains data")
        source, target = self.files[0], Path(index_of(self.files[1])) if self.sharded else self.files[1]
        names = ("key", "plugins", "lua", "sandbox", "allow_unsupported", "index_base")
        arguments = {name: self.options[name] for name in names if name in self.options}
        example, model = self.options.get("input"), load(source, **arguments)
        if example is None and (shapes := input_shapes(model, file_status(source).st_size)):
            example = ExampleInput.of(shapes, None)
        result = verify(source, target, input=example(model) if example else None, **arguments)
        write_text(self.card, card(done, result, target), force=self.force)  # type: ignore[arg-type]
        if not result.ok:
            raise VerificationError(f"{target} computes other results than {source}; see {self.card}")

    def convert_many(self) -> None:
        """Convert several files, or all models of one file, and print a table."""
        with steps(self.quiet or self.as_json) as progress:
            self._load(progress)
        from dpnn_bridge import batch
        from dpnn_bridge.files import model_keys

        if self.out_dir is not None:
            tasks = batch.tasks_for(self.files, self.out_dir, INDEX if self.sharded else f".{self.to or 'pt'}")
        else:
            target = location_of(index_of(self.files[1])) if self.sharded else self.files[1]
            classes = {n: v for n, v in self.options.items() if n in ("plugins", "lua", "sandbox")}
            tasks = batch.tasks_for_models(self.files[0], target, keys=model_keys(self.files[0], **classes))
        with executor_of(self.dask, self.options.get("plugins", ())) as executor:
            arguments = {"jobs": self.jobs, "executor": executor, "manifest": self.manifest, "force": self.force}
            outcomes = batch.run(tasks, to=self.to, **arguments, **self.options)
            _run_many(tasks, outcomes, self.as_json, self.quiet, self.verbose)


def _check_pair(files: Sequence[Any], to: str | None) -> None:
    """Raise a usage error for an invalid combination of input and output."""
    source, target = files
    if target == "-" and not to:
        raise click.UsageError("OUT is -: select the format with --to")
    if isinstance(source, Path) and isinstance(target, Path) and os.path.realpath(source) == os.path.realpath(target):
        raise click.UsageError("IN and OUT are the same file")
    if target == "-" or to:
        return
    try:
        suffix_of(target)
    except ConversionError as error:
        if isinstance(target, Path) and target.is_dir():
            raise click.UsageError(f"OUT is a folder; use --out-dir {shell_file(target)} to write into it") from None
        raise click.UsageError(str(error)) from error


@contextmanager
def _output(target: Any, suffix: str) -> Iterator[Path]:
    """Yield the file to write; for ``-``, a temporary file that is copied to stdout."""
    if target != "-":
        yield target
        return
    with temporary_folder() as folder, naming(path := folder / f"out.{suffix}", "stdout"):
        yield path
        with open(path, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)


def _run_many(tasks: Sequence[Task], outcomes: Iterator[Outcome], as_json: bool, quiet: bool, verbose: bool) -> None:
    from rich.progress import Progress

    done: list[Outcome] = []
    with Progress(console=console(stderr=True), disable=quiet or as_json or not sys.stderr.isatty()) as progress:
        bar = progress.add_task("converting", total=len(tasks))
        for outcome in outcomes:
            done.append(outcome)
            progress.advance(bar)
    order = {os.fspath(task.target): i for i, task in enumerate(tasks)}
    done.sort(key=lambda o: order[os.fspath(o.task.target)])
    if as_json:
        click.echo(json.dumps([o.to_dict() for o in done], indent=2))
    elif not quiet:
        print_many(done, verbose)
    failed = [o for o in done if o.status == "failed"]
    for o in failed:
        name = printable(str(o.task.source))
        say_lines(f"error: {in_options(o.message if o.message.startswith(name) else f'{name}: {o.message}')}", err=True)
    if failed:
        sys.exit(max(o.exit_code for o in failed))
