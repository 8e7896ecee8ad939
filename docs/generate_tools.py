"""Run PyTorch's tools on every architecture of the samples and fixtures, and write the table of docs/ecosystem.md.

The models are those of ``fixtures/samples``, the networks that tests build, and one fixture of each class that contains
other modules. A tool counts as working when what it made computes what the model computes. This takes minutes:
``--only NAME`` runs one model and prints it.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.cli.inputs import example_input
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.modules.inputs import input_shapes
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.outputs.dynamic import Dynamic

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "ecosystem.md"
BEGIN, END = "<!-- tools: written by docs/generate_tools.py -->", "<!-- end of tools -->"
#: signal-to-noise ratio that a result in less precision must have, in dB
LEAST_SQNR = 15.0
#: layers whose SQNR is listed one by one
MAX_LAYERS = 16


def models() -> Iterator[tuple[str, nn.Module, Any]]:
    """Name, model in evaluation mode and an input of every architecture."""
    samples = ROOT / "fixtures" / "samples"
    for folder in sorted(p for p in samples.iterdir() if (p / "model.t7").is_file()):
        reference = next(iter(sorted(folder.glob("ref*.t7"))), None)
        if reference is not None:
            yield from _read(folder.name, folder / "model.t7", reference)
    sys.path.insert(0, str(ROOT / "tests"))
    import networks

    for build, size in ((networks.resnet20, 32), (networks.cyclegan, 32), (networks.unpooling_network, 16)):
        yield build.__name__, build().eval(), torch.randn(2, 3, size, size)
    seen: set[str] = set()
    for entry in json.loads((ROOT / "fixtures" / "manifest.json").read_text(encoding="utf-8"))["fixtures"]:
        if entry["kind"] != "module" or entry["class"] in seen or "error" in entry:
            continue
        table = dpnn_bridge.read_t7(ROOT / "fixtures" / entry["file"])
        obj = table["module"]
        inner = [*(obj.get("modules") or {}).values(), obj.get("module")]
        if not any(isinstance(value, LuaObject) for value in inner):
            continue
        module = dpnn_bridge.to_torch(obj).float().eval()
        if len(list(module.modules())) > 2:
            seen.add(entry["class"])
            yield entry["class"], module, nested.cast(to_value(table["input"]), torch.float32)


def _read(name: str, model: Path, reference: Path) -> Iterator[tuple[str, nn.Module, Any]]:
    """Yield the model of a file with the input of its reference, or several models with inputs that they take."""
    table = dpnn_bridge.read_t7(reference)
    if table.get("input") is None or not dpnn_bridge.inspect(model).models:
        return
    loaded = dpnn_bridge.load(model)
    if isinstance(loaded, nn.ModuleDict):
        for key, module in loaded.items():
            if shapes := input_shapes(module.float().eval()):
                torch.manual_seed(0)
                yield f"{name} {key}", module, example_input(shapes, module)
        return
    x = to_value(table["input"])
    x = [x[key] for key in ("source", "source_size", "target")] if isinstance(x, dict) else x  # OpenNMT's
    yield name, loaded.float().eval(), nested.cast(x, torch.float32)


# ---------------------------------------------------------------------- the tools
def fx(model: nn.Module, x: Any) -> Any:
    """``torch.fx.symbolic_trace``."""
    return torch.fx.symbolic_trace(nn.Sequential(model))(x)


def exported(model: nn.Module, x: Any) -> Any:
    """``torch.export.export`` with a batch of any size, in the first or second dimension."""
    error: Exception | None = None
    for axis in ("batch=0", "batch=1"):
        try:
            dynamic = Dynamic.of(axis, x)
            examples = dynamic.examples(x, model)
            shapes = (dynamic.shapes(examples[-1]),)
            program = torch.export.export(copy.deepcopy(model), (examples[-1],), dynamic_shapes=shapes, strict=False)
            found = program.module()
            return [_seeded(found, e) for e in examples], [_seeded(copy.deepcopy(model), e) for e in examples]
        except Exception as e:
            error = error or e
    raise error or AssertionError


def _seeded(module: Any, x: Any) -> Any:
    torch.manual_seed(0)
    return module(x)


def traced(model: nn.Module, x: Any) -> Any:
    """``torch.jit.trace`` and ``torch.jit.freeze``."""
    return torch.jit.freeze(torch.jit.trace(model, (x,), check_trace=False))(x)


def compiled(model: nn.Module, x: Any) -> Any:
    """``torch.compile`` in one graph, without a C++ compiler."""
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend="aot_eager")(x)


def onnx(model: nn.Module, x: Any) -> Any:
    """``dpnn_bridge.save("model.onnx")``, which onnxruntime runs and compares."""
    with tempfile.TemporaryDirectory() as folder:
        dpnn_bridge.save(Path(folder) / "m.onnx", model, input=x)
    return model(x)


def int8(model: nn.Module, x: Any) -> Any:
    """torchao, 8-bit weights."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())
    if not any("AffineQuantized" in type(p).__name__ or "Int8" in type(p).__name__ for p in model.parameters()):
        raise ValueError("no nn.Linear, which torchao's weight-only quantization requires")
    return model(x)


