"""Translated programs of Python 2 compute what Python 2 computed; the expected texts are those of Python 2.7.18."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from dpnn_bridge.legacy.python2 import compiled

_CMP = "class V(object):\n    def __init__(self, v): self.v = v\n    def __cmp__(self, other): return {}\n"
_BY_VALUE = _CMP.format("cmp(self.v, other.v) if isinstance(other, V) else NotImplemented")
_OWN = "class L({}):\n    def __lt__(self, o): return self[1] < o[1]\n    def __gt__(self, o): return self[1] > o[1]\n"


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("import math\nprint math.floor(7.6) / 2, math.ceil(-0.5), math.floor(float('inf'))", "3.5 -0.0 inf"),
        ("from math import ceil, pi\nprint ceil(10 / 4.) / 2, pi > 3", "1.5 True"),
        ("print round(2.5), round(-0.5), round(7) / 2, round(2.675, 2), round(15, -1)", "3.0 -1.0 3.5 2.67 20.0"),
        ("print map(None, [1], [2, 3]), map(max, [1], [2]), map(str, xrange(2))", "[(1, 2), (None, 3)] [2] ['0', '1']"),
        ("def map(f, x): return x\nprint map(len, 3)", "3"),
        ("print filter(str.isdigit, 'a1b2'), filter(None, (0, 2)), filter(None, [0, 2])", "12 (2,) [2]"),
        ("import itertools as it\nfrom itertools import imap, count\nprint list(it.izip(imap(abs, count(-1)), 'ab'))",
         "[(1, 'a'), (0, 'b')]"),
        (f"{_BY_VALUE}print V(1) == V(1), V(1) != V(1), V(2) in [V(2)], [V(1), V(2)].index(V(2)), V(1) < V(2)",
         "True False True 1 True"),
        (f"{_BY_VALUE}print max(V(2), V(5)).v, len({{V(1): 2}}), cmp(V(1), 3), cmp(3, V(1))", "5 1 1 -1"),
        (f"{_OWN.format('list')}print cmp(L((1, 9)), L((2, 3))), cmp([2, 3], L((1, 9)))", "1 -1"),
        (f"{_OWN.format('tuple')}print cmp(L((1, 9)), L((2, 3))), cmp(L((1, 9)), L((1, 9)))", "1 0"),
        ("class B(list): pass\nprint cmp(B([1, None]), [1, 2]), cmp([1, 2], B([1, None]))", "-1 1"),
        ("from collections import OrderedDict\nprint cmp(OrderedDict(a=1), {'a': 2})", "-1"),
        ("from UserList import UserList\nclass U(UserList):\n    def sort(self, *by): UserList.sort(self, *by)\n"
         "x = U([1, 2])\nx.sort(lambda a, b: b - a)\nprint x", "[2, 1]"),
        ("def log(x): return 'own'\nfrom random import *\nprint log(2), 'annotations' in globals()", "own False"),
        ("def dist(x): return 'own'\naccumulate = gcd = dist\nfrom math import *\nfrom itertools import *\n"
         "print dist(1), accumulate(1), gcd(1), ceil(2.5), list(imap(None, [1]))", "own own own 3.0 [(1,)]"),
        ("def concat(x): return 'own'\nfrom numpy import *\n"
         "print round(2.5), map(round, [0.5]), concat(1), max(1, 2), type(bool(1)).__name__, int(sum(array([[1, 2]])))",
         "3.0 [1.0] own 2 bool 3"),
        ("from numpy import round\nfrom numpy import *\nprint float(round(2.5))", "2.0"),
        ("class P(int):\n    def __cmp__(self, o): return cmp(int(o), int(self))\n    __hash__ = int.__hash__\n"
         "print sorted([P(1), P(3), P(2)]), P(1) < P(2), P(1) == 1, 1 < P(2), cmp(1, P(2)), max(P(1), P(2))",
         "[3, 2, 1] False True False 1 1"),
        ("class D(dict):\n    def __cmp__(self, o): return cmp(len(o), len(self))\n"
         "print D({1: 2}) < D(), D({1: 2}) == D({2: 3}), {1: 2} < D(), cmp(D({1: 2}), D({2: 3}))", "True False True 0"),
        ("class F(float):\n    def __cmp__(self, o): return -cmp(float(self), float(o))\n"
         "print F(1) < F(2), cmp(F(1), F(2))", "True 1"),
        ("class V(object):\n    v = 7\n    def __div__(self, o): return 'div', o\n    __rdiv__ = __div__\n"
         "    def __truediv__(self, o): return 'true'\n"
         "    def __idiv__(self, o):\n        self.v /= o\n        return self\n"
         "class W(V): pass\nv = V()\nv /= 2\nprint V() / 1, 2 / W(), v.v", "('div', 1) ('div', 2) 3"),
        ("dict = {}\nglobals = None\nfrom math import *\nprint floor(2.5), dict", "2.0 {}"),
        ("class V(object):\n    def __rdiv__(self, o): return 'div'\nprint [1, [2, 3]] / V()", "div"),
        ("class V(object):\n    if True:\n        def __div__(self, o): return 'div'\nprint V() / 1", "div"),
        ("import math\nprint math.floor(-0.0), math.ceil(-0.5), round(1.25, 10**7), round(5.0, -10**7)",
         "-0.0 -0.0 1.25 0.0"),
    ],
)  # fmt: skip
def test_what_python_2_printed(source: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(source)
    assert capsys.readouterr().out == f"{printed}\n"


def test_names_of_another_file_of_the_program(tmp_path: Path) -> None:
    pytest.importorskip("fissix")
    used = "def helper(d):\n    print d\n    return map(str, d), filter(None, d), round(1), cmp(1, 2)\n"
    (tmp_path / "helpers.py").write_text(used)
    own = "".join(f"def {name}(*a): return 'own'\n" for name in ("map", "filter", "round", "cmp"))
    main = f"{own}from helpers import *\nprint [map(1), filter(1), round(1), cmp(1)]\nprint helper([])\n"
    (tmp_path / "main.py").write_text(main)
    command = [sys.executable, "-m", "dpnn_bridge.legacy", "main.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["['own', 'own', 'own', 'own']", "[]", "([], [], 1.0, -1)"]


def run(source: str) -> None:
    pytest.importorskip("fissix")
    exec(compiled(f"{source}\n".encode(), "two.py"), {"__name__": "two"})


def test_random_numbers_of_python_2(capsys: pytest.CaptureFixture[str]) -> None:
    run(
        "import random\nrandom.seed(1)\n"
        "print [random.randint(0, 9) for _ in xrange(5)],\\\n random.choice('abcd'), random.sample(range(10), 3)\n"
        "x = range(6); random.shuffle(x); print x"
    )
    assert capsys.readouterr().out == "[1, 8, 7, 2, 4] b [6, 7, 0]\n[3, 5, 2, 1, 4, 0]\n"


RANDOM = """
import random
random.seed("abc")
print random.randrange(10), random.randrange(30, 3, -4), random.randrange(10 ** 30)
print random.sample(xrange(10 ** 6), 6), random.sample(set(range(100)), 2), random.Random(5).randint(0, 100)
"""


EXPECTED = """\
0 18 531315124143455278195240783214
[644635, 499892, 502426, 12311, 6883, 194634] [63, 87] 62
"""


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("random.sample(range(50), 6)", "[6, 41, 36, 11, 22, 20]"),
        ("random.sample(range(21), 3)", "[2, 16, 14]"),
        ("random.sample(dict.fromkeys(range(300)), 3)", "[40, 253, 227]"),
        ("random.sample(set(range(300)), 0), '%.6f' % random.random()", "([], '0.134364')"),
        ("x, random.shuffle(x, lambda: .3)", "([3, 2, 0, 4, 1], None)"),
    ],
)
def test_what_python_2_drew(expression: str, result: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"import random\nrandom.seed(1)\nx = range(5)\nprint repr(({expression}))")
    assert capsys.readouterr().out == f"{result}\n"


def test_a_range_without_a_step() -> None:
    with pytest.raises(ValueError, match="zero step"):
        run("import random\nprint random.randrange(1, 5, 0)")


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("(np.array([True, False]) / 2).tolist(), (3 / np.array([True])).tolist()", "([0, 0], [3])"),
        ("(np.array([True]) / np.array([True])).dtype.name, int((np.array([1]) > 0).any() / 2)", "('int8', 0)"),
        ("(np.array([7, -3], dtype=object) / 2).tolist(), (7 / np.array([2], dtype=object)).tolist()",
         "([3, -2], [3])"),
        ("(np.array([7, 9]) / [2, 4]).tolist(), ([7] / np.array([2.])).tolist()", "([3, 2], [3.5])"),
        ("float(np.timedelta64(3, 's') / np.timedelta64(2, 's')), str(np.timedelta64(-3, 's') / 2)",
         "(1.5, '-1 seconds')"),
        ("[(x.tolist(), x is y) for x, y in [halved(np.array([7, 3.5], dtype=object)), halved(np.array([-7]))]]",
         "[([3, 1.75], True), ([-4], True)]"),
    ],
)  # fmt: skip
def test_quotients_of_arrays_in_python_2(expression: str, result: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The results are those of numpy 1.16."""
    run(f"import numpy as np\ndef halved(x):\n    y = x\n    x /= 2\n    return x, y\nprint repr(({expression}))")
    assert capsys.readouterr().out == f"{result}\n"


