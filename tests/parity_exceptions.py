"""Where a module differs from Torch7 on purpose, and why.

Class of the fixture -> name of a comparison (or the beginning of it) -> reason. Everything else is compared strictly.
"""

from __future__ import annotations

EXCEPTIONS: dict[str, dict[str, str]] = {
    "nn.SparseLinear": {
        "gradInput": "Torch7 returns a gradient for every element of the dense vector, autograd one for each value in "
        "the input; tests/test_sparse.py compares them",
    },
    "nn.IndexLinear": {
        "gradInput": "as nn.SparseLinear; tests/test_sparse.py",
        "gradParams[1]": "Torch7 lists a table of rows instead of a gradient tensor; tests/test_sparse.py compares them",
        "backward": "Torch7 forgets that a single sample has no gradInput; nothing stands in the way here",
    },
    "nn.SpatialDropout": {"backward": "Torch7 defines no gradient in evaluation; here it is the derivative"},
    "nn.VolumetricDropout": {"backward": "Torch7 defines no gradient in evaluation; here it is the derivative"},
}


def exception_for(class_name: str, comparison: str) -> str | None:
    """The reason why a comparison may fail for a class of fixtures, or None."""
    reasons = EXCEPTIONS.get(class_name, {})
    return next((reason for name, reason in reasons.items() if comparison.startswith(name)), None)
