"""Implement ``dpnn-convert --into`` and ``dpnn-verify MODEL my_models.py:Net`` for networks of the user."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpnn_bridge.base.atomic import after_writing, check_output, reading_back, replacing, write_text
from dpnn_bridge.base.boundary import as_package_error, wrap_errors
from dpnn_bridge.base.file_set import check_distinct
from dpnn_bridge.base.import_file import import_file, importing_from
from dpnn_bridge.base.python_parser import literal_eval, parse
from dpnn_bridge.base.shards import check_unchanged, versions_of
from dpnn_bridge.base.similar import did_you_mean
from dpnn_bridge.base.suffixes import PICKLED
from dpnn_bridge.cli.terminal import (
    console,
    piped,
    plain_table,
    protect_inputs,
    say,
    say_lines,
    say_written,
    steps,
)
from dpnn_bridge.errors import ConversionError, OptionError, T7Error, VerificationError

if TYPE_CHECKING:
    from torch import nn

    from dpnn_bridge.porting import PortReport

_NETWORK = re.compile(r"(?P<file>.+?\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_][\w.]*)(?P<arguments>\(.*\))?", re.DOTALL)

#: options of dpnn-convert that define classes of the user
CLASSES = ("plugins", "lua", "sandbox", "partial_sandbox")


@dataclass(frozen=True)
class Comparison:
    """A comparison of a Torch7 model with a network of the user, and the options for its output.

    Attributes:
        model: path or URL of the Torch7 file.
        network: the name of the network, see :func:`network_of`.
        inputs: values of ``--input``: shapes or files.
        key: path of the model in the file.
        later: also find the deviations after the first one.
        report_to: file to write the report to, or None.
        as_json, quiet, verbose, unbounded: options of the same names.
        classes: arguments ``plugins``, ``lua`` and ``sandbox`` of :func:`dpnn_bridge.load`.
    """

    model: Any
    network: str
    inputs: Sequence[str]
    key: str | None
    later: bool
    report_to: Path | None
    as_json: bool
    quiet: bool
    verbose: bool
    unbounded: bool = True
    classes: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def created_network(self) -> Iterator[nn.Module]:
        """Create the network. Inside the ``with`` block, the folder of its file is on ``sys.path``.

        Raises:
            UsageError: no input was passed.
            OutputError: the report cannot be written, or would replace an input.
        """
        protect_inputs(self.model, *self.inputs, *self.classes.get("plugins", ()), *self.classes.get("lua") or ())
        with _importable(self.network):
            network = network_of(self.network)
            if not self.inputs:
                from dpnn_bridge.modules.inputs import input_options

                raise click.UsageError(f"pass an input: a shape, such as {input_options(network)}, or a file")
            if self.report_to is not None:
                check_output(self.report_to, True)
            yield network

    def run(self, network: nn.Module, *, verify_only: bool) -> PortReport:
        """Port the weights of the model into the network, or verify the weights that are already loaded.

        Raises:
            OptionError: the file contains several models, and there is no key.
        """
        with steps(self.quiet or self.as_json) as progress:
            progress("loading PyTorch")
            from dpnn_bridge.files import load
            from dpnn_bridge.modules.several import Models
            from dpnn_bridge.porting import judge, port

            example = example_of(self.inputs, network)
            tensors = example if isinstance(example, tuple) else (example,)
            indexed = any(hasattr(t, "is_floating_point") and not t.is_floating_point() for t in tensors)
            source = load(piped(self.model), key=self.key, index_base=0 if indexed else 1, **self.classes)
            progress("comparing both networks")
            call = None if self.unbounded or isinstance(source, Models) else self._limited(tensors)
            return (judge if verify_only else port)(source, network, example, later=self.later, source=call)

    def _limited(self, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Return a function that calls the model with limits for memory and time, from the sizes of file and inputs."""
        from dpnn_bridge.conversion.limits import ResourceLimits
        from dpnn_bridge.parity.bounded import run_limits
        from dpnn_bridge.porting.networks import call_source

        input_bytes = sum(tensor.nbytes for tensor in inputs if hasattr(tensor, "nbytes"))
        limits = ResourceLimits(more=os.path.getsize(self.model) + input_bytes)
        return partial(call_source, running=run_limits(limits))

    def show(self, report: PortReport, title: str) -> None:
        """Write the report to its file, and print it as JSON or as text."""
        if self.report_to is not None:
            from dpnn_bridge.porting import port_page

            page = self.report_to.suffix in (".html", ".htm")
            text = port_page(report, title) if page else json.dumps(report.to_dict(), indent=2) + "\n"
            write_text(self.report_to, text, force=True)
        if self.as_json:
            click.echo(json.dumps(report.to_dict(), indent=2))
            return
        if self.quiet:
            return
        if self.verbose:
            table = plain_table()
            for column in ("parameter", "source", "form"):
                table.add_column(column, overflow="fold")
            for match in report.matches:
                table.add_row(match.parameter, match.source, match.form)
            console().print(table)
        say_lines(str(report))
        if self.report_to is not None:
            say_written(title, self.report_to, "report")


