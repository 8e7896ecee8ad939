"""mkdocs hook: cross-reference roles in docstrings become plain code."""

from __future__ import annotations

import re
from typing import Any

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):<code>(~?)([\w.]*?)(\w+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """``:func:`~package.name``` is shown as ``name``."""
    return ROLE.sub(lambda m: f"<code>{'' if m[1] else m[2]}{m[3]}</code>", html)
