"""Run a Python file of the user as a module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

from dpnn_bridge.base.exclusive import Exclusive


class _SourceLoader(SourceFileLoader):
    """Loader that compiles the file without writing a ``__pycache__`` folder."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


@contextmanager
def importing_from(folder: str, *, first: bool) -> Iterator[None]:
    """Let code import files of a folder inside the ``with`` block.

    Args:
        folder: The folder.
        first: Whether its files come before modules of the same name that Python finds elsewhere.
    """
    if not first and folder in sys.path:
        yield
        return
    sys.path.insert(0 if first else len(sys.path), folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the code has removed the folder itself
            sys.path.remove(folder)


def import_file(
    path: Path, prefix: str, name: str = "", on_error: Callable[[str], object] = lambda name: None
) -> ModuleType:
    """Run a Python file as a module in ``sys.modules``, where ``inspect`` and ``pickle`` find it.

    If the file raises, the module is removed again.

    Args:
        path: The file.
        prefix: Beginning of the module's name. The name of the file follows, so that no other module is replaced.
        name: Name to reuse if the file has run before; otherwise empty.
        on_error: Called with the name of the module if the file raises, to undo what it registered.
    """
    with Exclusive(import_file):  # another thread may be importing a file of the same name
        if not name:
            name = f"{prefix}_{path.stem}"
            while name in sys.modules:
                name += "_"
        loader = _SourceLoader(name, str(path))
        spec = spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        module = sys.modules[name] = module_from_spec(spec)
    try:
        loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        on_error(name)
        raise
    return module
