"""Write ``.onnx``, and compare it with the model in onnxruntime."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dpnn_bridge.base.extras import missing_package
from dpnn_bridge.base.python_parser import literal_eval
from dpnn_bridge.base.version import package_version
from dpnn_bridge.base.writing import open_compared
from dpnn_bridge.compare import nested
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.outputs.dynamic import Dynamic
from dpnn_bridge.outputs.format import ORIGIN, ExportContext, Format
from dpnn_bridge.outputs.onnx_activations import OnnxActivations
from dpnn_bridge.outputs.onnx_poolings import OnnxPoolings
from dpnn_bridge.outputs.onnx_scalars import OnnxScalars
from dpnn_bridge.outputs.plain import json_text
from dpnn_bridge.outputs.value_names import input_names, output_names
from dpnn_bridge.outputs.verification import (
    UnsupportedDtypeError,
    check_example,
    check_program,
    export_error,
    run_traceable,
    traceable,
    utf8_name,
    without_log_messages,
)
from dpnn_bridge.outputs.written import GraphNode, Results, Written, results_of_modules, with_scopes

#: metadata key under which torch.onnx stores the names of the modules that contain an operation
SCOPES = "pkg.torch.onnx.name_scopes"


def _libraries() -> Any:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as e:
        raise missing_package(".onnx", "onnx", e) from e
    return onnx, onnxruntime


def _check_opset(program: Any, requested: int | None) -> None:
    """Refuse a program whose operator set is not the requested one: torch.onnx ignores a conversion that fails."""
    written = program.model.opset_imports[""]
    if requested not in (None, written):
        raise ConversionError(
            f"torch.onnx wrote operator set {written} and cannot convert the model to opset= (--opset) {requested}; "
            f"pass {written}, or omit the option"
        )


def _check_file(onnx: Any, name: str, opset: int | None) -> None:
    """Check a written file; torch.onnx converts some operations to an older operator set that does not allow them."""
    try:
        onnx.checker.check_model(name)
    except onnx.checker.ValidationError as e:
        if opset is None:
            raise
        reason = str(e).partition("\n")[0]
        raise ConversionError(
            f"torch.onnx cannot convert the model to opset= (--opset) {opset}: {reason}; pass a newer operator set, or "
            "omit the option"
        ) from e


def _first_cause(error: BaseException) -> BaseException:
    """Return the error that caused all others; torch.onnx wraps it in errors with long messages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _session(model: str | bytes, *, optimized: bool = True) -> Any:
    """Return a session that runs a model. Without optimizations, all its values exist."""
    _, onnxruntime = _libraries()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # each error is raised too
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented as e:
        raise _unsupported(e) from e
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph as e:
        if "(bfloat16)" in str(e):
            raise _unsupported(e) from e
        raise


def _run(session: Any, feed: dict[str, Any]) -> list[Any]:
    try:
        return session.run(None, feed)
    except Exception as e:
        if "does not support double" in str(e):
            raise _unsupported(e) from e
        raise


def _unsupported(error: Exception) -> UnsupportedDtypeError:
    return UnsupportedDtypeError(
        "onnxruntime cannot run this model; it supports most layers in single precision only, so try --dtype float32 "
        f"(model.float()): {error}"
    )


def _feed(names: list[str], value: Any) -> dict[str, Any]:
    """Return the inputs of a session by name: the tensors of a nested value, in order."""
    tensors = list(nested.tensors(value))
    if len(tensors) != len(names):
        raise ConversionError(f"the graph has {len(names)} inputs ({', '.join(names)}), found {len(tensors)} tensors")
    return {name: t.detach().cpu().numpy() for name, t in zip(names, tensors, strict=True)}


def _scopes(node: Any) -> frozenset[str] | None:
    """Return the modules that contain an operation, from torch.onnx's metadata; None without valid metadata."""
    found = [p.value for p in node.metadata_props if p.key == SCOPES]
    try:  # the last name is the name of the operation
        return frozenset(name for name in literal_eval(found[0])[:-1] if name) if found else None
    except (ValueError, SyntaxError, TypeError):
        return None


