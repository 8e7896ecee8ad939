"""A file that Python 3 can compile runs as Python 2 only if a sign is sure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dpnn_bridge.legacy.python2 import compiled


def quotient_in(source: str, folder: Path, package: bool = False) -> float:
    """What 5 / 2 is in a file: 2 if it runs as Python 2."""
    pytest.importorskip("fissix")
    names: dict[str, Any] = {"__name__": "file"}
    exec(compiled(f"{source}\ndef quotient():\n    return 5 / 2\n".encode(), str(folder / "file.py"), package), names)
    return names["quotient"]()


VERSION_TESTS = (
    *("import platform\nold = platform.python_version_tuple()[0] == '2'", "import os\nold = os.sys.hexversion < 3"),
    *("import sys as s\nold = s.version[0] == '2'", "from sys import path, version\nold = version[0] == '2'"),
    *("def f():\n    from compat.py3k import old", "def f():\n    import compat\n    return getattr(compat, 'IS_PY2')"),
    *(
        f"def f():\n    from compat import {name}"
        for name in ("is_py2", "is_py3", "ispy3", "onPy2", "IS_PY2", "USE_PY3", "PY3K", "Python3")
    ),
)
#: code that imports an installed package whose objects may have any method
LOADS = ("import pytest", "from pytest import raises", "__import__('pytest')", "import importlib")


@pytest.mark.parametrize(
    "source",
    [
        *(
            "f'{1}'\ndef f(x): return x.iteritems()",
            "def f(): return xrange(2)\nn: int = 3",
            "def f(x: int): return unicode(x)",
        ),
        *("from __future__ import annotations\ndef f(): return unicode(1)", "def f(*, long=1): return reduce"),
        "def f(): return [print(x) for x in xrange(3)]",
        *("from functools import *\nreduce", "from os.path import *\ndef f(): return unicode(1)"),
        *("exec('reduce = sum')\nreduce", "globals()['xrange'] = range\nxrange(1)"),
        "import builtins\nbuiltins.unicode = str\nunicode(1)\ndel builtins.unicode",
        "try:\n    1 / 0\nexcept ZeroDivisionError as long:\n    long",
        *(
            f"try:\n    text = unicode\nexcept{caught}:\n    text = str"
            for caught in ("", " Exception", " (OSError, Exception)")
        ),
        "import contextlib\nwith contextlib.suppress(Exception):\n    text = unicode",
        "def f():\n    return unicode if str is not bytes else str",
        *(
            f"class D(dict):\n    def {name}(self, k=1): pass\nD().{name}({k})"
            for name, k in (("has_key", "1"), ("iteritems", ""))
        ),
        "d = {1: 3}\nd.iteritems() if hasattr(d, 'iteritems') else d.items()",
        *("class A:\n    itervalues = 3\nA.itervalues", "def f(x): return x.iteritems(prefix='a'), x.has_key"),
        "try:\n    pairs = {}.iteritems()\nexcept AttributeError:\n    pairs = {}.items()",
        "try:\n    import Queue\nexcept ModuleNotFoundError:\n    import queue as Queue",
        "try:\n    import Queue\nexcept Exception:\n    import queue as Queue",
        "def f(): print('usage'), exit(1)",
        "from __future__ import print_function\nprint('loss'), [].append(1)",
        "def f():\n    try:\n        xrange\n    except ValueError as e:\n        raise RuntimeError from e",
        "import contextlib\ndef f(errors):\n    with contextlib.suppress(*errors):\n        return unicode(1)",
        *(f"{test}\ndef f(): return unicode(1)" for test in VERSION_TESTS),
        "import types\nif hasattr(types, 'UnicodeType'):\n    text = unicode('a')",
        "import types\ntext = unicode if hasattr(types, 'UnicodeType') else str",
        *(f"def f():\n    {load}\ndef g(x): return x.iteritems()" for load in LOADS),
    ],
)
def test_a_sign_that_is_not_sure(source: str, tmp_path: Path) -> None:
    assert quotient_in(source, tmp_path) == 2.5


@pytest.mark.parametrize(
    "source",
    [
        *("for i in xrange(2): pass", "def f(): return raw_input()", "unicode('a')", "reduce(max, [1])"),
        *("from __future__ import print_function\nx = xrange(2); print('a', end='')", "{1: 2}.has_key(1)"),
        *("list({1: 2}.itervalues())", "import os.path, cPickle", "from StringIO import StringIO"),
        *(
            "try:\n    pass\nexcept Exception:\n    pass\nxrange(1)",
            "try:\n    xrange(1)\nexcept ValueError:\n    pass",
        ),
        *("'a long text'\nlong(3)", "print ('half'), 7 / 2", "def f(x): return x.cuda(async=True), xrange"),
        "#!/usr/bin/env python2\n'''For python2 and PY2.'''\nimport shutil\nshutil.copy2, xrange(1)",
        "def numpy2torch(x): return xrange(x)",
        "def f():\n    import numpy.linalg, h5py, json\n    from torch import nn\ndef g(x): return x.iteritems()",
    ],
)
def test_a_sure_sign(source: str, tmp_path: Path) -> None:
    assert quotient_in(source, tmp_path) == 2


@pytest.mark.parametrize("dots", [".", ".."])
def test_methods_of_a_module_that_is_imported_with_dots(dots: str, tmp_path: Path) -> None:
    """A package for Python 3."""
    package = tmp_path / "inner" if dots == ".." else tmp_path
    package.mkdir(exist_ok=True)
    (tmp_path / "store.py").write_text("from .base import Base\nclass Store(Base): pass\n")
    source = f"def f():\n    from {dots}store import Store\n    return Store().iteritems()"
    (tmp_path / "base.py").write_text("class Base: pass\n")
    assert quotient_in(source, package, package=True) == 2
    (tmp_path / "base.py").write_text("class Base:\n    def iteritems(self): return iter(())\n")
    assert quotient_in(source, package, package=True) == 2.5


def test_the_files_beside_a_file_make_a_sign_unsure(tmp_path: Path) -> None:
    """A class of another file may define the method, and a file may have the name of a module of Python 2."""
    (tmp_path / "store.py").write_text("class Store:\n    def iteritems(self): return iter([])\n")
    (tmp_path / "Queue.py").write_text("class Queue: pass\n")
    (tmp_path / "sibling.py").write_text("")
    uses = "def f(store): return list(store.iteritems())"
    assert [quotient_in(f"{head}{uses}", tmp_path) for head in ("", "from dpnn_bridge import load\n")] == [2, 2]
    for head in ("def g():\n    import store\n", "def g():\n    from store import Store\n"):
        assert quotient_in(f"{head}{uses}", tmp_path) == 2.5
    (tmp_path / "other.py").write_text("print 'Python 2'\nimport os, store as s\n")
    (tmp_path / "frames.py").write_text("def load():\n    from pytest import fixture\n")
    (tmp_path / "plain.py").write_text("import os, plain\nfrom . import pytest\n")
    for module, result in (("other", 2.5), ("frames", 2.5), ("plain", 2)):
        assert quotient_in(f"def g():\n    import {module}\n{uses}", tmp_path) == result
    assert quotient_in("def g():\n    from Queue import Queue", tmp_path) == 2.5
    assert quotient_in("def g():\n    import sibling", tmp_path) == 2.5
    assert quotient_in("def g():\n    import sibling", tmp_path, package=True) == 2
    with_path = "def g():\n    import sys\n    sys.path.append('x')\n    import sibling"
    assert quotient_in(with_path, tmp_path, package=True) == 2.5


def test_each_module_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **named: read.append(path.name) or read_text(path, **named))
    (tmp_path / "parts").mkdir()
    for name in ("__init__", "one", "two"):
        (tmp_path / "parts" / f"{name}.py").write_text("import parts.one\n")
    imports = "".join(f"    import parts.{name}\n" for name in ("one", "two") * 5)
    for _ in range(2):
        assert quotient_in(f"def g():\n{imports}def f(x): return x.iteritems()", tmp_path) == 2
    assert sorted(read) == ["__init__.py", "one.py", "two.py"]
