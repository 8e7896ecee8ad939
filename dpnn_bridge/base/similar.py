"""Suggest the name that a misspelled or abbreviated name may stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: minimum length of a name that may stand for a longer one
_SHORTEST = 3
#: minimum share of equal letters
_CUTOFF = 0.65


def similar_names(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Return at most ``count`` known names that are similar to ``name``, the most similar first.

    Similar are names in which ``name`` begins a word (``index`` in ``index_base``, ``rnn`` in ``protos.rnn``), the
    shortest first, and then names that differ in a few letters.
    """
    known = [other for other in dict.fromkeys(known) if other and other != name]
    longer = re.compile(rf"(?:^|[._\]]){re.escape(name)}", re.IGNORECASE)
    begun = [other for other in known if len(name) >= _SHORTEST and longer.search(other)]
    return [*dict.fromkeys([*sorted(begun, key=len), *get_close_matches(name, known, n=count, cutoff=_CUTOFF)])][:count]


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", count: int = 1) -> str:
    """Return ``did you mean X?`` with the similar names, or ``otherwise`` if there is none."""
    similar = similar_names(name, known, count)
    return f"did you mean {' or '.join(similar)}?" if similar else otherwise