def _add_scopes(program: torch.onnx.ONNXProgram) -> None:
    """Add the metadata about modules to operations that torch.onnx's optimizer created without it.

    Outputs of the graph are skipped, because they were renamed, so a name can belong to another operation.
    """
    assert program.exported_program is not None
    modules = {n.name: n.meta.get("nn_module_stack") or {} for n in program.exported_program.graph.nodes}
    outputs = {value.name for value in program.model.graph.outputs}
    for node in program.model.graph:
        for name in (value.name for value in node.outputs if SCOPES not in node.metadata_props):
            if name in modules and name not in outputs:
                node.metadata_props[SCOPES] = repr([*(scope for scope, _ in modules[name].values()), name])


def _name_uniquely(graph: Any) -> None:
    """Rename values inside a graph that have the same name as an input or output, whose names the user chose."""
    external = [*graph.inputs, *graph.outputs]
    inner = [value for node in graph for value in node.outputs] + list(graph.initializers.values())
    ids, names = {id(value) for value in external}, {value.name for value in external}
    inner = [value for value in inner if id(value) not in ids]
    used = names | {value.name for value in inner}
    for value in inner:
        if value.name in names:
            value.name = next(name for i in count(1) if (name := f"{value.name}_{i}") not in used)
            used.add(value.name)


def _example(inputs: list[Any]) -> Any:
    """Return random inputs (ones for integer types); the size of a dynamic dimension is 2."""
    onnx, _ = _libraries()
    values = []
    generator = torch.Generator().manual_seed(0)
    for i in inputs:
        dtype = torch.from_numpy(np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))).dtype
        shape = [d.dim_value or 2 for d in i.type.tensor_type.shape.dim]
        is_real = dtype.is_floating_point
        values.append(torch.randn(shape, generator=generator).to(dtype) if is_real else torch.ones(shape, dtype=dtype))
    return values[0] if len(values) == 1 else values


def _axes(value: Any) -> dict[int, str]:
    """Return the dynamic axes of an input: index -> name."""
    return {axis: d.dim_param for axis, d in enumerate(value.type.tensor_type.shape.dim) if d.dim_param}


