"""Implement ``dpnn-verify``: compare a model with Torch7's results, layer by layer."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from dpnn_bridge.base.atomic import check_output, write_text
from dpnn_bridge.base.display import counted, printable
from dpnn_bridge.cli.checklist import print_checklist
from dpnn_bridge.cli.terminal import (
    DTYPES,
    Command,
    InputType,
    OutputType,
    accept_only,
    console,
    dask_option,
    executor_of,
    in_options,
    jobs_option,
    json_option,
    partial_sandbox_option,
    protect_inputs,
    quiet_option,
    say,
    say_lines,
    say_written,
    steps,
    version_option,
)
from dpnn_bridge.cli.torch_import import load_torch
from dpnn_bridge.errors import VerificationError

if TYPE_CHECKING:
    from dpnn_bridge.parity.verification import Verification

#: options for the conversion of classes
_CLASSES = ("plugin", "lua", "sandbox", "partial_sandbox", "allow_unsupported", "index_base")


@click.command("dpnn-verify", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("model", metavar="MODEL", type=InputType())
@click.argument("converted", metavar="[CONVERTED]", required=False, type=InputType())
@click.option("--reference", type=InputType(), help="A .t7 table with input, output, gradInput, …, after.")
@click.option("--weights", type=InputType(), help="state_dict for CONVERTED, if CONVERTED is FILE.py:NET.")
@click.option("--all", "later", is_flag=True, help="List every deviation, not only the first, for FILE.py:NET.")
@click.option("--input", "inputs", multiple=True, help="Input: a .t7, .npy or .pt file, or a shape such as 1x3x32x32.")
@click.option("--output", "outputs", multiple=True, help="Output of Torch7 for --input: a .t7, .npy or .pt file.")
@click.option(
    "--lua-path",
    multiple=True,
    type=InputType(exists=True, file_okay=False),
    help="Folder with Torch7's Lua sources, which compute the reference.",
)
@click.option("--torch7", help="Torch7 program (th or luajit) that computes the reference, after any --lua files.")
@click.option("--key", help="Path of the model in the file, such as protos.rnn. Detected automatically by default.")
@click.option(
    "--mode",
    type=click.Choice(["train", "eval"]),
    help="Mode of the model. Default: the mode of the reference, or eval.",
)
@click.option("--device", default="cpu", show_default=True, help="Device, such as cuda.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Precision of the run. Default: the dtype of the file.")
@click.option("--backward/--no-backward", default=True, help="Compare gradients if the reference contains them.")
@click.option("--rtol", type=click.FloatRange(0), help="Accepted relative difference. Default: 1e-10 (double), 1e-4.")
@click.option(
    "--gradient-rtol",
    type=click.FloatRange(0),
    help="Accepted relative difference of gradients. Default: 1e-10 (double), 1e-3.",
)
@click.option(
    "--known-differences",
    type=InputType(),
    help="JSON file of comparisons that may differ, each with its reason.",
)
@click.option("--plugin", multiple=True, type=InputType(), help="Python file with @lua_class mappings.")
@click.option("--lua", multiple=True, type=InputType(), help="Lua file that defines classes.")
@click.option("--sandbox", is_flag=True, help="Run the --lua files in a process that can only compute.")
@partial_sandbox_option
@click.option(
    "--allow-unsupported", is_flag=True, help="Insert placeholders for unknown classes. They raise when they run."
)
@click.option(
    "--index-base",
    type=click.Choice(["0", "1"]),
    default="1",
    help="First index in inputs and outputs that are indices, as for the conversion of CONVERTED. Default: 1.",
)
@click.option("--trust-manifest", is_flag=True, help="Download URLs and run programs that the manifest lists.")
@click.option("--unbounded", is_flag=True, help="Run the model without limits of memory and time.")
@jobs_option
@dask_option
@click.option("--html", type=OutputType(), help="Write a report as one HTML page. Replaces FILE.")
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Print every comparison, not only the worst of each layer.")
@version_option
def verify_command(weights: Path | None, later: bool, partial_sandbox: bool, **options: Any) -> None:
    """Compare MODEL with Torch7's results, layer by layer.

    \b
      a reference that Torch7 stored
        dpnn-verify model.t7 --reference ref.t7
      a reference as arrays
        dpnn-verify model.t7 --input x.npy --output y.npy
      a fixture that contains its module
        dpnn-verify fixture.t7
      a converted file, of any format
        dpnn-verify model.t7 model.onnx --input 1x3x32x32
      your own implementation; runs the file
        dpnn-verify in.t7 my_models.py:Net --weights my.pth --input 1x3x32x32
      data without a model
        dpnn-verify data.t7 data.npz
      without a reference: how its classes were tested
        dpnn-verify model.t7
      all files of a manifest of dpnn-convert
        dpnn-verify done.jsonl --jobs 8

    A layer is compared if the reference contains its results: in the field `after` (the module after its
    forward pass), or in MODEL itself if it was saved after a forward pass with the same input. CONVERTED is compared
    with MODEL in every tensor and layer. A .py file is run, because it is your own. A manifest may come from others:
    only its lines with local files in data formats are checked, unless you pass --trust-manifest.

    The forward pass and the gradients have separate verdicts. `rounding only`: rounding explains the difference.
    `random`: the reference needs a seed. `known difference`: the report names the reason. `different`: all other cases.

    Marks: ✓ equal, ≈ rounding only, ? random, ≠ known difference, ✗ different, · not compared.
    """
    if partial_sandbox:
        options["sandbox"] = "partial"
    if options["sandbox"] and not options["lua"]:
        raise click.UsageError("--sandbox and --partial-sandbox need --lua")
    if _verify_network(weights, later, options):
        return
    request = Request(**options)
    if request.model.suffix == ".jsonl":
        accept_only("a manifest", "trust_manifest", *_CLASSES, "jobs", "dask", "as_json", "verbose")
        if request.converted is not None:
            raise click.UsageError(f"a manifest lists its files; omit {request.converted}")
        _verify_manifest(request)
        return
    request.check()
    _verify_model(request)


def _verify_network(weights: Path | None, later: bool, options: dict[str, Any]) -> bool:
    """Verify the user's implementation if CONVERTED is FILE.py:NET; return False if CONVERTED is a file."""
    from dpnn_bridge.cli.port import Comparison, is_network, verify_network

    network = str(options["converted"] or "")
    if not is_network(network) or os.path.exists(network):
        if weights is not None or later:
            raise click.UsageError(f"--{'all' if weights is None else 'weights'} needs CONVERTED as FILE.py:NET")
        return False
    own = ("weights", "later", "inputs", "key", "html", "as_json", "verbose", "unbounded")
    accept_only("FILE.py:NET", *own, "plugin", "lua", "sandbox", "partial_sandbox")
    plugins, lua = (tuple(map(os.path.abspath, options[name])) for name in ("plugin", "lua"))
    classes = {"plugins": plugins, "lua": lua or None, "sandbox": options["sandbox"]}
    shared = {name: options[name] for name in ("model", "inputs", "key", "as_json", "quiet", "verbose", "unbounded")}
    comparison = Comparison(network=network, later=later, report_to=options["html"], classes=classes, **shared)
    verify_network(comparison, weights)
    return True


