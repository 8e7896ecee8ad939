"""Provide the version of this package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """Return the installed version of dpnn_bridge."""
    try:
        return version("dpnn-bridge")
    except PackageNotFoundError:
        return "unknown"


__version__ = package_version()
