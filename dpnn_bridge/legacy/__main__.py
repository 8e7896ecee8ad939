"""Run an unchanged Python script of 2016 to 2019: ``python -m dpnn_bridge.legacy script.py ARGUMENTS``."""

from __future__ import annotations

import io
import os
import runpy
import sys
import traceback
import zipfile
from pathlib import Path
from types import CodeType, ModuleType

from dpnn_bridge.base.display import printable, printable_lines
from dpnn_bridge.base.regular import read_file
from dpnn_bridge.base.standard_streams import drop_unwritten_output, prepare_streams
from dpnn_bridge.errors import FileAccessError, MissingPackageError, NotT7Error
from dpnn_bridge.legacy.installation import install
from dpnn_bridge.legacy.python2 import compiled, translate_imports

USAGE = """usage: python -m dpnn_bridge.legacy SCRIPT.py [ARGUMENT ...]
       python -m dpnn_bridge.legacy -m MODULE [ARGUMENT ...]

Runs a script of 2016 to 2019 that imports load_lua, torch.legacy or torchfile. dpnn_bridge provides these modules.
Python 2 code is translated."""


def main() -> int:
    """Run the script on the command line.

    Returns:
        The exit status: 2 if the script is missing or cannot be read, 1 if it is not valid Python, the exit code of a
        :class:`MissingPackageError`, or 0. A script that calls ``sys.exit`` ends with its own status.
    """
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["-m"]:
        return _print(USAGE, 0, err=False) if arguments[:1] in (["-h"], ["--help"]) else _print(USAGE, 2)
    install()
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path.insert(0, "")
        translate_imports(Path.cwd())
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return 0
    script = Path(arguments[0])
    if not os.path.exists(script):
        return _print(f"{script} does not exist: check the path\n\n{USAGE}", 2)
    try:
        code = _code(script)
    except (NotT7Error, FileAccessError, MissingPackageError) as error:
        return _print(printable(str(error)), error.exit_code if isinstance(error, MissingPackageError) else 2)
    except SyntaxError as error:
        return _print(printable_lines("".join(traceback.format_exception_only(error)).rstrip()), 1)
    sys.argv[:] = arguments
    folder = script.resolve().parent
    if getattr(sys.flags, "safe_path", False):  # python -P, since 3.11, has not added a folder that this one replaces
        sys.path.insert(0, "")
    sys.path[0] = str(folder)
    translate_imports(script.resolve() if script.is_dir() else folder)
    if code is None:
        runpy.run_path(str(script), run_name="__main__")
    else:
        module = sys.modules["__main__"] = ModuleType("__main__")
        module.__file__ = str(script)
        exec(code, vars(module))
    return 0


def _print(text: str, status: int, *, err: bool = True) -> int:
    """Print a text on stderr or stdout, and return the exit status: 1 if stdout does not accept the text."""
    prepare_streams()
    try:
        print(text, file=sys.stderr if err else sys.stdout, flush=True)
    except OSError as error:
        drop_unwritten_output()
        return status if err else _print(f"stdout does not accept the text: {error.strerror}", 1)
    return status


def _code(script: Path) -> CodeType | None:
    """Compile a script; return None for a folder or an archive, whose ``__main__.py`` Python runs."""
    if script.is_dir():
        return None
    source = read_file(script)
    return None if zipfile.is_zipfile(io.BytesIO(source)) else compiled(source, str(script))


if __name__ == "__main__":
    sys.exit(main())