@dataclass(frozen=True)
class Request:
    """The arguments of the command line, see the options of :func:`verify_command`."""

    model: Path
    converted: Path | None
    reference: Path | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    lua_path: tuple[Path, ...]
    torch7: str | None
    key: str | None
    mode: str | None
    device: str
    dtype: str | None
    backward: bool
    rtol: float | None
    gradient_rtol: float | None
    known_differences: Path | None
    plugin: tuple[Path, ...]
    lua: tuple[Path, ...]
    sandbox: bool | Literal["partial"]
    allow_unsupported: bool
    index_base: str
    trust_manifest: bool
    unbounded: bool
    jobs: int
    dask: str | None
    html: Path | None
    as_json: bool
    quiet: bool
    verbose: bool

    def check(self) -> None:
        """Check the combination of options, and that the report does not replace an input.

        Raises:
            UsageError: An option requires a manifest.
            OutputError: The report would replace an input.
        """
        if self.jobs > 1 or self.dask is not None or self.trust_manifest:
            raise click.UsageError("--jobs, --dask and --trust-manifest need a manifest, MODEL.jsonl")
        self._protect_inputs()

    def classes(self) -> dict[str, Any]:
        """Return the keyword arguments for the conversion of classes."""
        settings = {"sandbox": self.sandbox, "allow_unsupported": self.allow_unsupported}
        return {"lua": self.lua or None, "index_base": int(self.index_base), **settings}

    def _protect_inputs(self) -> None:
        files = (self.model, self.converted, self.reference, self.known_differences, self.torch7)
        protect_inputs(*files, *self.plugin, *self.lua, *self.inputs, *self.outputs)
        if self.html is not None:
            check_output(self.html, True)


# ---------------------------------------------------------------------- one model
def _verify_model(request: Request) -> None:
    """Compare a model, or data without a model, and print the result."""
    with steps(request.quiet or request.as_json) as progress:
        load_torch(progress)
        from dpnn_bridge.plugins import load_plugins

        load_plugins(request.plugin)
        progress(f"running {request.model}")
        result = _verified(request)
    if not result.layers:
        accept_only("data without a model", "key", "dtype", *_CLASSES, "as_json", "verbose")
        _print_data(request, result.whole[0].message)
    else:
        _print(request, result)


