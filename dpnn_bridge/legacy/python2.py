"""Run Python 2, and Python 3 from before 3.7, by translation to today's Python.

A file is translated if Python cannot compile it, or if it uses names that only Python 2 has and shows no regard for
Python 3. fissix, the maintained form of Python's own ``2to3``, translates the syntax. Beside that, a quotient of
integers is an integer in Python 2, torchfile's strings were text, and ``async`` was the name of an argument
(``x.cuda(async=True)``, now ``non_blocking``).
"""

from __future__ import annotations

import ast
import functools
import logging
import re
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from importlib.util import decode_source, find_spec
from pathlib import Path
from types import CodeType
from typing import Any, TypeGuard

from dpnn_bridge.base.extras import missing_package

_NAMES = {"basestring", "execfile", "long", "raw_input", "reduce", "reload", "unichr", "unicode", "xrange"}
_METHODS = {"has_key", "iteritems", "iterkeys", "itervalues"}
_MODULES = {"cPickle", "ConfigParser", "cStringIO", "Queue", "StringIO", "urllib2", "urlparse"}
#: calls, attributes and indices of one expression, and modules of one import: fissix takes cubic time for them
_LONGEST_CHAIN = 64
#: names in programs that run in both versions of Python
_BOTH = re.compile(r"\bversion_info\b|\bPY[23]\b|\bsix\b|\bImportError\b|\bNameError\b")


def compiled(data: bytes, path: str, package: bool = False) -> CodeType:
    """Compile a source file, after translation where it needs one.

    Args:
        data: Content of the file.
        path: Its path, for messages and for imports beside it.
        package: Whether the file is part of a package, where Python 2 looks for a module first.

    Raises:
        SyntaxError: The file is neither Python 3 nor Python 2, is nested too deeply, or must be translated and has an
            expression of more than 64 calls, attributes and indices in a row.
        MissingPackageError: It must be translated and fissix is not installed.
    """
    try:
        return _compiled(data, path, package)
    except (RecursionError, MemoryError):
        raise SyntaxError(f"nested too deeply: {path}") from None
    except (LookupError, _TooLongError) as error:
        raise SyntaxError(f"{error}: {path}") from None


def _compiled(data: bytes, path: str, package: bool) -> CodeType:
    try:
        source = decode_source(data)
    except UnicodeDecodeError:
        return compile(data, path, "exec", dont_inherit=True)  # raises the error that names the line
    try:
        tree = ast.parse(source, path)
    except SyntaxError as error:
        renamed = re.sub(r"\basync\b(?!\s+(?:def|for|with)\b)", "non_blocking", source)
        try:
            return compile(renamed, path, "exec", dont_inherit=True)
        except SyntaxError:
            return _translated(renamed, path, package, error)
    beside = Path(path).parent if package else None
    if _only_python2(tree, beside) and not _BOTH.search(source):
        return _translated(source, path, package, None)
    return compile(tree, path, "exec", dont_inherit=True)


def _only_python2(tree: ast.AST, package: Path | None) -> bool:
    """Whether a file uses names of Python 2, or in a folder ``package`` imports a file beside it as Python 2 does."""
    used, bound = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Attribute) and node.attr in _METHODS:
            return True
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                names = {node.module} if node.module and not node.level else set()
            if names & _MODULES or (package and any(_beside(name, package) for name in names)):
                return True
    return bool((used - bound) & _NAMES)


def _beside(name: str, package: Path) -> bool:
    name = name.split(".")[0]
    return ((package / f"{name}.py").exists() or (package / name / "__init__.py").exists()) and find_spec(name) is None


class _TooLongError(Exception):
    """Translating a file would take very long."""


