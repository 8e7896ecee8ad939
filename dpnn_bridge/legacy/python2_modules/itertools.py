"""Python 2's ``itertools``, which has the iterators that built-in functions of Python 3 return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary, reportAssignmentType]
from itertools import filterfalse, zip_longest
from typing import Any

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *("chain", "combinations", "combinations_with_replacement", "compress", "count", "cycle", "dropwhile", "groupby"),
    *("ifilter", "ifilterfalse", "imap", "islice", "izip", "izip_longest", "permutations", "product", "repeat"),
    *("starmap", "takewhile", "tee"),
]

ifilter, ifilterfalse, izip, izip_longest = filter, filterfalse, zip, zip_longest


def imap(function: Callable[..., Any] | None, *values: Iterable[Any]) -> Iterator[Any]:
    """Call a function with the elements of iterables, up to the shortest; without a function, return tuples."""
    return zip(*values, strict=False) if function is None else map(function, *values)
