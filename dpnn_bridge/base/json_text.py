"""Parse JSON of untrusted files in linear time, and replace values that JSON does not have."""

from __future__ import annotations

import json
import math
import re
from typing import Any

#: most digits of an integer; the largest double has 309
MAX_DIGITS = 400
_LONG = re.compile(f"(?<![0-9])[0-9]{{{MAX_DIGITS + 1}}}")


def parse_json(text: str | bytes | bytearray, **hooks: Any) -> Any:
    """Return the value of a JSON text, as ``json.loads`` does.

    Python converts digits to an integer in quadratic time, and its own limit is a setting of the process
    (``sys.set_int_max_str_digits``, ``PYTHONINTMAXSTRDIGITS``) that other code may have removed.

    Args:
        text: The JSON.
        **hooks: Further arguments of ``json.loads``.

    Raises:
        ValueError: the text is not JSON, or an integer has more than :data:`MAX_DIGITS` digits.
        RecursionError: the values are nested too deeply.
    """
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text), "surrogatepass")
    return json.loads(text, parse_int=_integer if _LONG.search(text) else None, **hooks)


def finite(value: Any) -> Any:
    """Return nested data with infinite numbers and NaN, which JSON does not have, as strings such as ``"inf"``."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _integer(digits: str) -> int:
    if len(digits.removeprefix("-")) > MAX_DIGITS:
        raise ValueError(f"an integer has more than {MAX_DIGITS} digits")
    return int(digits)
