"""Writes docs/images/verify.svg: what dpnn-convert -v and dpnn-verify print on a terminal, made by running them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dpnn_bridge.cli import print_table
from dpnn_bridge.cli_verify import print_checklist
from dpnn_bridge.files import convert
from dpnn_bridge.verify import verify

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
FIXTURE = FIXTURES / "nn" / "nn.Sequential" / "Sequential__net_style_residual__float_train.t7"
MODEL = FIXTURES / "samples" / "torch-demos__mnist_convnet" / "model.t7"


def main() -> None:
    console = Console(record=True, width=120, force_terminal=True, color_system="truecolor", file=_Nowhere())
    with tempfile.TemporaryDirectory() as folder:
        report = convert(MODEL, Path(folder) / "mnist.pt")
    _prompt(console, "dpnn-convert mnist.t7 mnist.pt -v")
    print_table(report, console)
    console.print(f"mnist.t7 -> mnist.pt: {len(report.mapped)} modules, {report.metadata['parameters']:,} parameters")
    _prompt(console, "dpnn-verify style.t7")
    result = verify(FIXTURE)
    result.model, result.reference = "style.t7", "its fixture"
    print_checklist(result, console)
    console.save_svg(str(HERE / "images" / "verify.svg"), title="dpnn_bridge")


def _prompt(console: Console, command: str) -> None:
    console.print(Text.assemble("\n", ("$ ", "bold green"), (command, "bold")))


class _Nowhere:
    """A file that forgets."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""


if __name__ == "__main__":
    main()
