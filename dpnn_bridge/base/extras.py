"""Name the package to install if an optional dependency is missing. The extras are those of pyproject.toml."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires


def install_advice(extra: str) -> str:
    """Return the command that installs what an extra of this package needs, from PyPI, wherever dpnn_bridge came from.

    >>> install_advice("safetensors")
    "pip install 'safetensors>=0.4'"
    """
    try:
        lines = requires("dpnn-bridge") or []
    except PackageNotFoundError:
        lines = []
    found = [m[1].strip() for line in lines if (m := re.fullmatch(rf"([^;]+); extra == ['\"]{extra}['\"]", line))]
    if not found:  # a checkout that was never installed
        return f"pip install -e '.[{extra}]' in the checkout of dpnn_bridge"
    return "pip install " + " ".join(f"'{name}'" for name in found)