def _verified(request: Request) -> Verification:
    from dpnn_bridge.cli.inputs import example_input
    from dpnn_bridge.parity.api import verify

    return verify(
        request.model,
        request.converted,
        reference=request.reference,
        input=_example(request) if request.inputs else None,
        output=example_input(request.outputs, request.dtype, "--output") if request.outputs else None,
        lua_path=request.lua_path,
        torch7=request.torch7,
        key=request.key,
        mode=request.mode,  # type: ignore[arg-type]
        device=request.device,
        dtype=request.dtype,
        backward=request.backward,
        rtol=request.rtol,
        gradient_rtol=request.gradient_rtol,
        known_differences=request.known_differences,
        **request.classes(),
        unbounded=request.unbounded,
    )


def _print(request: Request, result: Verification) -> None:
    """Write and print the result; exit with code 4 if something differs."""
    if request.html is not None:
        from dpnn_bridge.pictures.report import report

        write_text(request.html, report(result, request.model), force=True)
    if request.as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    elif not request.quiet:
        print_checklist(result, console(), verbose=request.verbose)
        if request.html is not None:
            say_written(request.model, request.html, "report")
    if not result.ok:
        if request.quiet:
            from dpnn_bridge.parity.verification import summary

            say(f"error: {summary(result)}", err=True)
        sys.exit(VerificationError.exit_code)


def _print_data(request: Request, difference: str) -> None:
    model, converted = request.model, request.converted
    if request.as_json:
        found = {"model": str(model), "converted": str(converted), "verdict": "different" if difference else "equal"}
        found |= {"difference": difference} if difference else {}
        click.echo(json.dumps({**found, "ok": not difference}, indent=2))
    elif not difference and not request.quiet:
        click.echo(f"PASS: data without a model; {converted} contains the data of {model}")
    if difference:
        differs = f"data without a model; {converted} differs from the data of {model}: {difference}"
        raise VerificationError(f"{differs}. Convert it again")


# ---------------------------------------------------------------------- a manifest
def _verify_manifest(request: Request) -> None:
    """Check the files of a manifest; print the number of files for each verdict, then the errors."""
    from dpnn_bridge.parity.manifest_check import check_manifest

    protect_inputs(request.model, *request.plugin, *request.lua)
    plugins = tuple(os.path.realpath(p) for p in request.plugin)
    with (
        steps(request.quiet or request.as_json) as progress,
        executor_of(request.dask, plugins) as executor,
    ):
        done = []
        trusted = request.trust_manifest
        lua = tuple(os.path.abspath(path) for path in request.lua) or None
        settings = {**request.classes(), "plugins": plugins, "lua": lua, "trusted": trusted}
        for checked in check_manifest(request.model, jobs=request.jobs, executor=executor, **settings):
            done.append(checked)
            progress(f"{len(done)} files checked")
    protect_inputs(*(file for c in done for file in (c.source, c.target)))  # from what follows on stdout
    done.sort(key=lambda c: c.target)
    failed = [c for c in done if not c.ok]
    counts = dict(sorted(Counter(c.verdict for c in done).items()))
    if request.as_json:
        report = {"manifest": str(request.model), "files": len(done), "verdicts": counts, "ok": not failed}
        click.echo(json.dumps({**report, "lines": [c.to_dict() for c in done]}, indent=2))
    elif not request.quiet:
        for c in done if request.verbose else []:
            say(f"{c.verdict}: {printable(c.target)}")
        verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        say(f"{counted(len(done), 'file')}: {verdicts or 'nothing was converted'}")
    for c in failed if not request.as_json else []:
        message = f": {in_options(c.message)}".replace("\n", "\n    ") if c.message else ""
        say_lines(f"error: {printable(c.target)}: {c.verdict}{message}", err=True)  # a name may contain line breaks
    if failed:
        sys.exit(VerificationError.exit_code)


# ---------------------------------------------------------------------- inputs
def _example(request: Request) -> Any:
    """Return the input. A random input gets the dtype of the model unless the command line has a dtype."""
    from dpnn_bridge.cli.inputs import example_input, has_untyped_shape
    from dpnn_bridge.errors import DpnnBridgeError
    from dpnn_bridge.files import load

    if not request.dtype and has_untyped_shape(request.inputs):
        with suppress(DpnnBridgeError):  # `verify` reads the model again, and reports the error
            return example_input(request.inputs, load(request.model, key=request.key, **request.classes()))
    return example_input(request.inputs, request.dtype)
