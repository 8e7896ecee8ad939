"""Python 2's ``math``, whose ``floor`` and ``ceil`` return floats."""

from __future__ import annotations

import math as _math
from math import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary, reportAssignmentType]
from typing import SupportsFloat

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "copysign", "cos", "cosh", "degrees", "e"),
    *("erf", "erfc", "exp", "expm1", "fabs", "factorial", "floor", "fmod", "frexp", "fsum", "gamma", "hypot", "isinf"),
    *("isnan", "ldexp", "lgamma", "log", "log10", "log1p", "modf", "pi", "pow", "radians", "sin", "sinh", "sqrt"),
    *("tan", "tanh", "trunc"),
]


def floor(x: SupportsFloat) -> float:
    """Round down."""
    number = float(x)
    return _math.copysign(_math.floor(number), number) if _math.isfinite(number) else number


def ceil(x: SupportsFloat) -> float:
    """Round up."""
    return -floor(-float(x))
