"""Old scripts run: their imports work after ``install()`` and under ``python -m dpnn_bridge.legacy``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import FIXTURES

from dpnn_bridge import write_t7
from dpnn_bridge.legacy import install, nn, uninstall
from dpnn_bridge.legacy.__main__ import main as legacy_main
from dpnn_bridge.legacy.python2 import compiled

LENET = FIXTURES / "samples" / "torch-demos__mnist_convnet" / "model.t7"

SCRIPT = """
import sys
import torch
import torch.legacy.nn as nn
import torch.legacy.optim as optim
import torchfile
from torch.utils.serialization import load_lua
from torch.utils.serialization.read_lua_file import T7Reader, TorchObject
from torch.legacy.nn.Sequential import Sequential
import neighbour

net = load_lua(sys.argv[1])
net.evaluate()
assert isinstance(net, nn.Sequential) and Sequential is nn.Sequential and torch.legacy.nn is nn
output = net.forward(torch.randn(1, 1, 32, 32).type(net.get(0).weight.type()))
print(tuple(output.size()), len(torchfile.load(sys.argv[1]).modules), __name__, neighbour.NAME, sys.argv[2:])
if len(sys.argv) > 2:
    sys.exit(int(sys.argv[2]))
"""


#: python -W ignore -m dpnn_bridge.legacy, in a program that is running
PROGRAM = (
    "import runpy, warnings; warnings.simplefilter('ignore'); "
    "runpy.run_module('dpnn_bridge.legacy', run_name='__main__', alter_sys=True)"
)
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(python: list[str]) -> Run:
    def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python, "-c", PROGRAM, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=False,
        )

    return start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "convert.py").write_text(SCRIPT)
    (tmp_path / "old" / "neighbour.py").write_text("NAME = 'beside it'\n")
    return tmp_path


@pytest.mark.skipif(sys.version_info < (3, 11), reason="python -P is new in Python 3.11")
def test_a_safe_path_keeps_the_first_entry_of_pythonpath(folder: Path) -> None:
    (folder / "old" / "where.py").write_text("import neighbour, sys; print(neighbour.NAME, sys.path[:2])\n")
    paths = [str(Path(__file__).parents[2]), str(folder)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "dpnn_bridge.legacy", folder / "old" / "where.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    assert done.stdout == f"beside it {[str(folder / 'old'), paths[0]]}\n", done.stderr


def test_a_script_runs_unchanged(folder: Path, run: Run) -> None:
    ran = run("old/convert.py", str(LENET), cwd=folder)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "(1, 10) 11 __main__ beside it []\n" or "__main__ beside it" in ran.stdout
    assert run("old/convert.py", str(LENET), "7", cwd=folder).returncode == 7
    as_module = run("-m", "convert", str(LENET), cwd=folder / "old")
    assert "beside it" in as_module.stdout, as_module.stderr


PYTHON2 = """
from models import of_both, widths
import old
def at_once(x, async=False):
    return x.cpu(), async
x = torch.zeros(1)
print "%d" % (7 / 2), -7 / 2, 7 / 2., `1`,
print >>sys.stderr, "to stderr"
n = [9]
n[0] /= 2
x /= 2
try:
    raise ValueError, "old"
except ValueError, error:
    print error, n, old.HALF, widths.OF[0], widths.total(), at_once(x, async=True)[1], isinstance(u"a", unicode)
def tabs():
    if True:
\treturn __file__
print tabs(), 0777
"""


def test_python_2_runs(folder: Path, run: Run) -> None:
    """Syntax and quotients are Python 2's, also of modules beside the script and of packages with their own imports."""
    (folder / "old" / "two.py").write_text(SCRIPT.replace("print(", "print (") + PYTHON2)
    imports = "from __future__ import (print_function,\n    division)\n"
    (folder / "old" / "old.py").write_text(imports + "HALF = [1 / 2 for _ in xrange(1)]\n")
    (folder / "old" / "models").mkdir()
    (folder / "old" / "models" / "__init__.py").write_text("import widths\n")
    (folder / "old" / "models" / "of_both.py").write_text("from .widths import OF\nxrange = range\n")
    (folder / "old" / "models" / "widths.py").write_text(
        "OF = map(lambda (a, b): a / b, [(3, 2)])\n\n\ndef total():\n    return sum(v for _, v in {1: 2}.iteritems())\n"
    )
    expected = "3 -4 3.5 1 old [4] [0.5] 1 2 True True\nold/two.py 511\n"
    ran = run("old/two.py", str(LENET), cwd=folder)
    assert ran.stdout.endswith(expected), ran.stderr
    assert "to stderr" in ran.stderr
    assert ran.stderr.count("translated from Python 2 to Python 3") == 4
    assert not list(folder.rglob("*.pyc"))


