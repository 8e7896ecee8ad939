"""Write ``.pt2`` with ``torch.export``. The file runs without dpnn_bridge."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from dpnn_bridge.base.atomic import DeferredErrorFile
from dpnn_bridge.base.exclusive import Exclusive
from dpnn_bridge.base.reading import open_zip
from dpnn_bridge.base.writing import WrittenBytes
from dpnn_bridge.conversion.example_run import run
from dpnn_bridge.outputs.dynamic import Dynamic
from dpnn_bridge.outputs.format import ORIGIN, ExportContext, Format
from dpnn_bridge.outputs.verification import (
    check_example,
    check_program,
    check_zip,
    export_error,
    run_traceable,
    traceable,
    utf8_name,
    without_log_messages,
)
from dpnn_bridge.outputs.written import GraphNode, Results, Written, results_of_modules

#: environment variables of ``torch.load``
_ONLY_WEIGHTS, _ALSO_CODE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def _scopes(node: fx.Node) -> frozenset[str]:
    """Return the names of the modules that contain an operation."""
    return frozenset(name for name, _ in (node.meta.get("nn_module_stack") or {}).values() if name)


@contextmanager
def _first_error_raised() -> Iterator[None]:
    """Raise the first error of ``torch.export.load``, which logs it with a traceback and raises a later one."""
    errors: list[BaseException] = []

    def keep_error(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        errors.extend([error] if error else [])
        return error is None

    logger = logging.getLogger("torch.export")
    logger.addFilter(keep_error)
    try:
        yield
    except Exception as error:
        if errors:
            raise errors[0] from error
        raise
    finally:
        logger.removeFilter(keep_error)


@contextmanager
def _without_code() -> Iterator[None]:
    """Forbid that ``torch.load`` runs code, in every thread: ``torch.export.load`` calls it with weights_only=False."""
    with Exclusive(_ONLY_WEIGHTS):
        before = {name: os.environ.pop(name, None) for name in (_ONLY_WEIGHTS, _ALSO_CODE)}
        os.environ[_ONLY_WEIGHTS] = "1"
        try:
            yield
        finally:
            del os.environ[_ONLY_WEIGHTS]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def _load(path: Path) -> torch.export.ExportedProgram:
    with utf8_name(path) as name, _first_error_raised(), _without_code():
        return torch.export.load(name)


class _Recording(fx.Interpreter):
    """Runs a graph and records the results of modules.

    Args:
        module: the graph.
        results: module -> name of the operation that computes the module's result.
        given: module -> tensor that replaces the module's result in later operations.

    Attributes:
        found: module -> its result.
    """

    def __init__(self, module: fx.GraphModule, results: dict[str, str], given: Results) -> None:
        super().__init__(module)
        self.found: Results = {}
        self._given = given
        self._modules_of: dict[str, list[str]] = {}
        for scope, name in results.items():
            self._modules_of.setdefault(name, []).append(scope)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        for scope in self._modules_of.get(n.name, ()):
            self.found[scope] = value
        for scope in self._modules_of.get(n.name, ()):
            replacement = self._given.get(scope)
            if isinstance(replacement, Tensor) and isinstance(value, Tensor) and replacement.shape == value.shape:
                return replacement.to(value.dtype)
        return value


class Pt2(Format):
    """The format ``.pt2``: a program of ``torch.export``."""

    suffix = ".pt2"
    options = ("input", "dynamic")
    program = traced = True

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        check_example(context.example, ".pt2", module)
        run_traceable(module, context.example)  # an error of the model is clearer than an error of the tracer
        dynamic = replace(Dynamic.of(context.options.get("dynamic", False), context.example), larger_first=True)
        *_, example = context.written = dynamic.examples(context.example, module)
        written = WrittenBytes()
        try:
            # torch.export.load rejects programs that disable gradients inside
            with torch.no_grad(), without_log_messages():
                shapes = (dynamic.shapes(example),) if dynamic else None
                # strict mode rejects modules that change their state
                program = torch.export.export(traceable(module), (example,), dynamic_shapes=shapes, strict=False)
                with DeferredErrorFile(path, written) as file:
                    torch.export.save(program, file, extra_files={ORIGIN: context.metadata.get("origin", "")})  # type: ignore[arg-type]
        except Exception as e:
            raise export_error("torch.export", e, module, dynamic=bool(dynamic)) from e
        written.compare(path)

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        loaded = _load(path).module()
        check_program(path, lambda example: run(loaded, example), module, context.written, "the exported program")

    def origin(self, path: Path) -> str | None:
        check_zip(path)
        with open_zip(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith(f"/{ORIGIN}")), None)
            return (archive.read(name).decode() if name else "") or None

    def open(self, path: Path, module: nn.Module, key: str = "") -> Written:
        """Open the program to compute the results of each module of the model."""
        program = _load(path)
        example = program.example_inputs[0][0] if program.example_inputs and program.example_inputs[0] else None
        loaded = program.module()
        assert isinstance(loaded, fx.GraphModule)
        nodes = [
            GraphNode(_scopes(node), tuple(n.name for n in node.all_input_nodes), (node.name,))
            for node in loaded.graph.nodes
            if node.op == "call_function"
        ]
        (last,) = (node for node in loaded.graph.nodes if node.op == "output")
        results = results_of_modules(nodes, [n.name for n in last.all_input_nodes])

        def run(value: Any, given: Results) -> Results:
            recording = _Recording(loaded, results, given)
            with torch.no_grad():
                output = recording.run(value)
            return recording.found | {"": output}

        sizes = [n.meta["val"].shape for n in loaded.graph.nodes if n.op == "placeholder" and "val" in n.meta]
        axes = tuple({i: str(s) for i, s in enumerate(shape) if not isinstance(s, int)} for shape in sizes)
        dynamic = Dynamic(axes, larger_first=True)
        return Written(dict(program.state_dict), run=run, example=example, complete=False, exact=False, dynamic=dynamic)


FORMAT = Pt2()
