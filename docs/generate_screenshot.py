"""Writes docs/images/verify.svg: what the commands print on a terminal, by running them on one."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

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
            console.print(Text.from_ansi(on_terminal(command, Path(folder)).rstrip()))
            console.print()
    console.save_svg(str(ROOT / "docs" / "images" / "verify.svg"), title="dpnn_bridge")


def on_terminal(command: str, folder: Path) -> str:
    """What a command prints on a terminal; progress, which goes to stderr, is left out."""
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    name, *arguments = command.removeprefix("dpnn-").split()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dpnn_bridge", name, *arguments],
        cwd=folder,
        env=environment,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
    )
    os.close(terminal)
    printed = b""
    try:
        while block := os.read(main, 1 << 16):
            printed += block
    except OSError:  # Linux: the other end is closed
        pass
    os.close(main)
    assert process.wait() == 0, printed
    return printed.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
