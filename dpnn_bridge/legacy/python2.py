"""Run code for Python 2, or for Python 3 before 3.7, after translation to current Python.

A file is translated if Python cannot compile it, or if it is certainly Python 2 (``python2_signs``). fissix, the
maintained fork of Python's ``2to3``, translates the syntax. This module also translates the division of integers,
comparisons, functions and modules that compute something else in Python 2, torchfile's strings (``str`` in Python 2),
and the argument ``async`` (``x.cuda(async=True)``, now ``non_blocking``).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from importlib.util import decode_source
from pathlib import Path
from types import CodeType
from typing import Any, TypeGuard

from dpnn_bridge.base.extras import missing_package
from dpnn_bridge.base.python_parser import parse
from dpnn_bridge.legacy.python2_functions import (
    PROVIDED,
    divided,
    divisible,
    ordered,
    quotient,
    sort,
    sorted_list,
    star_imported,
)
from dpnn_bridge.legacy.python2_imports import is_file, is_installed
from dpnn_bridge.legacy.python2_signs import only_python2

#: maximum number of calls, attributes and indices in one expression, and of modules in one import, because fissix takes
#: cubic time for them
_LONGEST_CHAIN = 64
#: translations of fissix that this module makes itself
_OMITTED = (
    *("unicode", "numliterals", "nonzero", "sorted"),
    *("map", "filter", "itertools", "itertools_imports"),
)
#: methods with another name in Python 3
_RENAMED = {"next": "__next__", "__nonzero__": "__bool__"}
_MODULES = ("itertools", "math", "random")


def compiled(data: bytes, path: str, package: bool = False) -> CodeType:
    """Compile a source file, after translation if necessary.

    Args:
        data: Content of the file.
        path: Path of the file, for messages and for imports from its folder.
        package: Whether the file is part of a package, whose modules Python 2 imports without a dot.

    Raises:
        SyntaxError: The file is neither Python 3 nor Python 2, is nested too deeply, or must be translated and has an
            expression with more than 64 consecutive calls, attributes and indices.
        MissingPackageError: The file must be translated and fissix is not installed.
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
        tree = parse(source, path)
    except SyntaxError as error:
        source = re.sub(r"\basync\b(?!\s+(?:def|for|with)\b)", "non_blocking", source)
        try:
            tree = parse(source, path)
        except SyntaxError:
            return _translated(source, path, package, error)
    if only_python2(tree, source, Path(path).parent, package):
        with contextlib.suppress(SyntaxError):  # it is Python 3 if it is not Python 2
            return _translated(source, path, package)
    return compile(tree, path, "exec", dont_inherit=True)


class _TooLongError(Exception):
    """The translation of a file would take too long."""


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
        def get_fixers(self) -> Any:
            fixers = super().get_fixers()
            for fixer in (f for order in fixers for f in order if type(f).__name__ == "FixNext"):
                fixer.PATTERN = "|".join(part for part in fixer.PATTERN.split("|") if "classdef" not in part)
                fixer.compile_pattern()
            return fixers

        def refactor_tree(self, tree: Any, name: str) -> bool:
            strings, numbers = FixUnicode({}, []), FixNumliterals({}, [])
            strings.start_tree(tree, name)
            fixer_of = {token.STRING: strings, token.NAME: strings, token.NUMBER: numbers}
            for node in tree.pre_order():
                # replaced in place, because fissix would search each node in the list of its siblings
                fixer = fixer_of.get(node.type)
                if fixer and (found := fixer.match(node)) and (new := fixer.transform(node, found)) is not None:
                    node.value = new.value
                if node.type in chains and len(node.children) > _LONGEST_CHAIN:
                    what = f"more than {_LONGEST_CHAIN} consecutive calls, attributes, indices or imported modules"
                    raise _TooLongError(f"line {node.get_lineno()} has {what}; split it to translate it from Python 2")
            return super().refactor_tree(tree, name)

    omitted = {f"fissix.fixes.fix_{name}" for name in (*_OMITTED, *([] if package else ["import"]))}
    return Translator([name for name in fixers if name not in omitted])