def static_int8(model: nn.Module, x: Any) -> Any:
    """torchao's pt2e with ``X86InductorQuantizer``: 8-bit weights and activations, calibrated on the input."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (x,), strict=False).module(), quantizer)
    _seeded(prepared, x)
    quantized = convert_pt2e(prepared)
    if not any("quantize_per" in str(node.target) for node in quantized.graph.nodes):
        raise ValueError("no convolution or linear layer with its own weight, which the quantizer requires")
    return _seeded(quantized, x)


def bfloat16(model: nn.Module, x: Any) -> Any:
    """``model.bfloat16()``."""
    return nested.cast(model.bfloat16()(nested.cast(x, torch.bfloat16)), torch.float32)


#: tool -> function, and whether it may lose precision
TOOLS: dict[str, tuple[Callable[[nn.Module, Any], Any], bool]] = {
    "fx": (fx, False),
    "export, any batch": (exported, False),
    "jit.trace, freeze": (traced, False),
    "compile": (compiled, False),
    "ONNX": (onnx, False),
    "int8 weights": (int8, True),
    "int8 static": (static_int8, True),
    "bfloat16": (bfloat16, True),
}


def row(model: nn.Module, x: Any, tools: list[str] | None = None) -> dict[str, str]:
    """Tool -> ``yes``, a signal-to-noise ratio such as ``41 dB``, or ``no: REASON``."""
    found = {}
    for name in tools or TOOLS:
        tool, lossy = TOOLS[name]
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(0)
                expected = copy.deepcopy(model)(nested.copied(x))
                torch.manual_seed(0)
                result = tool(copy.deepcopy(model), nested.copied(x))
            if isinstance(result, tuple) and tool is exported:
                result, expected = result
            found[name] = _judged(result, expected, lossy)
        except Exception as error:
            found[name] = f"no: {_reason(error)}"
    return found


# ---------------------------------------------------------------------- where precision is lost
def layers(model: nn.Module, x: Any) -> list[tuple[str, float]]:
    """Layer -> SQNR of its result in dB, where torchao made the weights of all linear layers 8-bit numbers."""
    results: list[list[tuple[str, Tensor]]] = []
    for run in (lambda module, x: module(x), int8):
        module, found = copy.deepcopy(model), []
        for path, layer in module.named_modules():
            if type(layer) is nn.Linear:
                note = lambda m, args, output, path=path, found=found: found.append((path, output))  # noqa: E731
                layer.register_forward_hook(note)
        torch.manual_seed(0)
        with torch.no_grad():
            run(module, nested.copied(x))
        results.append(found)
    return [(path, _sqnr(mine, exact)) for (path, exact), (_, mine) in zip(*results, strict=True)]


def layer_cells(found: list[tuple[str, float]], output: str) -> str:
    """Return the cells of a model in the table of layers: every layer in order, the worst one, and the output."""
    finite = [(path, value) for path, value in found if value != float("inf")]
    path, worst = min(finite, key=lambda layer: layer[1])
    shown = " ".join(f"{value:.0f}" for _, value in finite[:MAX_LAYERS])
    more = f" … ({len(finite)} calls)" if len(finite) > MAX_LAYERS else ""
    return f"{shown}{more} | `{path or 'the model'}`: {worst:.0f} | {output.removesuffix(' dB')}"


def _sqnr(result: Tensor, expected: Tensor) -> float:
    noise = float((result.double() - expected.double()).square().sum())
    signal = float(expected.double().square().sum())
    return 10 * math.log10(signal / noise) if noise and signal else float("inf")


def _judged(result: Any, expected: Any, lossy: bool) -> str:
    pairs = list(zip(_tensors(result), _tensors(expected), strict=True))
    noise = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    signal = sum(float(b.double().square().sum()) for _, b in pairs)
    sqnr = 10 * math.log10(signal / noise) if noise and signal else float("inf")
    if lossy:
        return "exact" if sqnr == float("inf") else f"{sqnr:.0f} dB" if sqnr >= LEAST_SQNR else f"no: {sqnr:.0f} dB"
    return "yes" if sqnr > 80 or noise < 1e-10 else f"no: computes something else, {sqnr:.0f} dB"


def _tensors(value: Any) -> list[Tensor]:
    return [v for v in nested.leaves(value) if isinstance(v, Tensor) and v.is_floating_point()]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


#: pattern of a message -> the reason that it stands for
REASONS = {
    r"Constraints violated|same reduction dim|channels, but got s\d+": "the model takes one size only, or has no batch",
    r"captions of \d+ tokens, found s\d+": "the first dimension is the length of the caption, not the batch",
    r"Could not guard on data-dependent|torch._check": "the control flow depends on a result",
    r"Attempted to wrap RNN, GRU, or LSTM": "PyTorch excludes nn.LSTM unless `torch._dynamo.config.allow_rnn` is set",
    r"Failed to trace builtin operator": "the model prints",
    r"Tracer cannot infer type of|can be output from traced": "the output is a list of lists, which TorchScript lacks",
    r"Observed exception": "the first call clones a module; call the model once before",
    r"shape '\[\d+, 1\]' is invalid": "the lengths of the sentences are a second input",
    r"Attempting to broadcast a dimension of length s\d+": "the input is a list of words and targets",
    r"draws random numbers": "the model draws random numbers",
    r"dtype: torch.float64": "a layer stays in double precision, which torchao does not support",
    r"AssertionError in _get_input_idx_for_binary_node": "torchao fails if a number is added after a linear layer",
}


def _reason(error: Exception) -> str:
    message = str(error).strip()
    if not message:
        message = f"{type(error).__name__} in {traceback.extract_tb(error.__traceback__)[-1].name}"
    for pattern, reason in REASONS.items():
        if re.search(pattern, message):
            return reason
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return re.sub(r"^\S*m\.onnx: ", "", lines[0]).replace("|", "/")[:110]


def document(rows: dict[str, dict[str, str]], by_layer: dict[str, list[tuple[str, float]]]) -> str:
    """Return the section of the page: counts and reasons, every model, and the SQNR of its layers."""
    lines = ["| Tool | Works | Reasons for failures |", "|---|---|---|"]
    for tool, (function, _) in TOOLS.items():
        cells = [found[tool] for found in rows.values()]
        failed: dict[str, list[str]] = {}
        for name, found in rows.items():
            if found[tool].startswith("no"):
                failed.setdefault(found[tool].removeprefix("no: "), []).append(name.removeprefix("nn."))
        ordered = sorted(failed.items(), key=lambda entry: -len(entry[1]))
        reasons = "; ".join(f"{len(names)} x {why} ({_listed(names)})" for why, names in ordered)
        works = len(cells) - sum(map(len, failed.values()))
        title = (function.__doc__ or tool).rstrip(".").replace("``", "`")
        lines.append(f"| {title} | {works} of {len(cells)} | {reasons or '-'} |")
    short = [[name, *("no" if v.startswith("no") else v for v in found.values())] for name, found in rows.items()]
    table = ["| Model | " + " | ".join(TOOLS) + " |", "|---" * (len(TOOLS) + 1) + "|"]
    table += ["| " + " | ".join(cells) + " |" for cells in short]
    every = ["<details><summary>Every model</summary>", "", *table, "", "</details>"]
    sqnr = ["| Model | Layers, first to last | Worst layer | Output |", "|---|---|---|---|"]
    sqnr += [f"| {name} | {layer_cells(layers, rows[name]['int8 weights'])} |" for name, layers in by_layer.items()]
    title = "8-bit weights: SQNR of every quantized layer and of the output, in dB"
    quantized = [f"<details><summary>{title}</summary>", "", *sqnr, "", "</details>"]
    return "\n".join([*lines, "", *every, "", *quantized])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only")
    wanted = parser.parse_args().only
    rows, by_layer = {}, {}
    for name, model, x in models():
        if wanted in (None, name):
            rows[name] = row(model, x)
            if not rows[name]["int8 weights"].startswith("no") and (found := layers(model, x)):
                by_layer[name] = found  # empty where the weights are used without a call of their layers
            print(json.dumps([name, rows[name], by_layer.get(name)]), flush=True)
    if wanted is None:
        before, _, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        TARGET.write_text(f"{before}{BEGIN}\n\n{document(rows, by_layer)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