@pytest.mark.parametrize("source", ["import torchfile", "import torchfile as torchfile", "from torchfile import load"])
def test_strings_of_torchfile_are_text_in_python_2(folder: Path, source: str, run: Run) -> None:
    load = "load" if "from" in source else "torchfile.load"
    lines = [source, "import sys", f"table = {load}(sys.argv[1])", 'print table["opt"]["name"], table.opt.size']
    (folder / "two.py").write_text("\n".join(lines) + "\n")
    write_t7(folder / "checkpoint.t7", {"opt": {"name": "Z\u00fcrich", "size": 3}})
    ran = run("two.py", "checkpoint.t7", cwd=folder)
    assert ran.stdout == "Z\u00fcrich 3\n", ran.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = " + "(" * 5000 + ")" * 5000, "nested too deeply"),
        ("print 1\nx = " + "(" * 5000 + ")" * 5000, "nested too deeply"),
        ("print 1\nx = " + "-" * 50_000 + "1", "nested too deeply"),
        (
            "print 1\nx = y" + ".z" * 20_000,
            "line 2 has more than 64 consecutive calls, attributes, indices or imported modules",
        ),
        (
            "print 1\nimport " + ", ".join(["y"] * 20_000),
            "line 2 has more than 64 consecutive calls, attributes, indices or",
        ),
        ("# coding: hex\nprint 1", "'hex' is not a text encoding"),
        ("print 1 (", "'(' was never closed"),
    ],
    ids=range(7),
)
def test_what_is_no_python_is_one_error(source: str, message: str, folder: Path, run: Run) -> None:
    (folder / "bad.py").write_text(source)
    ran = run("bad.py", cwd=folder)
    assert (ran.returncode, message in ran.stderr, "Traceback" in ran.stderr) == (1, True, False)


def result_of(source: str) -> dict[str, Any]:
    """The names that a program of Python 2 defines."""
    pytest.importorskip("fissix")
    names: dict[str, Any] = {"__name__": "two"}
    exec(compiled(source.encode(), "two.py"), names)
    return names


def test_literals_of_python_2() -> None:
    source = r"""
x = [u'a\u00e9', ur'b\n', U"c", '\u00e9', 'd', 10L, 0777, 0, 0x1fL, 1.5]
y = [unicode(3), unichr(100)]
print 1
"""
    names = result_of(source)
    assert names["x"] == ["a\u00e9", "b\\n", "c", "\\u00e9", "d", 10, 0o777, 0, 0x1F, 1.5]
    assert names["y"] == ["3", "d"]


