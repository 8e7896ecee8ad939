"""``dpnn-verify``: prints, layer by layer, how far a model is from what Torch7 computed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.base.atomic import check_output, write_text
from dpnn_bridge.cli.terminal import (
    DTYPES,
    Command,
    console,
    dask_option,
    executor_of,
    jobs_option,
    json_option,
    plain_table,
    quiet_option,
    say,
    steps,
    version_option,
)
from dpnn_bridge.compare.verdict import Verdict
from dpnn_bridge.errors import ModelNotFoundError, NotT7Error, VerificationError
from dpnn_bridge.parity.known_differences import read_known_differences

if TYPE_CHECKING:
    from rich.console import Console

    from dpnn_bridge.compare.differences import Difference, Tolerance
    from dpnn_bridge.conversion.options import Options
    from dpnn_bridge.parity.verification import Verification


@click.command("dpnn-verify", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL", type=click.Path(path_type=Path))
@click.argument("converted", metavar="[CONVERTED]", required=False, type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), help="A .t7 table: input, output, gradInput, …, after.")
@click.option("--input", "inputs", multiple=True, help="Input: a .t7, .npy or .pt file, or a shape such as 1x3x32x32.")
@click.option("--output", "outputs", multiple=True, help="What Torch7 returned for it: a .t7, .npy or .pt file.")
@click.option(
    "--lua-path",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with Torch7's Lua sources: what they compute is the reference.",
)
@click.option("--torch7", help="Program of a real Torch7, th or luajit: what it computes is the reference.")
@click.option("--key", help="Path of the model inside the file, such as protos.rnn; found by itself when left out.")
@click.option("--mode", type=click.Choice(["train", "eval"]), help="Default: as the reference says, else eval.")
@click.option("--device", default="cpu", show_default=True, help="Where to run, such as cuda.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision to run in; default: as in the file.")
@click.option("--backward/--no-backward", default=True, help="Compare gradients when the reference holds them.")
@click.option("--rtol", type=click.FloatRange(0), help="Accepted relative difference; default 1e-10 (double), 1e-4.")
@click.option("--gradient-rtol", type=click.FloatRange(0), help="The same for gradients; default 1e-10 (double), 1e-3.")
@click.option(
    "--known-differences",
    type=click.Path(path_type=Path),
    help="JSON file of comparisons that may differ, each with its reason.",
)
@click.option("--plugin", multiple=True, type=click.Path(path_type=Path), help="Python file with @lua_class blocks.")
@click.option("--allow-unsupported", is_flag=True, help="Unknown classes become placeholders that raise when they run.")
@click.option("--unbounded", is_flag=True, help="Run the model whatever memory and time its sizes ask for.")
@jobs_option
@dask_option
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a report as one HTML page.")
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print every comparison, not only the worst of each layer.")
@version_option
def verify_command(
    model: Path,
    converted: Path | None,
    reference: Path | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    lua_path: tuple[Path, ...],
    torch7: str | None,
    key: str | None,
    mode: str | None,
    device: str,
    dtype: str | None,
    backward: bool,
    rtol: float | None,
    gradient_rtol: float | None,
    known_differences: Path | None,
    plugin: tuple[Path, ...],
    allow_unsupported: bool,
    unbounded: bool,
    jobs: int,
    dask: str | None,
    html: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compares MODEL with what Torch7 computed, layer by layer.

    \b
      dpnn-verify model.t7 --reference ref.t7             values that Torch7 stored
      dpnn-verify model.t7 --input x.npy --output y.npy   the same, as arrays
      dpnn-verify fixture.t7                              a fixture that holds its own module
      dpnn-verify model.t7 model.onnx --input 1x3x32x32   a converted file, of any format
      dpnn-verify data.t7 data.npz                        data without a model: whether that is what they give
      dpnn-verify model.t7                                nothing to compare with: how its classes were checked
      dpnn-verify done.jsonl --jobs 8                     every file of a manifest that dpnn-convert wrote

    Layers are compared where the reference holds their results: in its field `after` (the module after forward), or in
    MODEL itself when it was saved after a forward with the same input. CONVERTED is compared with MODEL in every
    tensor and layer; a .py file is run, since it is your own.

    What differs is judged, forward and gradients apart: `rounding only` is explained by rounding, `random` needs a
    seed, a `known fault of Torch7` is named; the rest is `different`.

    \b
    Exit codes: 0 nothing is different, also where nothing was compared, 2 wrong usage, 3 a file cannot be read,
    4 something is different, 5 a class cannot be converted or the model cannot run, 6 the report cannot be written,
    7 Lua or Torch7 failed, 1 the system refused, 130 interrupted.
    """
    if model.suffix == ".jsonl":
        _verify_manifest(model, jobs, dask, plugin, as_json, quiet, verbose)
        return
    if jobs > 1 or dask:
        raise click.UsageError("--jobs and --dask are for a manifest, MODEL.jsonl")
    if outputs and not inputs:
        raise click.UsageError("--output needs --input")
    if lua_path and torch7:
        raise click.UsageError("--lua-path and --torch7 both compute a reference: leave out one")
    if (lua_path or torch7) and outputs:
        raise click.UsageError(f"{'--lua-path' if lua_path else '--torch7'} computes the output: leave out --output")
    if reference and inputs:
        raise click.UsageError("--reference holds the input; leave out --input and --output")
    try:
        known = read_known_differences(known_differences) if known_differences else []
    except (NotT7Error, ValueError) as error:
        raise click.UsageError(f"--known-differences: {error}") from None
    read = [model, converted, reference, known_differences, *plugin, *inputs, *outputs]
    used = [p for p in read if p is not None]
    if html is not None:
        check_output(html, True, used)
    with steps(quiet or as_json) as progress:
        progress("loading PyTorch")
        import torch

        from dpnn_bridge.cli.inputs import example_input
        from dpnn_bridge.conversion.options import Options
        from dpnn_bridge.parity.verify import verify
        from dpnn_bridge.plugins import load_plugins

        if device.startswith("cuda") and not torch.cuda.is_available():
            raise VerificationError("--device cuda: this machine has no CUDA device that PyTorch can use")
        load_plugins(plugin)
        progress(f"running {model}")
        chosen = Options(allow_unsupported=allow_unsupported)
        try:
            result = verify(
                model,
                converted,
                reference=reference,
                input=_example(inputs, dtype, model, key, chosen) if inputs else None,
                output=example_input(outputs, dtype) if outputs else None,
                key=key,
                mode=mode,
                device=device,
                dtype=getattr(torch, dtype) if dtype else None,
                gradients=backward,
                tolerance=_tolerance(rtol),
                gradient_tolerance=_tolerance(gradient_rtol),
                options=chosen,
                lua=_bridge(lua_path) if lua_path else None,
                torch7=torch7,
                known=known,
                bounded=not unbounded,
            )
        except ModelNotFoundError:
            same = None if converted is None else _same_data(model, converted, key, dtype)
            if same is None:
                raise
            result = None
    if result is None:
        _print_data(model, converted, same, as_json, quiet)
        return
    if html is not None:
        from dpnn_bridge.pictures.report import report

        write_text(html, report(result, model), inputs=used)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    elif not quiet:
        print_checklist(result, console(), verbose=verbose)
    if not result.ok:
        if quiet:
            from dpnn_bridge.parity.verification import summary

            say(f"error: {summary(result)}", err=True)
        sys.exit(VerificationError.exit_code)


