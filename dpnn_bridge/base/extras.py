"""Name the package to install if an optional dependency is missing. pyproject.toml declares the extras."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires

from dpnn_bridge.errors import MissingPackageError


def missing_package(what: str, extra: str, error: ImportError, only: Sequence[str] = ()) -> MissingPackageError:
    """Return the error for a failed import of an optional package, with the command to install the package.

    Args:
        what: The option or file that needs the package, for the message.
        extra: The extra of dpnn_bridge that contains the package.
        error: The exception of the import.
        only: Names of the needed packages of the extra; default: all.
    """
    reason = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) and error.name else str(error)
    return MissingPackageError(f"{what}: {reason.rstrip('.')}. To fix this: {install_advice(extra, only)}")


def install_advice(extra: str, only: Sequence[str] = ()) -> str:
    """Return the command that installs the packages of an extra from PyPI, where dpnn_bridge itself may not be.

    >>> install_advice("safetensors")
    "pip install 'safetensors>=0.4'"
    """
    try:
        lines = requires("dpnn-bridge") or []
    except PackageNotFoundError:
        lines = []
    packages = [m[1].strip() for line in lines if (m := re.fullmatch(rf"([^;]+); extra == ['\"]{extra}['\"]", line))]
    packages = [name for name in packages if not only or re.split(r"[\[<>=~! ]", name)[0] in only]
    if not packages:  # a checkout that was never installed
        return f"pip install -e '.[{extra}]' in the checkout of dpnn_bridge"
    return "pip install " + " ".join(f"'{name}'" for name in packages)