@pytest.mark.parametrize(
    ("head", "quotient"),
    [
        ("", 3),
        ("from __future__ import division", 3.5),
        ("from __future__ import (absolute_import,\n    division)", 3.5),
        ("from __future__ import (absolute_import,\n    with_statement)", 3),
        ('"""\nfrom __future__ import division\n"""', 3),
    ],
)
def test_a_quotient_of_python_2(head: str, quotient: float) -> None:
    assert result_of(f"{head}\nx = 7 / 2\nprint 1\n")["x"] == quotient


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("import torch\nprint (torch.ones(3) - 1).abs().max()", "tensor(0.)\n"),
        ('print ("epoch %d") % 3', "epoch 3\n"),
        ('print ("half"), 7 / 2', "half 3\n"),
        ('print ("half"), 7 / 2; f"of Python 3"', "half\n"),
        ('from __future__ import print_function\nprint ("half"), 7 / 2', "half\n"),
        ('print("all"), print("both")', "all\nboth\n"),
        ("print sorted([1, 3, 2], cmp=lambda a, b: cmp(b, a))", "[3, 2, 1]\n"),
        ("x = [1, 3, 2]; x.sort(lambda a, b: cmp(b, a)); print x", "[3, 2, 1]\n"),
        ("def cmp(a, b): return a\nprint cmp(5, 1)", "5\n"),
        ("x = [1, 3, 2]\ndef by(a, b): return a - b\nx.sort(by, reverse=True)\nprint x", "[3, 2, 1]\n"),
        ("x = [1, 3, 2]; x.sort(None, lambda a: -a); print x", "[3, 2, 1]\n"),
        ("x = [1, 3, 2]; x.sort(cmp, lambda a: -a); print x", "[3, 2, 1]\n"),
        ("x = [1, 3, 2]; x.sort(None, None, True); print x", "[3, 2, 1]\n"),
        ("print sorted([1, 3, 2], cmp, None, True)", "[3, 2, 1]\n"),
        ("print cmp(None, 1), cmp(1, 'a'), cmp('a', None), cmp((1, 2), (1, 1))", "-1 -1 1 1\n"),
        (
            "import numpy\nf = numpy.float64\nprint cmp(f(1), f(2)), cmp(numpy.float32(3), 2), cmp(f(1), None)",
            "-1 1 1\n",
        ),
        ("import torch\nx = torch.ones(2)\nx[0] = 3\nprint cmp(x[0], x[1]), cmp(x[1], x[0])", "1 -1\n"),
        ("print cmp((1, None), (1, 2)), cmp([1, 'a'], [1, 2]), cmp([1], [1, 2])", "-1 1 -1\n"),
        ("print cmp({}, {1: 2}), cmp({1: 1}, {1: 2}), cmp({1: 1}, {2: 1}), cmp({1: 1}, {1: 1})", "-1 -1 -1 0\n"),
        ("class Own:\n    def __cmp__(self, other): return 7\nprint cmp(Own(), 1), cmp(1, Own())", "1 -1\n"),
        (
            "class A(list):\n    def by(self): super(A, self).sort(lambda a, b: b - a)\nx = A([1, 3])\nx.by()\nprint x",
            "[3, 1]\n",
        ),
        ("from UserList import UserList\nx = UserList([1, 3])\nx.sort(lambda a, b: b - a)\nprint x", "[3, 1]\n"),
        ("x = [1, 3, 2]\nlist.sort(x, lambda a, b: b - a)\nprint x", "[3, 2, 1]\n"),
        ("class Own:\n    def sort(self, f): return f(1, 2)\nprint Own().sort(lambda a, b: a + b)", "3\n"),
        ("import torch\nprint torch.tensor([1, 2]).sort(0, True)[0].tolist()", "[2, 1]\n"),
        ("import numpy\nx = numpy.array([[2, 1]])\nx.sort(1)\nprint x.tolist()", "[[1, 2]]\n"),
    ],
)
def test_what_python_2_prints_and_compares(source: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    result_of(source)
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    "sign",
    [
        "def f(x: int): pass",
        "def f() -> int: pass",
        "def f(*, x=1): pass",
        "def f(x, /): pass",
        "def f(): yield from [1]",
        "def f(a, b): return a @ b",
        "def f(): raise ValueError from None",
        "a, *b = 1, 2, 3",
        "x = [*'ab']",
        "x = {**{}}",
        "if (n := 3): pass",
        "class A:\n    def __init__(self): super().__init__()",
        "class A(metaclass=type): pass",
        "print('a', end='')",
        "import sys\nprint('loss'), sys.stdout.flush()",
    ],
)
def test_a_sign_of_python_3_beside_what_python_2_would_print(sign: str) -> None:
    printed = "" if "flush" in sign else "print('a'), 1"
    assert result_of(f"{sign}\n{printed}\nx = 5 / 2\n")["x"] == 2.5


def test_quotients_of_numpy_integers_in_python_2() -> None:
    names = result_of("""
import numpy
x = numpy.array([3, 5])
y, z = x / 2, 7 / numpy.int64(2)
w = x / 2.0
x /= 2
print 1
""")
    assert [names[name].tolist() for name in "xyzw"] == [[1, 2], [1, 2], 3, [1.5, 2.5]]


