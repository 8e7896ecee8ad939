"""Recognize Python 2 in files that Python 3 can compile.

Such a file is Python 2 only if a sign is sure, because a program for Python 3 would silently round its quotients.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from dpnn_bridge.legacy.python2_imports import METHODS, is_file, methods_elsewhere, relative

_NAMES = {"basestring", "execfile", "long", "raw_input", "reduce", "reload", "unichr", "unicode", "xrange"}
_MODULES = {"cPickle", "ConfigParser", "cStringIO", "Queue", "StringIO", "urllib2", "urlparse"}
#: text that indicates a program for both Python 2 and 3
_PORTABLE = re.compile(
    r"\b(?:six|ImportError|ModuleNotFoundError|NameError|sys\.version|sys as|from sys import\b.*\bversion"
    r"|(?:str|bytes|unicode) (?:is|is not|==|!=) (?:str|bytes|unicode))\b"
)
#: names of Python's version (``is_py2``, ``ispy3``, ``onPy3``, ``PY3K``), but not ``copy2`` and ``numpy2torch``
_VERSION = re.compile(
    r"(?:(?<![A-Za-z])|(?<=is)|(?<=IS)|(?<=on)|(?<=in))(?i:py(?:thon)?_?[23])|(?<=[a-z])P[yY](?:thon)?_?[23]"
    r"|(?i:python_?version|version_?info|hexversion)"
)
#: names through which a program binds names that are not in its syntax tree
_BINDING = {"exec", "globals", "builtins", "__builtins__"}
#: names through which a program imports modules that are not in its syntax tree
_IMPORTING = {"__import__", "importlib", "imp"}
#: exceptions whose handlers, and the context manager whose blocks, may expect that a name or method is missing
_EXPECTED = {"Exception", "BaseException", "AttributeError", "suppress"}
#: functions whose results nobody prints
_ACTIONS = {"close", "exit", "flush", "quit", "sleep"}
#: syntax that Python 2 does not have
_PYTHON3 = (
    *(ast.JoinedStr, ast.AnnAssign, ast.Nonlocal, ast.AsyncFunctionDef, ast.Await, ast.YieldFrom, ast.MatMult),
    *(ast.NamedExpr, ast.Match, getattr(ast, "TryStar", ast.Match)),
)


def only_python2(tree: ast.Module, source: str, folder: Path, package: bool) -> bool:
    """Return whether a file is certainly Python 2.

    The signs are names, methods and modules that only Python 2 has, statements that print without a function, and
    in a package imports without a dot. Syntax that only Python 3 has rules it out. A name is no sign if the file may
    bind it, a method if a class of the program or of an installed package may define it, and neither where the file
    expects that they are missing. A name of Python's version, such as ``is_py2``, rules it out.

    Args:
        tree: the syntax tree of the file.
        source: its text.
        folder: its folder.
        package: whether the file is part of a package.
    """
    nodes = list(ast.walk(tree))
    if _PORTABLE.search(source) or _is_python3(nodes):
        return False
    bound = set().union(*map(_bound, nodes))
    if any(word.isidentifier() and _VERSION.search(word) for word in bound.union(_words(tree))):
        return False
    names = set() if bound & (_BINDING | {"*"}) else _NAMES - bound
    methods = set().union(*map(_calls_method, nodes)) - bound
    if methods:
        modules = {*chain(*map(_modules, nodes)), *chain(*(_relative(node, folder) for node in nodes))}
        methods -= set(METHODS) if bound & _IMPORTING else methods_elsewhere(modules, folder)
    extends_path = "sys.path" in source
    for node in _expected_to_work(tree):
        if isinstance(node, ast.Name) and node.id in names:
            return True
        if _calls_method(node) & methods:
            return True
        if any(
            (module in _MODULES and not is_file(module, folder))
            or (package and not extends_path and is_file(module, folder) and find_spec(module) is None)
            for module in _modules(node)
        ):
            return True
    prints = any(isinstance(node, ast.Expr) and _continues_print(node.value) for node in nodes)
    return prints and not any(map(_future, nodes))


def _calls_method(node: ast.AST) -> set[str]:
    """Return the name of the method of Python 2's dicts that a node calls, if it calls one."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.keywords:
        return set()
    return {node.func.attr} if METHODS.get(node.func.attr) == len(node.args) else set()