def _translated(source: str, path: str, package: bool, error: SyntaxError | None = None) -> CodeType:
    translator = _translator(package)
    from fissix.pgen2.parse import ParseError
    from fissix.pgen2.tokenize import TokenError

    try:
        indented = re.sub(r"(?m)^[ \t]+", lambda indentation: indentation[0].expandtabs(8), source)
        translated = translator.refactor_string(f"{indented}\n", path)
        tree = parse(str(translated), path)
    except (ParseError, TokenError, SyntaxError):
        raise (error or SyntaxError(f"cannot be translated from Python 2: {path}")) from None
    _restore_lines(tree, translated)
    _import_python2(tree, Path(path).parent)
    _rename_methods(tree)
    _compare(tree)
    _keep_from_stars(tree)
    future = {alias.name for node in tree.body if _is_future(node) for alias in node.names}
    if "division" not in future | translated.future_features:  # fissix removes some of these imports
        _divide_integers(tree)
    print(f"{path}: translated from Python 2 to Python 3", file=sys.stderr)
    return compile(tree, path, "exec", dont_inherit=True)


def _restore_lines(tree: ast.Module, translated: Any) -> None:
    """Give each node the line that it has in the file, because fissix adds lines.

    Args:
        tree: the syntax tree of the translation.
        translated: the translation, as a tree of fissix, whose words know their lines in the file.
    """
    lines, number = [1], 1  # number of a line of the translation -> number in the file
    for word in translated.leaves():
        for text, known in ((word.prefix, 0), (word.value, word.lineno)):
            if known:
                lines[number - 1] = max(known, lines[number - 2] if number > 1 else 1)
            added = text.count("\n")
            lines += [lines[number - 1]] * added
            number += added
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.expr, ast.excepthandler, ast.keyword, ast.arg, ast.alias)):
            node.lineno = node.end_lineno = lines[node.lineno - 1]
            node.col_offset = node.end_col_offset = -1  # unknown


def _import_python2(tree: ast.Module, folder: Path) -> None:
    """Replace imports of torchfile, whose strings are ``str`` in Python 2, and of modules that differ there."""
    replacement = {"torchfile": "dpnn_bridge.legacy.text_torchfile"}
    replacement |= {
        name: f"dpnn_bridge.legacy.python2_modules.{name}" for name in _MODULES if not is_file(name, folder)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            node.module = replacement.get(node.module or "", node.module)
        for alias in node.names if isinstance(node, ast.Import) else ():
            if alias.name in replacement:
                alias.name, alias.asname = replacement[alias.name], alias.asname or alias.name


def _rename_methods(tree: ast.Module) -> None:
    """Rename the methods ``next`` and ``__nonzero__``, because fissix takes cubic time for the methods of a class."""
    for node in ast.walk(tree):
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(method, ast.FunctionDef) and method.name in _RENAMED:
                given = method.args
                if len(given.args) == 1 and not (given.vararg or given.kwarg or given.defaults):
                    method.name = _RENAMED[method.name]


def _is_future(node: ast.stmt) -> TypeGuard[ast.ImportFrom]:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _divide_integers(tree: ast.Module) -> None:
    """Replace ``/`` and ``/=`` by functions with the semantics of Python 2, and let them call ``__div__``."""
    _import(tree, {f"_python2_{function.__name__}": function for function in (quotient, divided, divisible)})
    _decorate(tree, divisible, {"__div__", "__rdiv__", "__idiv__"})
    ast.fix_missing_locations(_Division().visit(tree))


def _import(tree: ast.Module, functions: dict[str, Callable[..., Any]]) -> None:
    """Import functions of Python 2 under other names, after the docstring and imports of ``__future__``."""
    first = int(ast.get_docstring(tree) is not None)
    while first < len(tree.body) and _is_future(tree.body[first]):
        first += 1
    for name, function in functions.items():
        node = ast.ImportFrom(function.__module__, [ast.alias(function.__name__, name)], 0)
        tree.body.insert(first, ast.fix_missing_locations(node))


def _compare(tree: ast.Module) -> None:
    """Provide functions and comparisons of Python 2, and the arguments of its ``list.sort`` and ``sorted``."""
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    _import(tree, {name: function for name, function in PROVIDED.items() if name in used})
    _import(tree, {f"_python2_{function.__name__}": function for function in (ordered, sort, sorted_list)})
    _decorate(tree, ordered, {"__cmp__"})
    ast.fix_missing_locations(_Sorting().visit(tree))


def _decorate(tree: ast.Module, decorator: Callable[[type], type], methods: set[str]) -> None:
    """Decorate the classes that define one of some methods."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(methods & _defined(statement) for statement in _statements(node)):
            name = ast.Name(f"_python2_{decorator.__name__}", ast.Load())
            node.decorator_list.append(ast.copy_location(name, node))


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of a class, also those in conditions, without those of functions and classes inside it."""
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.stmt):
            yield inner
        if not isinstance(inner, (ast.FunctionDef, ast.ClassDef)):
            yield from _statements(inner)


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {node.name} if isinstance(node, ast.FunctionDef) else set()