def _same_data(model: Path, converted: Path, key: str | None, dtype: str | None) -> bool | None:
    """Whether ``converted`` is what data without a model give; None where there is a model, or nothing, at the key."""
    from dpnn_bridge.checkpoints.find import candidates, follow
    from dpnn_bridge.files import is_converted
    from dpnn_bridge.loaders.t7_reader import read_t7

    data = read_t7(model)
    data = follow(data, key) if key else data
    return None if data is None or candidates(data) else is_converted(model, converted, key=key, dtype=dtype)


def _print_data(model: Path, converted: Path | None, same: bool | None, as_json: bool, quiet: bool) -> None:
    if as_json:
        found = {"model": str(model), "converted": str(converted), "verdict": "equal" if same else "different"}
        click.echo(json.dumps({**found, "ok": same}, indent=2))
    elif same and not quiet:
        click.echo(f"PASS: data without a model; {converted} holds what {model} gives")
    if not same:
        raise VerificationError(f"data without a model; {converted} does not hold what {model} gives now")


def _verify_manifest(
    path: Path, jobs: int, dask: str | None, plugin: tuple[Path, ...], as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Checks the files of a manifest: counts by verdict, then what is wrong."""
    from collections import Counter

    from dpnn_bridge.parity.manifest_check import check_manifest

    with steps(quiet or as_json) as progress, executor_of(jobs, dask) as executor:
        done = []
        plugins = tuple(os.path.realpath(p) for p in plugin)
        for checked in check_manifest(path, executor=executor, plugins=plugins):
            done.append(checked)
            progress(f"{len(done)} files checked")
    done.sort(key=lambda c: c.target)
    failed = [c for c in done if not c.ok]
    counts = dict(sorted(Counter(c.verdict for c in done).items()))
    if as_json:
        report = {"manifest": str(path), "files": len(done), "verdicts": counts, "ok": not failed}
        click.echo(json.dumps({**report, "lines": [c.to_dict() for c in done]}, indent=2))
    elif not quiet:
        for c in done if verbose else []:
            say(f"{c.verdict}: {c.target}")
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        say(f"{len(done)} file{'s' * (len(done) != 1)}: {verdicts or 'nothing was converted'}")
    for c in failed if not as_json else []:
        say(f"error: {c.target}: {c.verdict}{f': {c.message}' if c.message else ''}", err=True)
    if failed:
        sys.exit(VerificationError.exit_code)


#: stdout is for the result
_PRINT_TO_STDERR = """
io.output(io.stderr)
function print(...)
   local words = {...}
   for i = 1, select('#', ...) do words[i] = tostring(words[i]) end
   io.write(table.concat(words, '\\t'), '\\n')
end
"""


def _tolerance(rtol: float | None) -> Tolerance | None:
    from dpnn_bridge.compare.differences import Tolerance

    return None if rtol is None else Tolerance(rtol, rtol)


def _example(inputs: tuple[str, ...], dtype: str | None, model: Path, key: str | None, options: Options) -> Any:
    """The input; the model decides the type of a shape without one."""
    from dpnn_bridge.cli.inputs import example_input, shapes_alone
    from dpnn_bridge.errors import DpnnBridgeError
    from dpnn_bridge.files import load_with_report

    if not dtype and shapes_alone(inputs):
        with suppress(DpnnBridgeError):  # `verify` reads the model as well, and says what is wrong with it
            return example_input(inputs, load_with_report(model, key, options)[0])
    return example_input(inputs, dtype)


def _bridge(lua_path: tuple[Path, ...]) -> Any:
    from dpnn_bridge.lua import LuaBridge

    bridge = LuaBridge(lua_path)
    bridge.execute(_PRINT_TO_STDERR)
    return bridge


# ---------------------------------------------------------------------- output
def print_checklist(result: Verification, console: Console, *, verbose: bool = False) -> None:
    """The tree of layers with the worst difference of each, then what does not belong to a layer, then one line."""
    from rich.text import Text

    from dpnn_bridge.parity.verification import headline, reasons, summary, what_differs

    console.print(Text.assemble((result.model, "bold"), " ", (headline(result), "dim")), soft_wrap=True)
    wide = console.width >= 100
    where = wide and (verbose or not result.ok)  # which element is the worst matters when something is wrong
    numbers = [*NUMBERS][: None if console.width >= 140 else 3] if wide else ["relative"]
    table = plain_table(highlight=False)
    for name in ("", "layer", "class"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    table.add_column("compared", min_width=12)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    if where:
        table.add_column("worst element", min_width=24)
    evidence = {} if result.differences else {c["class_name"]: c["evidence"] for c in result.classes()}
    for layer in result.layers:
        compared = layer.compared
        shown = compared if verbose else [layer.worst] if layer.worst else []
        name = "  " * layer.depth + (layer.path.rpartition(".")[2] or "model")
        if not shown:
            note = layer.note or evidence.get(layer.class_name, "")
            table.add_row(Text("·", "dim"), name, layer.class_name, Text(note, "dim"))
        for i, d in enumerate(shown):
            label = (name, layer.class_name) if i == 0 else ("", "")
            also = f" (of {len(compared)})" if wide and not verbose and len(compared) > 1 else ""
            cells = [
                _mark(d),
                *label,
                what_differs(layer, d) + also,
                *_cells(d, numbers),
                *([_place(d)] if where else []),
            ]
            table.add_row(*cells, style="" if d.ok else "red")
    for d in result.without_layer if verbose else [d for d in result.without_layer if not d.ok]:
        cells = [_mark(d), "", "", d.name, *_cells(d, numbers), *([_place(d)] if where else [])]
        table.add_row(*cells, style="" if d.ok else "red")
    console.print(table)
    for (verdict, reason), names in reasons(result).items():
        console.print(Text(f"{verdict.text}: {_shortened(names)}: {reason}", "yellow"), soft_wrap=True)
    for note in result.notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)
    console.print(Text(summary(result), _STYLES[result.verdict]), soft_wrap=True)


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


#: how the last line looks; yellow where something was excused, or nothing compared
_STYLES = {
    Verdict.EQUAL: "bold green",
    Verdict.ROUNDING: "bold green",
    Verdict.RANDOM: "bold yellow",
    Verdict.KNOWN: "bold yellow",
    Verdict.DIFFERENT: "bold red",
    None: "bold yellow",
}


def _mark(difference: Difference) -> Any:
    from rich.text import Text

    marks = {Verdict.EQUAL: ("✓", "green"), Verdict.ROUNDING: ("≈", "green"), Verdict.DIFFERENT: ("✗", "red")}
    return Text(*marks.get(difference.verdict, ("≠", "yellow")))


#: heading of a column -> the number of a comparison in it
NUMBERS: dict[str, Callable[[Difference], str]] = {
    "max abs": lambda d: f"{d.absolute:.1e}",
    "relative": lambda d: f"{d.error:.1e}",
    "allowed": lambda d: f"{d.tolerance:.0e}" if d.tolerance else "0",
    "cosine": lambda d: f"{d.cosine:.6f}",
    "SNR dB": lambda d: f"{d.snr:.0f}",
}


def _cells(d: Difference, names: list[str]) -> list[str]:
    """The numbers of a comparison; none where the shapes or kinds differ."""
    return ["" if d.mismatched else NUMBERS[name](d) for name in names]


def _place(d: Difference) -> str:
    """The worst element, or what else is wrong."""
    if d.index is None:
        return d.message
    return f"{list(d.index)}: {d.found:.7g} for {d.expected:.7g}"
