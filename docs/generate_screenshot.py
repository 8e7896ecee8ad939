"""Writes docs/images/verify.svg: what the commands print on a terminal, by running them on one."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pseudo_terminal import on_terminal
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent
FIXTURES = ROOT / "fixtures"
#: name on the picture -> file
FILES = {
    "lenet.t7": FIXTURES / "samples" / "torch-demos__mnist_convnet" / "model.t7",
    "style.t7": FIXTURES / "nn" / "nn.Sequential" / "Sequential__net_style_residual__float_train.t7",
}
COMMANDS = ("dpnn-convert lenet.t7 lenet.pt -v", "dpnn-verify style.t7")
COLUMNS = 100


def main() -> None:
    console = Console(record=True, width=COLUMNS, force_terminal=True, color_system="truecolor", file=io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        for name, source in FILES.items():
            shutil.copy(source, Path(folder) / name)
        for command in COMMANDS:
            console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
            console.print(Text.from_ansi(run(command, Path(folder)).rstrip()))
            console.print()
    console.save_svg(str(ROOT / "docs" / "images" / "verify.svg"), title="dpnn_bridge")


def run(command: str, folder: Path) -> str:
    """Return what a command prints on a terminal; progress, which goes to stderr, is left out."""
    name, *arguments = command.removeprefix("dpnn-").split()
    program = [sys.executable, "-m", "dpnn_bridge", name, *arguments]
    return on_terminal(program, columns=COLUMNS, env={"PYTHONPATH": str(ROOT)}, cwd=folder, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
