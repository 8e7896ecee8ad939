"""dpnn-convert: parses, calls the API, prints. PyTorch is imported only when there is something to do."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.base.atomic import check_output, write_text
from dpnn_bridge.base.folders import temporary_folder
from dpnn_bridge.base.remote import place_of
from dpnn_bridge.base.suffixes import INDEX, OUTPUTS, index_of
from dpnn_bridge.cli.terminal import (
    DTYPES,
    Command,
    FileType,
    FolderType,
    SourceType,
    console,
    dask_option,
    executor_of,
    in_options,
    jobs_option,
    json_option,
    keep_inputs,
    piped,
    plain_table,
    quiet_option,
    say,
    sha256_option,
    steps,
    version_option,
)

if TYPE_CHECKING:
    from rich.console import Console

    from dpnn_bridge.batch import Outcome, Task
    from dpnn_bridge.conversion.report import Report


def list_classes(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Prints every Lua class with its torch module and ends the program."""
    if not wanted or ctx.resilient_parsing:
        return
    from dpnn_bridge.conversion.registry import known_names, torch_name

    for name, specs in known_names().items():
        click.echo(f"{name}\t{', '.join(torch_name(spec) for spec in specs)}")
    ctx.exit()


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", metavar="IN.t7 OUT | IN.t7... --out-dir DIR", nargs=-1, required=True, type=SourceType())
@click.option(
    "--to",
    type=click.Choice([*(suffix[1:] for suffix in OUTPUTS), "json"]),
    help="Output format; default: what OUT's suffix says, or pt.",
)
@click.option("--key", help="Path of the model inside the file, such as protos.rnn; found by itself when left out.")
@click.option("--all", "all_models", is_flag=True, help="Convert every model of the file: OUT.KEY.pt for each.")
@click.option("--out-dir", type=FolderType(), help="Folder for the outputs of many files, or its address.")
@jobs_option
@dask_option
@click.option(
    "--manifest",
    type=FileType(),
    help="Add a line of JSON for each of many files: checksums, verdict, seconds. dpnn-verify FILE.jsonl checks it.",
)
@click.option("--force", is_flag=True, help="Replace outputs that exist.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast floating point tensors; default: as in the file.")
@click.option(
    "--input", "inputs", multiple=True, help="Example input, 1x3x224x224[:int64] or a file; repeat for a list."
)
@click.option("--dynamic", is_flag=True, help="The first size of every input may vary (.onnx, .pt2).")
@click.option("--opset", type=click.IntRange(7), help="Version of ONNX's operators; default: what torch.onnx chooses.")
@click.option(
    "--max-shard-size", metavar="2GB", help="Write .safetensors in files of this size, in pieces: for large models."
)
@click.option("--input-names", metavar="A,B", help="Names of the inputs in an .onnx file.")
@sha256_option
@click.option("--plugin", multiple=True, type=click.Path(path_type=Path), help="Python file with @lua_class blocks.")
@click.option(
    "--lua", "lua_files", multiple=True, type=click.Path(path_type=Path), help="Lua file that defines classes."
)
@click.option("--sandbox", is_flag=True, help="Run the --lua files where they can do nothing but compute.")
@click.option("--partial-sandbox", is_flag=True, help="The same, also where the kernel cannot confine the process.")
@click.option("--allow-unsupported", is_flag=True, help="Unknown classes become placeholders that raise when they run.")
@click.option("--report", type=click.Path(path_type=Path), help="Write what was mapped to what, as JSON.")
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print the conversion table.")
@click.option(
    "--list-classes",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_classes,
    help="List the Lua classes that are known.",
)
@version_option
def convert_command(
    files: tuple[Any, ...],
    to: str | None,
    key: str | None,
    all_models: bool,
    out_dir: Any,
    jobs: int,
    dask: str | None,
    manifest: Any,
    force: bool,
    dtype: str | None,
    inputs: tuple[str, ...],
    dynamic: bool,
    opset: int | None,
    max_shard_size: str | None,
    input_names: str | None,
    sha256: str | None,
    plugin: tuple[Path, ...],
    lua_files: tuple[Path, ...],
    sandbox: bool,
    partial_sandbox: bool,
    allow_unsupported: bool,
    report: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Converts Torch7 models to PyTorch.

    \b
      dpnn-convert model.t7 model.pt              one file; the suffix chooses the format
      dpnn-convert *.t7 --out-dir converted       many files; what is done already is skipped
      dpnn-convert model.pt model.t7              back to Torch7
      dpnn-convert stats.t7 stats.npz             data without a model; --key takes a part
      dpnn-convert large.t7 model.safetensors --max-shard-size 2GB    larger than memory, in shards with an index
      dpnn-convert hf://user/repo/model.t7 out.pt an address (extra remote); - is what is piped in or out
      dpnn-convert 's3://zoo/**/*.t7' --out-dir s3://new --dask tcp://head:8786 --manifest done.jsonl    a fleet

    OUT.pt is read by dpnn_bridge.load and by torch.load(weights_only=True). Other suffixes: .safetensors and .npz
    (weights), .onnx and .pt2 (need --input), .py (a definition that needs only torch), .t7, and .json for data.

    \b
    Exit codes: 0 done, 2 wrong usage, 3 the input cannot be read, 4 verification failed, 5 a class or value cannot be
    converted, 6 the output exists (see --force) or cannot be written, 7 Lua failed, 1 the system refused, 130
    interrupted.
    """
    started = time.perf_counter()
    if out_dir is None and len(files) != 2:
        raise click.UsageError("give IN and OUT, or several inputs and --out-dir DIR")
    if out_dir is not None and (all_models or report):
        raise click.UsageError("--all and --report are for one file")
    if "-" in files and (out_dir is not None or all_models):
        raise click.UsageError("- is converted alone, without --out-dir and --all")
    if (manifest or dask) and out_dir is None and not all_models:
        raise click.UsageError("--manifest and --dask are for many files: --out-dir, or --all")
    if out_dir is None:
        _check_pair(files, to)
    suffix = to or ("pt" if out_dir is not None or files[1] == "-" else PurePath(files[1]).suffix[1:])
    if max_shard_size and suffix != "safetensors" and not (out_dir is None and str(files[1]).endswith(INDEX)):
        raise click.UsageError("--max-shard-size is for .safetensors: --to safetensors, or OUT.safetensors")
    form = {"dynamic": dynamic or None, "opset": opset, "input_names": input_names and input_names.split(",")}
    form = {name: value for name, value in form.items() if value is not None}
    if form and (suffix != "onnx" and (suffix, list(form)) != ("pt2", ["dynamic"])):
        raise click.UsageError("--dynamic is for .onnx and .pt2, --opset and --input-names are for .onnx")
    if lua_files and (jobs > 1 or dask):
        raise click.UsageError("--lua runs in one process: leave out --jobs and --dask")
    if (sandbox or partial_sandbox) and not lua_files:
        raise click.UsageError("--sandbox and --partial-sandbox are for --lua")
    keep_inputs(*plugin, *lua_files, *inputs, *(files if out_dir is not None else files[:1]))
    if manifest is not None and os.path.isfile(manifest):
        check_output(manifest, True)
        keep_inputs(manifest)
    if out_dir is None and isinstance(files[1], Path):
        check_output(files[1], True)
    if report is not None:
        if os.path.abspath(report) == os.path.abspath(files[1]):
            raise click.UsageError("--report and OUT are the same file")
        check_output(report, True)
    with steps(quiet or as_json) as progress:
        progress("loading PyTorch")
        import torch

        from dpnn_bridge import batch
        from dpnn_bridge import files as api

        options: dict[str, Any] = {
            "to": to,
            "dtype": getattr(torch, dtype) if dtype else None,
            "plugins": tuple(map(os.path.abspath, plugin)),
            "allow_unsupported": allow_unsupported,
            "example": partial(_example, [*map(_absolute, inputs)], dtype) if inputs else None,
            **form,
        }
        if max_shard_size:
            options["max_shard_size"] = max_shard_size
        if lua_files:
            from dpnn_bridge.lua import LuaBridge

            options["lua"] = LuaBridge.from_files(lua_files, sandbox="partial" if partial_sandbox else sandbox)
        if out_dir is None and not all_models:
            with _output(files[1], suffix) as target:
                one = {"key": key, "force": force, "sha256": sha256, "progress": progress}
                done = api.convert(piped(files[0]), target, **one, **options)
    if out_dir is None and not all_models:
        if report is not None:
            write_text(report, json.dumps(done.to_dict(), indent=2) + "\n")
        if as_json:
            click.echo(json.dumps(done.to_dict(), indent=2))
        elif not quiet and files[1] != "-":
            shown = (files[0], index_of(files[1])) if max_shard_size else files
            _print_one(done, shown, verbose, time.perf_counter() - started)
        return
    if out_dir is not None:
        tasks = batch.tasks_for(files, out_dir, INDEX if max_shard_size else f".{to or 'pt'}")
    else:
        target = place_of(index_of(files[1])) if max_shard_size else files[1]
        tasks = batch.tasks_for_models(files[0], target, keys=api.model_keys(files[0]))
    with executor_of(1, dask) as executor:
        outcomes = batch.run(tasks, jobs=jobs, executor=executor, manifest=manifest, force=force, **options)
        _run_many(tasks, outcomes, as_json, quiet)


def _check_pair(files: Sequence[Any], to: str | None) -> None:
    """Raises for an input and an output that do not fit."""
    source, target = files
    if target == "-" and not to:
        raise click.UsageError("OUT is -: say the format with --to")
    if isinstance(source, Path) and isinstance(target, Path) and os.path.realpath(source) == os.path.realpath(target):
        raise click.UsageError("IN and OUT are the same file")
    kind = PurePath(target).suffix
    if target != "-" and not to and kind not in (*OUTPUTS, ".json"):
        if isinstance(target, Path) and target.is_dir():
            raise click.UsageError(f"{target} is a folder; --out-dir {target} writes into it")
        known = ", ".join((*OUTPUTS, ".json"))
        raise click.UsageError(f"{target}: cannot write {kind or 'a file without suffix'}; choose {known}")


def _absolute(spec: str) -> str:
    """An ``--input`` that workers understand which have another working directory."""
    return os.path.abspath(spec) if os.path.isfile(spec) else spec


def _example(inputs: Sequence[str], dtype: str | None, model: Any) -> Any:
    """The example input for a model."""
    from dpnn_bridge.cli.inputs import example_input

    return example_input(inputs, dtype or model)


@contextmanager
def _output(target: Any, suffix: str) -> Iterator[Path]:
    """The file to write; for ``-`` one whose contents go to the standard output."""
    if target != "-":
        yield target
        return
    with temporary_folder() as folder:
        path = folder / f"out.{suffix}"
        yield path
        with open(path, "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)


def _print_one(done: Report, files: Sequence[Any], verbose: bool, seconds: float) -> None:
    if verbose:
        print_table(done, console())
    count = done.metadata.get("modules", 0)
    facts = [f"{count} module{'s' * (count != 1)}", f"{done.metadata['parameters']:,} parameters"]
    if "tensors" in done.metadata:  # data without a model
        tensors, values = done.metadata["tensors"], done.metadata["values"]
        facts = [
            "data without a model",
            f"{tensors} tensor{'s' * (tensors != 1)}",
            f"{values:,} other value{'s' * (values != 1)}",
        ]
    if done.metadata.get("key"):
        facts.insert(0, f"key {done.metadata['key']}")
    if done.unsupported:
        many = len(done.unsupported) != 1
        facts.append(f"{len(done.unsupported)} unsupported class{'es' * many}")
    if done.dropped:
        facts.append(f"{len(done.dropped)} value{'s' * (len(done.dropped) != 1)} dropped")
    say(f"{files[0]} -> {files[1]}: {', '.join(facts)}, {seconds:.1f} s")
    for note in done.notes:
        say(f"note: {in_options(note)}")


def print_table(report: Report, console: Console) -> None:
    """What became of which class, and what was left out."""
    table = plain_table()
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("Lua class", overflow="fold")
    table.add_column("PyTorch module", overflow="fold")
    for (lua, torch_type), count in report.counts().items():
        own = torch_type.startswith("dpnn_bridge.")
        table.add_row(str(count), lua, torch_type.rpartition(".")[2] if own else torch_type)
    console.print(table)
    for dropped in report.dropped:
        console.print(f"dropped {dropped.path}: {dropped.reason}", highlight=False, soft_wrap=True)


#: files that are listed one by one
MOST_ROWS = 100


def _run_many(tasks: Sequence[Task], outcomes: Iterator[Outcome], as_json: bool, quiet: bool) -> None:
    from rich.progress import Progress

    done: list[Outcome] = []
    progress = Progress(console=console(stderr=True), disable=quiet or as_json or not sys.stderr.isatty())
    with progress:
        bar = progress.add_task("converting", total=len(tasks))
        for outcome in outcomes:
            done.append(outcome)
            progress.advance(bar)
    order = {id(task): i for i, task in enumerate(tasks)}
    done.sort(key=lambda o: order[id(o.task)])
    if as_json:
        click.echo(json.dumps([o.to_dict() for o in done], indent=2))
    elif not quiet:
        _print_many(done)
    failed = [o for o in done if o.status == "failed"]
    for o in failed:
        named = o.message.startswith(str(o.task.source))
        say(f"error: {in_options(o.message if named else f'{o.task.source}: {o.message}')}", err=True)
    if failed:
        sys.exit(max(o.exit_code for o in failed))


def _print_many(done: Sequence[Outcome]) -> None:
    """One row for each file, or numbers alone where there are too many to read."""
    if len(done) > MOST_ROWS:
        counts = Counter(o.status for o in done)
        say(f"{len(done)} files: " + ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
        return
    table = plain_table()
    table.add_column("input", overflow="fold")
    table.add_column("output", overflow="fold")
    table.add_column("result", no_wrap=True)
    for name in ("modules", "parameters"):
        table.add_column(name, justify="right", no_wrap=True)
    for o in done:
        parameters = f"{o.facts['parameters']:,}" if o.facts else ""
        table.add_row(str(o.task.source), str(o.task.target), o.status, str(o.facts.get("modules", "")), parameters)
    console().print(table)
