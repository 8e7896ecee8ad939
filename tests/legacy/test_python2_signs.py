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
        "import platform\nif platform.python_version_tuple()[0] == '2': range = xrange",
        *(
            "import platform\nif platform.python_version() < '3': range = xrange",
            "import sys\ndef f(): return xrange(sys.hexversion)",
        ),
        *(f"{name} = False\ndef f(x): return unicode(x) if {name} else x" for name in ("is_py2", "PY3K", "onPython2")),
        "def f(x, compat): return unicode(x) if compat.USE_PY2 else x",
        "def f(frame):\n    import pytest\n    return frame.iteritems()",
        "from contextlib import suppress\nwith suppress(NameError, AttributeError):\n    {}.iteritems()",
        "def f():\n    try: unicode\n    except KeyError as e: raise ValueError from e",
        "from __future__ import print_function\nprint('half'), 7 / 2",
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
        *("from shutil import copy2\nxrange(1), copy2", "import numpy, torch\n{1: 2}.has_key(1)"),
        *("'a long text'\nlong(3)", "print ('half'), 7 / 2", "def f(x): return x.cuda(async=True), xrange"),
    ],
)
def test_a_sure_sign(source: str, tmp_path: Path) -> None:
    assert quotient_in(source, tmp_path) == 2


def test_the_files_beside_a_file_make_a_sign_unsure(tmp_path: Path) -> None:
    """A class of another file may define the method, and a file may have the name of a module of Python 2."""
    (tmp_path / "store.py").write_text("class Store:\n    def iteritems(self): return iter([])\n")
    (tmp_path / "Queue.py").write_text("class Queue: pass\n")
    (tmp_path / "sibling.py").write_text("")
    uses = "def f(store): return list(store.iteritems())"
    assert [quotient_in(f"{head}{uses}", tmp_path) for head in ("", "from dpnn_bridge import load\n")] == [2, 2]
    for head in ("def g():\n    import store\n", "def g():\n    from store import Store\n"):
        assert quotient_in(f"{head}{uses}", tmp_path) == 2.5
    assert quotient_in("def g():\n    from Queue import Queue", tmp_path) == 2.5
    assert quotient_in("def g():\n    import sibling", tmp_path) == 2.5
    assert quotient_in("def g():\n    import sibling", tmp_path, package=True) == 2
    with_path = "def g():\n    import sys\n    sys.path.append('x')\n    import sibling"
    assert quotient_in(with_path, tmp_path, package=True) == 2.5