def test_functions_of_python_2_share_the_generator_of_other_files(capsys: pytest.CaptureFixture[str]) -> None:
    run("import random\nrandom.seed(3)\nprint '%.6f' % random.random()")
    following = random.random()
    random.seed(3)
    assert capsys.readouterr().out == f"{random.random():.6f}\n"
    assert random.random() == following
    run(RANDOM)
    assert capsys.readouterr().out == EXPECTED


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("torch.LongTensor([7, -7, 23]) / 2", [3, -3, 11]),
        ("(torch.IntTensor([7]) / torch.IntTensor([2])).float() / 2", [1.5]),
        ("7 / torch.LongTensor([2])", [3]),
        ("(torch.ones(3) > 0).sum() / 2", 1),
        ("(torch.ones(2) > 0) / 2", [0, 0]),
        ("(torch.ones(2) > 0) / (torch.ones(2) > 0)", [1, 1]),
        ("300 / (torch.ones(1) > 0).long()", [300]),
        ("halved(torch.ones(2) > 0)", [0, 0]),
        ("torch.LongTensor([7]) / 2.0", [3.5]),
    ],
)
def test_quotients_of_integer_tensors_in_python_2(expression: str, result: object) -> None:
    """PyTorch before 0.5 rounded them toward zero."""
    names: dict[str, object] = {"__name__": "two"}
    code = "import torch\ndef halved(x):\n    x /= 2\n    return x\n"
    code += f"x = ({expression}).tolist()\n"
    code += "n = m = torch.IntTensor([-7])\nn /= 2\nshared = n is m\nn = n.tolist()\nprint 1\n"
    pytest.importorskip("fissix")
    exec(compiled(code.encode(), "two.py"), names)
    assert (names["x"], names["n"], names["shared"]) == (result, [-3], True)
