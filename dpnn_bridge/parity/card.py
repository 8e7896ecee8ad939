"""Write a model card of a converted file: architecture, provenance, verification, and code that loads the file."""

from __future__ import annotations

import datetime
import keyword
import re
from pathlib import Path

from dpnn_bridge.base.arguments import checks_arguments
from dpnn_bridge.base.atomic import StrPath
from dpnn_bridge.base.boundary import wrap_errors
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.display import printable, shortened
from dpnn_bridge.base.suffixes import INDEX
from dpnn_bridge.base.version import package_version
from dpnn_bridge.conversion.report import Report
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.outputs.py.calls import literal
from dpnn_bridge.parity.verification import Verification, summary

_IN_TORCH7 = "model = torch.load({name})  -- in Torch7"
_WITH_PACKAGE = "import dpnn_bridge\n\nmodel = dpnn_bridge.load({name})"
#: suffix -> code that loads a file with dpnn_bridge and without; empty if that is impossible
_LOADING = {
    ".pt": (_WITH_PACKAGE, 'import torch\n\nweights = torch.load({name}, weights_only=True)["state_dict"]'),
    ".safetensors": (_WITH_PACKAGE, "import safetensors.torch\n\nweights = safetensors.torch.load_file({name})"),
    ".npz": ("", "import numpy\n\nweights = numpy.load({name})"),
    ".onnx": ("", "import onnxruntime\n\nsession = onnxruntime.InferenceSession({name})"),
    ".pt2": ("", "import torch\n\nmodel = torch.export.load({name}).module()"),
    ".py": ("", "{module}  # needs only torch"),
    ".t7": (_WITH_PACKAGE, _IN_TORCH7),
    INDEX: (_WITH_PACKAGE,),
}
_LOADING[".pth"] = _LOADING[".pt"]


@checks_arguments
@wrap_errors(ConversionError, "writing the model card")
def card(report: Report, result: Verification, path: StrPath) -> str:
    """Return a model card in Markdown with metadata for the Hugging Face Hub.

    Args:
        report: result of :func:`dpnn_bridge.convert`.
        result: result of :func:`dpnn_bridge.verify` for the input and the output file.
        path: the output file.
    """
    target = Path(path)
    rows = "\n".join(
        f"| {count} | `{_code(lua)}` | `{_code(kind)}` |" for (lua, kind), count in report.counts().items()
    )
    checks = "\n".join(
        f"| `{_code(c['class_name'])}` | {c['count']} | {_text(c['evidence'])} |" for c in result.classes()
    )
    compared = " and ".join(filter(None, [result.reference, result.converted])) or "nothing"
    notes = "".join(f"- {_text(note)}\n" for note in [*report.notes, *result.notes])
    parameters = report.metadata.get("parameters", 0)
    return f"""---
library_name: pytorch
license: other  # fill in: the license of the original weights
tags: [torch7, dpnn_bridge]
---

# {_text(target.stem)}

A Torch7 model converted to PyTorch: {parameters:,} parameters in {report.metadata.get("modules", 0)} modules.

License: *fill in the license of the original weights and data.*

## Architecture

| Count | Torch7 | PyTorch |
|---|---|---|
{rows}

## Provenance

| | |
|---|---|
{_provenance(report, target)}

## Verification

{_text(summary(result))}. Compared with: {_text(compared)}.

| Class | Modules | Checked by |
|---|---|---|
{checks}

{notes}
## Load

{_loading(target)}"""


def _provenance(report: Report, target: Path) -> str:
    facts = [
        ("source", f"`{_code(Path(report.source).name if report.source else 'unknown')}`"),
        ("SHA-256 of the source", f"`{report.sha256 or 'unknown'}`"),
        ("file", f"`{_code(target.name)}`, {target.stat().st_size:,} bytes"),
        ("SHA-256 of the file", f"`{sha256_of(target)}`"),
        ("converted", f"{datetime.date.today().isoformat()} by dpnn_bridge {package_version()}"),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in facts)


def _loading(target: Path) -> str:
    suffix = INDEX if target.name.endswith(INDEX) else target.suffix
    name, stem = literal(target.name), target.stem
    can_import = stem.isidentifier() and not keyword.iskeyword(stem)
    module = f"import {stem}" if can_import else f"import runpy\n\nmodule = runpy.run_path({name})"
    blocks = []
    for program in filter(None, _LOADING.get(suffix, ())):
        language = "lua" if program is _IN_TORCH7 else "python"
        blocks.append(f"```{language}\n{program.format(name=name, module=module)}\n```\n")
    return "\n".join(blocks)


def _text(text: str) -> str:
    """Escape text from a file for Markdown: one line, without table cells, code, tags, images or links to web pages."""
    return re.sub(r"([\\|`<*\[\]]|:(?=//)|(?i:(?<=www)\.))", r"\\\1", shortened(printable(text), 300))


def _code(text: str) -> str:
    """Replace special characters in text from a file for a code span in a table, where escaping is impossible."""
    return shortened(printable(text), 300).translate(str.maketrans("|`", "¦'"))