@pytest.mark.parametrize(
    "source",
    [
        "x = {" + ", ".join(f"u'k{i}': {i}L" for i in range(3000)) + "}\nprint 1\n",
        '"""' + "from __future__ import (\n" * 20_000 + '"""\nprint 1\n',
    ],
    ids=["literals", "docstring"],
)
def test_python_2_is_translated_in_linear_time(source: str) -> None:
    result_of("print 1\n")
    start = time.process_time()
    result_of(source)
    assert time.process_time() - start < 2  # it took 9 s


def test_many_methods_of_a_class_are_translated_in_linear_time(capsys: pytest.CaptureFixture[str]) -> None:
    own = """
    def __iter__(self): return self
    def next(self):
        if self.done: raise StopIteration
        self.done = True
        return 7
    def __nonzero__(self): return False
class B:
    def next(self, k): return k
"""
    methods = "".join(f"    def f{i}(self): return {i}\n" for i in range(250))
    code = f"class A:\n    done = False\n{methods}{own}print list(A()), bool(A()), B().next(5), iter([3]).next()\n"
    start = time.process_time()
    exec(compiled(code.encode(), "old.py"), {})
    assert time.process_time() - start < 2  # it took 4 s
    assert capsys.readouterr().out == "[7] False 5 3\n"


def test_wrong_usage(folder: Path, run: Run) -> None:
    assert run(cwd=folder).returncode == 2
    missing = run("nothing.py", cwd=folder)
    assert missing.returncode == 2
    assert "nothing.py does not exist" in missing.stderr
    assert "SCRIPT.py" in run("--help", cwd=folder).stdout


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "unwritable"])
@pytest.mark.parametrize(
    ("stream", "argument", "status"), [("stdout", "-h", 1), ("stderr", "-m", 2), ("stderr", "x", 2)]
)
def test_usage_that_cannot_be_printed(
    stream: str, argument: str, status: int, closed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dpnn_bridge.legacy", argument])
    monkeypatch.setattr(sys, stream, None if closed else os.fdopen(os.open(os.devnull, os.O_RDONLY), "w"))
    try:
        assert legacy_main() == status
    finally:
        uninstall()
    getattr(sys, stream).flush()  # as Python does at the end


def test_install_and_uninstall() -> None:
    import torch.utils.serialization as serialization

    before = {k: sys.modules.get(k) for k in ("torchfile", "torch.legacy", "torch.legacy.nn")}
    assert not hasattr(serialization, "load_lua")
    install()
    install()
    try:
        from torch.legacy.nn import Linear  # pyright: ignore[reportMissingImports]
        from torch.utils.serialization import load_lua  # pyright: ignore[reportAttributeAccessIssue]

        assert Linear is nn.Linear
        assert isinstance(load_lua(LENET), nn.Sequential)
    finally:
        uninstall()
    uninstall()
    assert {k: sys.modules.get(k) for k in before} == before
    assert not hasattr(serialization, "load_lua")
    assert not any(name.startswith("torch.legacy") for name in sys.modules)
    with pytest.raises(ImportError):
        __import__("torch.legacy.nn")


def test_nothing_happens_on_import(run: Run) -> None:
    code = (
        "import sys, dpnn_bridge.legacy as l; l.load_lua; l.nn; assert 'torch.legacy' not in sys.modules; import torch"
    )
    assert (
        subprocess.run([sys.executable, "-c", code + "; assert not hasattr(torch, 'legacy')"], check=False).returncode
        == 0
    )
    lazy = "import sys, dpnn_bridge.legacy; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", lazy], check=False).returncode == 0


def test_a_traceback_names_the_lines_of_the_file() -> None:
    """The translation has more lines: imports, and assignments of arguments that are tuples."""
    source = """def outer(a, (b, c),
          d=1):
    print '''two
    lines'''
    return reduce(lambda x, y: x + y,
                  [a, b, c, missing])
"""
    names = result_of(source)
    with pytest.raises(NameError) as raised:
        names["outer"](1, (2, 3))
    assert [entry.lineno + 1 for entry in raised.traceback if str(entry.path).endswith("two.py")] == [6]
