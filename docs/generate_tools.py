"""Run PyTorch's tools on every architecture of the samples and fixtures, and write the table of docs/ecosystem.md.

The models are those of ``fixtures/samples``, the networks that tests build, and one fixture of each class that contains
other modules. A tool counts as working when what it made computes what the model computes. This takes minutes:
``--only NAME`` runs one model and prints it.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dpnn_bridge
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion.lua_values import to_value
from dpnn_bridge.objects import LuaObject
from dpnn_bridge.outputs.dynamic import Dynamic

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "ecosystem.md"
BEGIN, END = "<!-- tools: written by docs/generate_tools.py -->", "<!-- end of tools -->"
#: signal-to-noise ratio that a result in less precision must have, in dB
LEAST_SQNR = 15.0


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
    table = dpnn_bridge.read_t7(reference)
    if table.get("input") is not None and dpnn_bridge.inspect(model).models:
        module = dpnn_bridge.load(model).float().eval()
        yield name, module, nested.cast(to_value(table["input"]), torch.float32)


# ---------------------------------------------------------------------- the tools
def fx(model: nn.Module, x: Any) -> Any:
    """``torch.fx.symbolic_trace``."""
    return torch.fx.symbolic_trace(nn.Sequential(model))(x)


def exported(model: nn.Module, x: Any) -> Any:
    """``torch.export.export`` with a batch of any size."""
    dynamic = Dynamic.of(True, x)
    *_, example = dynamic.examples(x, model)
    program = torch.export.export(model, (example,), dynamic_shapes=(dynamic.shapes(example),), strict=False)
    return program.module()(x if _batch(x) > 1 else example), model(x if _batch(x) > 1 else example)


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
        raise ValueError("no nn.Linear: torchao's weight-only quantization is for these")
    return model(x)


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


def _judged(result: Any, expected: Any, lossy: bool) -> str:
    pairs = list(zip(_tensors(result), _tensors(expected), strict=True))
    noise = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    signal = sum(float(b.double().square().sum()) for _, b in pairs)
    sqnr = 10 * float(torch.log10(torch.tensor(signal / noise))) if noise and signal else float("inf")
    if lossy:
        return "exact" if sqnr == float("inf") else f"{sqnr:.0f} dB" if sqnr >= LEAST_SQNR else f"no: {sqnr:.0f} dB"
    return "yes" if sqnr > 80 or noise < 1e-10 else f"no: computes something else, {sqnr:.0f} dB"


def _tensors(value: Any) -> list[Tensor]:
    return [v for v in nested.leaves(value) if isinstance(v, Tensor) and v.is_floating_point()]


def _batch(x: Any) -> int:
    return min((t.shape[0] for t in _tensors(x) if t.dim()), default=1)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    return re.sub(r"^\S*m\.onnx: ", "", lines[0]).replace("|", "/")[:110]


def document(rows: dict[str, dict[str, str]]) -> str:
    """Return the section of the page: counts, the table, and the reasons."""
    lines = ["| Tool | Works | Reasons where it does not |", "|---|---|---|"]
    for tool, (function, _) in TOOLS.items():
        cells = [found[tool] for found in rows.values()]
        failed = Counter(cell.removeprefix("no: ") for cell in cells if cell.startswith("no"))
        reasons = "; ".join(f"{n} x {why}" for why, n in failed.most_common())
        title = (function.__doc__ or tool).rstrip(".").replace("``", "`")
        lines.append(f"| {title} | {len(cells) - sum(failed.values())} of {len(cells)} | {reasons or '-'} |")
    short = [[name, *("no" if v.startswith("no") else v for v in found.values())] for name, found in rows.items()]
    table = ["| Model | " + " | ".join(TOOLS) + " |", "|---" * (len(TOOLS) + 1) + "|"]
    table += ["| " + " | ".join(cells) + " |" for cells in short]
    return "\n".join([*lines, "", "<details><summary>Every model</summary>", "", *table, "", "</details>"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only")
    wanted = parser.parse_args().only
    rows = {}
    for name, model, x in models():
        if wanted in (None, name):
            rows[name] = row(model, x)
            print(name, rows[name], file=sys.stderr, flush=True)
    if wanted is None:
        before, _, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        TARGET.write_text(f"{before}{BEGIN}\n\n{document(rows)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