def convert_into(comparison: Comparison, target: Any, force: bool) -> None:
    """Load the weights of a Torch7 model into a network, and write the state_dict of the network.

    Raises:
        UsageError: the target is not a local file, or its suffix is not supported.
        OptionError: target and report are the same file.
        VerificationError: the outputs of network and model differ; no file is written.
    """
    if not isinstance(target, Path) or target.suffix not in (*PICKLED, ".safetensors"):
        raise click.UsageError("--into writes a local file: OUT.pt, OUT.pth or OUT.safetensors")
    check_distinct(target, comparison.report_to)
    model, name = comparison.model, comparison.network
    with comparison.created_network() as network:
        check_output(target, force)
        before = versions_of(Path(model))
        report = comparison.run(network, verify_only=False)
        check_unchanged(Path(model), str(model), before)
    title = f"{model} into {name}"
    if not report.equal:
        comparison.show(report, title)
        raise VerificationError(f"{name} computes other results than {model}; {target} was not written")
    save_weights(target, network, force)
    with after_writing(target):
        comparison.show(report, title)
    if not (comparison.quiet or comparison.as_json):
        say(f"{model} -> {target}: the state_dict of {name}")


def verify_network(comparison: Comparison, weights: Path | None) -> None:
    """Verify a network whose weights are in ``weights`` or already loaded.

    Raises:
        VerificationError: the outputs of network and model differ.
    """
    protect_inputs(weights)
    model, name = comparison.model, comparison.network
    with comparison.created_network() as network:
        if weights is not None:
            _load(network, weights)
        report = comparison.run(network, verify_only=True)
    comparison.show(report, f"{model} and {name}")
    if not report.equal:
        raise VerificationError(f"{name} computes other results than {model}")


def is_network(text: str) -> bool:
    """Return whether an argument names a class or a function: ``my_models.py:Net(3)``, ``torchvision.models:vgg16``."""
    return _NETWORK.fullmatch(text) is not None


def network_of(text: str) -> nn.Module:
    """Create a network from its name. This runs the file, and prevents outputs of the command from replacing it.

    Args:
        text: ``FILE.py:NAME`` or ``PACKAGE:NAME``. If NAME is a class or a function, literal arguments in parentheses
            may follow.

    Raises:
        OptionError: the text has another form, or the network cannot be created.
    """
    parts = _NETWORK.fullmatch(text)
    if parts is None:
        raise OptionError(f"{text}: expected FILE.py:NAME or PACKAGE:NAME, with literal arguments in parentheses")
    from torch import nn

    positional, named = _arguments(parts["arguments"] or "()", text)
    try:
        value: Any = _module(parts["file"])
        for name in parts["name"].split("."):
            value = _member(value, name, parts["file"])
        if isinstance(value, nn.Module) and parts["arguments"]:
            raise OptionError(f"{text}: {parts['name']} is a module already; omit {parts['arguments']}")
        network = value(*positional, **named) if not isinstance(value, nn.Module) else value
    except OptionError:
        raise
    except PermissionError as e:
        raise as_package_error(e, OptionError, f"creating {text}") from e
    except SystemExit as e:
        step = "if the file is also a script, put the script below `if __name__ == '__main__':`"
        raise OptionError(f"{text} cannot be created: the code calls sys.exit({e}); {step}") from e
    except Exception as e:
        raise OptionError(f"{text} cannot be created: {type(e).__name__}: {e}") from e
    if not isinstance(network, nn.Module):
        raise OptionError(f"{text} is a {type(network).__name__}, not a torch.nn.Module")
    return network