@functools.cache
def _translator(package: bool) -> Any:
    try:
        from fissix.fixes.fix_numliterals import FixNumliterals
        from fissix.fixes.fix_unicode import FixUnicode
        from fissix.pgen2 import token
        from fissix.pygram import python_symbols
        from fissix.refactor import RefactoringTool, get_fixers_from_package
    except ImportError as error:
        raise missing_package("to run Python 2", "python2", error) from error
    logging.getLogger("RefactoringTool").setLevel(logging.ERROR)
    fixers = get_fixers_from_package("fissix.fixes")
    symbols: Any = python_symbols
    chains = (symbols.power, symbols.dotted_as_names)

    class Translator(RefactoringTool):
        def refactor_tree(self, tree: Any, name: str) -> bool:
            strings, numbers = FixUnicode({}, []), FixNumliterals({}, [])
            strings.start_tree(tree, name)
            fixer_of = {token.STRING: strings, token.NAME: strings, token.NUMBER: numbers}
            for node in tree.pre_order():
                # in place: fissix would search each of them among all elements of a list
                fixer = fixer_of.get(node.type)
                if fixer and (found := fixer.match(node)) and (new := fixer.transform(node, found)) is not None:
                    node.value = new.value
                if node.type in chains and len(node.children) > _LONGEST_CHAIN:
                    what = f"more than {_LONGEST_CHAIN} calls, attributes, indices or imported modules in a row"
                    raise _TooLongError(f"line {node.get_lineno()} has {what}; split it to translate it from Python 2")
            return super().refactor_tree(tree, name)

    own = (".fix_unicode", ".fix_numliterals", *([] if package else [".fix_import"]))
    return Translator([name for name in fixers if not name.endswith(own)])


def _translated(source: str, path: str, package: bool, error: SyntaxError | None) -> CodeType:
    translator = _translator(package)
    from fissix.pgen2.parse import ParseError
    from fissix.pgen2.tokenize import TokenError

    try:
        indented = re.sub(r"(?m)^[ \t]+", lambda indentation: indentation[0].expandtabs(8), source)
        translated = translator.refactor_string(f"{indented}\n", path)
        tree = ast.parse(str(translated), path)
    except (ParseError, TokenError, SyntaxError):
        raise (error or SyntaxError(f"cannot be translated from Python 2: {path}")) from None
    _import_text(tree)
    future = {alias.name for node in tree.body if _is_future(node) for alias in node.names}
    if "division" not in future | translated.future_features:  # fissix removes and knows those without parentheses
        _divide_integers(tree)
    print(f"{path}: is Python 2 and runs translated to Python 3", file=sys.stderr)
    return compile(tree, path, "exec", dont_inherit=True)


def _import_text(tree: ast.Module) -> None:
    """Import the torchfile whose strings are text."""
    text = "dpnn_bridge.legacy.text_torchfile"
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "torchfile" and not node.level:
            node.module = text
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name == "torchfile":
                alias.name, alias.asname = text, alias.asname or alias.name


def _is_future(node: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _divide_integers(tree: ast.Module) -> None:
    """Replace ``/`` by Python 2's."""
    functions = [ast.alias(function.__name__, f"_python2_{function.__name__}") for function in (quotient, divided)]
    first = int(ast.get_docstring(tree) is not None)
    while first < len(tree.body) and _is_future(tree.body[first]):
        first += 1
    tree.body.insert(first, ast.ImportFrom(__name__, functions, 0))
    ast.fix_missing_locations(_Division().visit(tree))


class _Division(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return _call(quotient, node, node.left, node.right) if isinstance(node.op, ast.Div) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        before = ast.parse(ast.unparse(node.target), mode="eval").body
        return ast.copy_location(ast.Assign([node.target], _call(divided, node, before, node.value)), node)


def _call(function: Callable[..., Any], at: ast.AST, *arguments: ast.expr) -> ast.expr:
    name = ast.copy_location(ast.Name(f"_python2_{function.__name__}", ast.Load()), at)
    return ast.copy_location(ast.Call(name, [*arguments], []), at)


def quotient(a: Any, b: Any) -> Any:
    """Return ``a / b`` of Python 2: of two integers, the integer below."""
    return a // b if isinstance(a, int) and isinstance(b, int) else a / b


def divided(a: Any, b: Any) -> Any:
    """Return what ``a /= b`` of Python 2 assigns."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    a /= b
    return a


class _Loader(SourceFileLoader):
    """Compiles modules by :func:`compiled`, without byte code on disk, which Python would take for the file's own."""

    def get_code(self, fullname: str) -> CodeType:
        package = "." in fullname or self.is_package(fullname)
        return compiled(self.get_data(self.path), self.path, package)


def translate_imports(folder: Path) -> None:
    """Let imports of files below ``folder`` take Python 2. Installed packages there stay as they are."""
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_Loader, SOURCE_SUFFIXES))

    def find(entry: str) -> Any:
        path = Path(entry or ".").resolve()
        if not path.is_relative_to(folder) or "site-packages" in path.parts or path.is_relative_to(sys.prefix):
            raise ImportError(f"not below {folder}", path=entry)
        return finder(entry)

    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
