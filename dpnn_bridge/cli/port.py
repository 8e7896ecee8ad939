"""Implement ``dpnn-convert --into`` and ``dpnn-verify MODEL my_models.py:Net`` for networks of the user."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.base.atomic import after_writing, check_output, replacing, write_text
from dpnn_bridge.cli.terminal import check_distinct, console, plain_table, protect_inputs, say, say_written, steps
from dpnn_bridge.errors import OptionError, VerificationError

if TYPE_CHECKING:
    from torch import nn

    from dpnn_bridge.porting import PortReport

_NETWORK = re.compile(r"(?P<place>.+?\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)(?P<arguments>\(.*\))?", re.DOTALL)


def is_network(text: str) -> bool:
    """Return whether an argument names a class or a function: ``my_models.py:Net(3)``, ``torchvision.models:vgg16``."""
    return _NETWORK.fullmatch(text) is not None


def network_of(text: str) -> nn.Module:
    """Create the network that a text names. This runs its file, which no output of the command replaces.

    Raises:
        OptionError: the text names none, or it cannot be created.
    """
    found = _NETWORK.fullmatch(text)
    if found is None:
        raise OptionError(f"{text}: expected FILE.py:NAME or PACKAGE:NAME, with literal arguments in parentheses")
    from torch import nn

    positional, named = _arguments(found["arguments"] or "()", text)
    try:
        value: Any = _module(found["place"])
        for name in found["name"].split("."):
            value = getattr(value, name)
        network = value(*positional, **named) if not isinstance(value, nn.Module) else value
    except OptionError:
        raise
    except Exception as e:
        raise OptionError(f"{text} cannot be created: {type(e).__name__}: {e}") from e
    if not isinstance(network, nn.Module):
        raise OptionError(f"{text} is a {type(network).__name__}, not a torch.nn.Module")
    return network


def _arguments(text: str, whole: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        call = ast.parse(f"f{text}", mode="eval").body
        assert isinstance(call, ast.Call)
        return [ast.literal_eval(a) for a in call.args], {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError) as e:
        raise OptionError(f"{whole}: arguments must be literals, as in Net(num_classes=10)") from e


def _module(place: str) -> Any:
    if not place.endswith(".py"):
        module = importlib.import_module(place)
        protect_inputs(getattr(module, "__file__", None))
        return module
    path = Path(place)
    if not path.is_file():
        raise OptionError(f"{place}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    protect_inputs(path)
    return module


def example_of(specs: Sequence[str], network: nn.Module) -> Any:
    """Return the example input of ``--input``; indices count from 0 and are below the size of the smallest table."""
    import torch
    from torch import nn

    from dpnn_bridge.cli.inputs import example_input

    tables = [m.num_embeddings for m in network.modules() if isinstance(m, nn.Embedding)]
    generator = torch.Generator().manual_seed(0)

    def varied(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.is_floating_point() or not bool((value == 1).all()):
            return value
        return torch.randint(0, min(tables, default=2), value.shape, generator=generator)

    example = example_input(specs, "float32")
    return tuple(map(varied, example)) if isinstance(example, list) else varied(example)


def run(
    model: Path, network: nn.Module, inputs: Sequence[str], key: str | None, *, judging: bool, later: bool, quiet: bool
) -> PortReport:
    """Port the weights of a file into a network, or judge the weights that it has.

    Args:
        later: also find the deviations after the first one.
    """
    if not inputs:
        from dpnn_bridge.modules.inputs import input_options

        raise click.UsageError(f"pass an input: a shape, such as {input_options(network)}, or a file")
    with steps(quiet) as progress:
        progress("loading PyTorch")
        from dpnn_bridge.files import load
        from dpnn_bridge.porting import judge, port

        example = example_of(inputs, network)
        tensors = example if isinstance(example, tuple) else (example,)
        indexed = any(hasattr(t, "is_floating_point") and not t.is_floating_point() for t in tensors)
        source = load(model, key=key, index_base=0 if indexed else 1)
        progress("comparing both networks")
        return (judge if judging else port)(source, network, example, later=later)


def convert_into(files: Sequence[Any], into: str, inputs: Sequence[str], key: str | None, **how: Any) -> None:
    """Write the state_dict of a network with the weights of a Torch7 model.

    Raises:
        VerificationError: the network is not proven to compute the same; no file is written.
    """
    if len(files) != 2 or Path(str(files[1])).suffix not in (".pt", ".pth", ".safetensors"):
        raise click.UsageError("--into takes IN.t7 and one output: OUT.pt, OUT.pth or OUT.safetensors")
    source, target, page = Path(files[0]), Path(files[1]), how["report_to"]
    check_distinct(target, page)
    protect_inputs(source, *inputs)
    network = network_of(into)
    check_output(target, how["force"])
    if page is not None:
        check_output(page, True)
    quiet = how["quiet"] or how["as_json"]
    report = run(source, network, inputs, key, judging=False, later=how["later"], quiet=quiet)
    if not report.equal:
        show(report, title=f"{source} into {into}", **how)
        raise VerificationError(f"{into} does not compute what {source} computes; {target} was not written")
    save_weights(target, network, how["force"])
    with after_writing(target):
        show(report, title=f"{source} into {into}", **how)
    if not (how["quiet"] or how["as_json"]):
        say(f"{source} -> {target}: the state_dict of {into}")


def save_weights(target: Path, network: nn.Module, force: bool) -> None:
    """Write a plain state_dict."""
    from dpnn_bridge.outputs import pt_writer, safetensors_writer

    state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    with replacing(target, force=force) as temporary:
        if target.suffix == ".safetensors":
            parts = {name: safetensors_writer.part_of(tensor) for name, tensor in state.items()}
            safetensors_writer.write(temporary, parts, {"format": "pt"})
        else:
            pt_writer.save(state, temporary)


def verify_network(
    model: Path, text: str, weights: Path | None, inputs: Sequence[str], key: str | None, **how: Any
) -> None:
    """Judge a port that has its weights.

    Raises:
        VerificationError: it does not compute the same.
    """
    protect_inputs(model, weights, *inputs)
    network = network_of(text)
    if how["report_to"] is not None:
        check_output(how["report_to"], True)
    if weights is not None:
        _load(network, weights)
    quiet = how["quiet"] or how["as_json"]
    report = run(model, network, inputs, key, judging=True, later=how["later"], quiet=quiet)
    show(report, title=f"{model} and {text}", **how)
    if not report.equal:
        raise VerificationError(f"{text} does not compute what {model} computes")


def _load(network: nn.Module, weights: Path) -> None:
    from dpnn_bridge.outputs import pt_file, safetensors_file

    state: Any = safetensors_file.read(weights)[1] if weights.suffix == ".safetensors" else pt_file.read(weights)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    try:
        network.load_state_dict(state)
    except Exception as e:
        raise OptionError(f"--weights {weights}: {e}") from e


def show(
    report: PortReport, *, title: str, report_to: Path | None, as_json: bool, quiet: bool, verbose: bool, **_: Any
) -> None:
    """Print a report: as JSON, or as text with a table of the weights."""
    if report_to is not None:
        from dpnn_bridge.porting import port_page

        page = report_to.suffix in (".html", ".htm")
        write_text(report_to, port_page(report, title) if page else json.dumps(report.to_dict(), indent=2) + "\n")
    if as_json:
        say(json.dumps(report.to_dict(), indent=2))
        return
    if quiet:
        return
    if verbose:
        table = plain_table()
        for column in ("parameter", "source", "form"):
            table.add_column(column, overflow="fold")
        for match in report.matches:
            table.add_row(match.parameter, match.source, match.form)
        console().print(table)
    say(str(report))
    if report_to is not None:
        say_written(title, report_to, "report")
