"""Run an unchanged Python script of 2016 to 2019: ``python -m dpnn_bridge.legacy script.py ARGUMENTS``."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from dpnn_bridge.base.display import printable
from dpnn_bridge.base.regular import MOST_BYTES, check_file
from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.legacy.installation import install

USAGE = """usage: python -m dpnn_bridge.legacy SCRIPT.py [ARGUMENT ...]
       python -m dpnn_bridge.legacy -m MODULE [ARGUMENT ...]

Runs a script that imports load_lua, torch.legacy or torchfile, with those of dpnn_bridge."""


def main() -> int:
    """Run the script that the command line names.

    Returns:
        The exit status: 2 when no script is named or it is missing; otherwise that of the script.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        print(USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    install()
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path.insert(0, "")
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    script = Path(arguments[0])
    if not script.exists():
        print(f"no script {script}: check the path\n\n{USAGE}", file=sys.stderr)
        return 2
    if not script.is_dir():  # a folder is run by its __main__.py
        try:
            check_file(script, MOST_BYTES)
        except DpnnBridgeError as error:
            print(printable(str(error)), file=sys.stderr)
            return 2
    sys.argv[:] = arguments
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(str(script), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