class Onnx(Format):
    """The format ``.onnx``."""

    suffix = ".onnx"
    options = ("input", "dynamic", "opset", "input_names", "output_names")
    program = traced = True

    def write(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        check_example(context.example, ".onnx", module)
        onnx, _ = _libraries()
        # an error of the model is clearer than an error of the tracer
        output = run_traceable(module, context.example)
        inputs = input_names(module, context.example, context.options.get("input_names"))
        outputs = output_names(module, output, context.options.get("output_names"), inputs)
        dynamic = Dynamic.of(context.options.get("dynamic", False), context.example, inputs)
        *_, example = context.written = dynamic.examples(context.example, module)
        try:
            with without_log_messages(), OnnxPoolings(), OnnxActivations(), OnnxScalars():
                program = torch.onnx.export(
                    traceable(module),
                    (example, {}) if isinstance(example, dict) else (example,),  # a last dict is keyword arguments
                    dynamo=True,
                    verbose=False,
                    opset_version=context.options.get("opset"),
                    input_names=inputs,
                    output_names=outputs,
                    dynamic_shapes=(dynamic.shapes(example, named=True),) if dynamic else None,
                )
        except Exception as e:
            advice = "try .pt2, which supports more operations and runs without this package too"
            raise export_error("torch.onnx", _first_cause(e), module, dynamic=bool(dynamic), advice=advice) from e
        assert program is not None
        _check_opset(program, context.options.get("opset"))
        _add_scopes(program)
        _name_uniquely(program.model.graph)
        if "origin" in context.metadata:
            program.model.metadata_props[ORIGIN] = context.metadata["origin"]
        metadata = {"version": package_version(), **context.metadata}
        for name in ("source", "key", "version", "checkpoint"):  # `checkpoint` contains vocabulary, mean, options, …
            if (value := metadata.get(name)) is not None:
                text = value if isinstance(value, str) else json_text(value, ".onnx")
                program.model.metadata_props[f"dpnn_bridge.{name}"] = text
        with open_compared(path) as file:
            onnx.save_model(program.model_proto, file)

    def verify(self, module: nn.Module, path: Path, context: ExportContext) -> None:
        onnx, _ = _libraries()
        with utf8_name(path) as name:
            _check_file(onnx, name, context.options.get("opset"))
            session = _session(name)
        names = [i.name for i in session.get_inputs()]

        def compute(example: Any) -> list[Tensor]:
            return [torch.from_numpy(o) for o in _run(session, _feed(names, example))]

        check_program(path, compute, module, context.written, "onnxruntime")

    def origin(self, path: Path) -> str | None:
        onnx, _ = _libraries()
        model = onnx.load(str(path), load_external_data=False)
        return next((p.value for p in model.metadata_props if p.key == ORIGIN), None)

    def open(self, path: Path, module: nn.Module, key: str = "") -> Written:
        """Open the graph to compute the results of each module of the model with onnxruntime.

        The metadata of each operation contains the modules to which the operation belongs.
        """
        onnx, _ = _libraries()
        model = onnx.load(str(path))
        tensors = {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in model.graph.initializer}
        names = set(module.state_dict())
        given_inputs = [i for i in model.graph.input if i.name not in tensors]
        inputs = [i.name for i in given_inputs]
        biases = _added_biases(model.graph.node, names)
        tensors = {biases.get(name, name): tensor for name, tensor in tensors.items()}
        names.update(biases.values())
        outputs = [o.name for o in model.graph.output]
        nodes = [GraphNode(_scopes(node), tuple(node.input), tuple(node.output)) for node in model.graph.node]
        results = results_of_modules(nodes, outputs)
        opset = next((o.version for o in model.opset_import if not o.domain), None)
        scopes = [node.scopes or frozenset() for node in with_scopes(nodes, outputs)[0]]

        def run(value: Any, given: Results) -> Results:
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            added = sorted(set(results.values()) - set(outputs))
            changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
            feed = _feed(inputs, value)
            scope_of: dict[str, str] = {}  # name of a value -> module whose given result replaces it outside the module
            for scope, name in results.items():
                if isinstance(given.get(scope), Tensor) and name not in scope_of:
                    scope_of[name] = scope
                    feed[f"given {name}"] = array = given[scope].detach().cpu().numpy()
                    element_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                    info = onnx.helper.make_tensor_value_info(f"given {name}", element_type, array.shape)
                    changed.graph.input.append(info)
            for node, modules in zip(changed.graph.node, scopes, strict=True):
                for i, name in enumerate(node.input):
                    if name in scope_of and scope_of[name] not in modules:
                        node.input[i] = f"given {name}"
            session = _session(changed.SerializeToString(), optimized=False)
            computed = dict(zip([*outputs, *added], _run(session, feed), strict=True))
            values = {name: torch.from_numpy(v) for name, v in computed.items()}
            output = [values[name] for name in outputs]
            found: Results = {scope: values[name] for scope, name in results.items()}
            return found | {"": output[0] if len(output) == 1 else output}

        return Written(
            {k: v for k, v in tensors.items() if k in names},
            renamed=tuple(v for k, v in tensors.items() if k not in names),
            run=run,
            example=_example(given_inputs),
            complete=False,
            exact=False,
            dynamic=Dynamic(tuple(_axes(i) for i in given_inputs)),
            options={"input_names": inputs, "opset": opset},
        )


def _added_biases(nodes: Iterable[Any], names: Collection[str]) -> dict[str, str]:
    """Return the biases of layers that have none in the model: folding a batch normalization adds a bias.

    Args:
        nodes: operations of the graph.
        names: names in the model's ``state_dict``.

    Returns:
        Name of a bias in the graph -> name that it would have in the ``state_dict``.
    """
    found: dict[str, str] = {}
    for _, weight, bias in (node.input for node in nodes if len(node.input) == 3):
        layer, _, leaf = weight.rpartition(".")
        if weight in names and leaf == "weight" and bias not in names:
            found[bias] = f"{layer}.bias"
    return found


FORMAT = Onnx()