def _bound(node: ast.AST) -> set[str]:
    """Return the names that a node binds, of variables, attributes and methods; ``*`` for an import of all names.

    Imports count with all their names. Strings count, because ``hasattr`` and ``setattr`` take names, and so do
    functions that bind any name.
    """
    if isinstance(node, ast.Name):
        return {node.id} if node.id in _BINDING | _IMPORTING or not isinstance(node.ctx, ast.Load) else set()
    if isinstance(node, ast.Attribute):
        return set() if isinstance(node.ctx, ast.Load) else {node.attr}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        names = [name for alias in node.names for name in (alias.asname, alias.name)]
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        return {part for name in names if name for part in name.split(".")}
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    name = node.arg if isinstance(node, ast.arg) else getattr(node, "name", None)
    return {name} if isinstance(name, str) else set()


def _expected_to_work(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, without code that may expect that a name is missing.

    Such code handles exceptions, or depends on ``hasattr``.
    """
    pending = [node]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, (ast.If, ast.IfExp)) and "hasattr" in _words(node.test):
            continue
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, (ast.Try, ast.With)):
            caught = (
                [h.type for h in node.handlers] if isinstance(node, ast.Try) else [i.context_expr for i in node.items]
            )
            if any(expression is None or _EXPECTED & set(_words(expression)) for expression in caught):
                expected = set(node.body)
                children = [child for child in children if child not in expected]
        pending += children


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield node.id if isinstance(node, ast.Name) else node.attr


def _modules(node: ast.AST) -> set[str]:
    """Return the first parts of the modules that a node imports without a dot."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {node.module.split(".")[0]} if isinstance(node, ast.ImportFrom) and node.module and not node.level else set()


def _relative(node: ast.AST, folder: Path) -> set[tuple[str, Path]]:
    """Return the modules that a node imports with dots, see :func:`~dpnn_bridge.legacy.python2_imports.relative`."""
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return set()
    return relative(node.level, (node.module or "").split(".")[0], (alias.name for alias in node.names), folder)


def _is_python3(nodes: list[ast.AST]) -> bool:
    """Return whether a file has syntax that Python 2 does not have, or calls ``print`` as only a function is called."""
    future = {name for node in nodes for name in _future(node)}
    if "annotations" in future or any(map(_has_new_syntax, nodes)):
        return True
    if "print_function" in future:
        return False
    statements = {_printed(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return any(
        (isinstance(node, ast.Call) and bool(node.keywords) and _is_print(node.func))
        or (_is_print(node) and node not in statements)
        for node in nodes
    )


def _future(node: ast.AST) -> set[str]:
    """Return what a node imports from ``__future__``."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return {alias.name for alias in node.names}
    return set()


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "print"


def _has_new_syntax(node: ast.AST) -> bool:
    """Return whether a node is syntax that Python 2 does not have, or calls ``super`` as Python 2 cannot."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args
    if isinstance(node, ast.arguments):
        every = [*node.posonlyargs, *node.args, *node.kwonlyargs, node.vararg, node.kwarg]
        return bool(node.kwonlyargs or node.posonlyargs or any(a is not None and a.annotation for a in every))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return any(isinstance(element, ast.Starred) for element in node.elts)
    return (
        isinstance(node, _PYTHON3)
        or (isinstance(node, ast.FunctionDef) and node.returns is not None)
        or (isinstance(node, ast.ClassDef) and bool(node.keywords))
        or (isinstance(node, ast.Raise) and node.cause is not None)
        or (isinstance(node, ast.Dict) and None in node.keys)
    )


def _printed(value: ast.expr) -> ast.expr | None:
    """Return the ``print`` that a statement begins with, as in ``print (x - 1).max()`` or ``print (a), b``."""
    inner: ast.expr | None = value
    while inner is not None and not _is_print(inner):
        if isinstance(inner, (ast.Attribute, ast.Subscript)):
            inner = inner.value
        elif isinstance(inner, ast.Call):
            inner = inner.func
        elif isinstance(inner, (ast.BinOp, ast.Compare)):
            inner = inner.left
        else:
            inner = inner.elts[0] if isinstance(inner, ast.Tuple) and inner.elts else None
    return inner


def _continues_print(value: ast.expr) -> bool:
    """Return whether a statement prints a value that is more than what the parentheses of ``print`` contain."""
    if isinstance(value, ast.Call) and _is_print(value.func):
        return False
    acts = isinstance(value, ast.Tuple) and any(map(_acts, value.elts))
    return _printed(value) is not None and not acts


def _acts(value: ast.expr) -> bool:
    """Return whether a value is that of a call such as ``sys.stdout.flush()``, which nobody prints."""
    if not isinstance(value, ast.Call):
        return False
    return bool(_ACTIONS & {getattr(value.func, "attr", None), getattr(value.func, "id", None)})
