"""Render HTML pages from the templates of a subpackage. Text from files is escaped."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dpnn_bridge.base.display import in_html


def rendered(package: str, template: str, **values: Any) -> str:
    """Render a template in the folder ``static`` of a package with the given values."""
    loader = PackageLoader(package, "static")
    environment = Environment(
        loader=loader,
        autoescape=True,
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def static(package: str, name: str) -> Markup:
    """Return a style sheet or script in the folder ``static`` of a package, without escaping."""
    return Markup((resources.files(package) / "static" / name).read_text(encoding="utf-8"))


def _escaped(value: Any) -> Any:
    return Markup(in_html(value)) if type(value) is str else value  # Markup is a str too