def _keep_from_stars(tree: ast.Module) -> None:
    """Let ``from module import *`` bind only what it bound in Python 2."""
    _import(tree, {f"_python2_{function.__name__}": function for function in (star_imported, dict, globals)})
    ast.fix_missing_locations(_Stars().visit(tree))


class _Stars(ast.NodeTransformer):
    def visit_ImportFrom(self, node: ast.ImportFrom) -> Any:
        if node.names[0].name != "*":
            return node
        before, after = parse(
            "_python2_before = _python2_dict(_python2_globals())\n"
            "_python2_star_imported(_python2_globals(), _python2_before)"
        ).body
        for added in (*ast.walk(before), *ast.walk(after)):
            ast.copy_location(added, node)
        return [before, node, after]


class _Sorting(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        compares, function = any(k.arg == "cmp" for k in node.keywords), node.func
        if isinstance(function, ast.Attribute) and function.attr == "sort" and (node.args or compares):
            return _call(sort, node, function.value, *node.args, keywords=node.keywords)
        if isinstance(function, ast.Name) and function.id == "sorted" and (len(node.args) > 1 or compares):
            return _call(sorted_list, node, *node.args, keywords=node.keywords)
        return node


class _Division(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        return _call(quotient, node, node.left, node.right) if isinstance(node.op, ast.Div) else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        before = parse(ast.unparse(node.target), mode="eval").body
        return ast.copy_location(ast.Assign([node.target], _call(divided, node, before, node.value)), node)


def _call(
    function: Callable[..., Any], at: ast.AST, *arguments: ast.expr, keywords: Sequence[ast.keyword] = ()
) -> ast.expr:
    name = ast.copy_location(ast.Name(f"_python2_{function.__name__}", ast.Load()), at)
    return ast.copy_location(ast.Call(name, [*arguments], [*keywords]), at)


class _Loader(SourceFileLoader):
    """Loader that compiles modules with :func:`compiled`. It writes no ``__pycache__``, which Python would reuse."""

    def get_code(self, fullname: str) -> CodeType:
        package = "." in fullname or self.is_package(fullname)
        return compiled(self.get_data(self.path), self.path, package)


def translate_imports(folder: Path) -> None:
    """Translate imported files in ``folder`` and its subfolders, except installed packages."""
    finder = FileFinder.path_hook((ExtensionFileLoader, EXTENSION_SUFFIXES), (_Loader, SOURCE_SUFFIXES))

    def find(entry: str) -> Any:
        path = Path(entry or ".").resolve()
        if not path.is_relative_to(folder) or is_installed(path):
            raise ImportError(f"not below {folder}", path=entry)
        return finder(entry)

    sys.path_hooks.insert(0, find)
    sys.path_importer_cache.clear()