def _member(owner: Any, name: str, file: str) -> Any:
    """Return a member of a file, a package or a class; the error suggests a similar name, or lists the file's own."""
    try:
        return getattr(owner, name)
    except AttributeError:
        home = getattr(owner, "__name__", None)
        members = getattr(owner, "__dict__", {}).items()
        own = [n for n, v in members if isinstance(v, type) and getattr(v, "__module__", None) == home]
        hint = did_you_mean(name, dir(owner), f"it has {', '.join(own) or 'no classes'}")
        raise OptionError(f"{file}: no {name}; {hint}") from None


def _arguments(text: str, network: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the named arguments of a call in parentheses."""
    expected = OptionError(f"{network}: arguments must be literals in one call, as in Net(num_classes=10)")
    try:
        call = parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise expected
        names = [k.arg for k in call.keywords if k.arg is not None]
        if len(set(names)) < len(call.keywords):  # ``**{}``, or a duplicate name
            raise expected
        values = [literal_eval(k.value) for k in call.keywords]
        return [literal_eval(a) for a in call.args], dict(zip(names, values, strict=True))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as e:
        raise expected from e


@contextmanager
def _importable(network: str) -> Iterator[None]:
    """Add the folder of a network's file to ``sys.path``, so that the network can import files of this folder."""
    parts = _NETWORK.fullmatch(network)
    if parts is None or not parts["file"].endswith(".py"):
        yield
        return
    with importing_from(str(Path(parts["file"]).resolve().parent), first=True):
        yield


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        module = importlib.import_module(name)
        protect_inputs(getattr(module, "__file__", None))
        return module
    path = Path(name)
    if not os.path.isfile(path):
        raise OptionError(f"{name}: no such file")
    protect_inputs(path)
    return import_file(path, "dpnn_bridge_network")


def example_of(specs: Sequence[str], network: nn.Module) -> Any:
    """Return the example input of ``--input``; indices are valid for the smallest nn.Embedding."""
    from torch import nn

    from dpnn_bridge.cli.inputs import example_input

    tables = [m.num_embeddings for m in network.modules() if isinstance(m, nn.Embedding)]
    example = example_input(specs, "float32", index_limit=min(tables, default=2))
    return tuple(example) if isinstance(example, list) else example


def save_weights(target: Path, network: nn.Module, force: bool) -> None:
    """Write the state_dict of a network, without metadata of dpnn_bridge, and compare it with the file.

    Raises:
        ConversionError: the state_dict contains a value that is not a tensor.
        VerificationError: the file differs after reading back.
    """
    from torch import Tensor

    from dpnn_bridge.compare.bits import same_tensors
    from dpnn_bridge.outputs import pt_writer, safetensors_writer

    state = network.state_dict()
    if other := next((f"{name} is a {type(v).__name__}" for name, v in state.items() if not isinstance(v, Tensor)), ""):
        step = "remove it (get_extra_state), or fill the network with dpnn_bridge.port and save it yourself"
        raise ConversionError(f"{target}: expected tensors in the state_dict of the network, but {other}; {step}")
    state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    with replacing(target, force=force) as temporary:
        if target.suffix == ".safetensors":
            parts = {name: safetensors_writer.part_of(tensor) for name, tensor in state.items()}
            safetensors_writer.write(temporary, parts, {"format": "pt"})
        else:
            pt_writer.save(state, temporary)
        with reading_back(target):
            read = _read(temporary)
        same_tensors(target, read, state)


def _read(weights: Path) -> Any:
    from dpnn_bridge.outputs import pt_file, safetensors_file

    return safetensors_file.read(weights)[1] if weights.suffix == ".safetensors" else pt_file.read(weights)


def _load(network: nn.Module, weights: Path) -> None:
    state: Any = wrap_errors(T7Error, "--weights")(_read)(weights)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    try:
        network.load_state_dict(state)
    except Exception as e:
        raise OptionError(f"--weights {weights}: {' '.join(str(e).split())}") from e
