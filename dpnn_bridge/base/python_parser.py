"""Parse Python source code in one thread at a time.

Before Python 3.11.8 and 3.12.2, ``ast.parse`` fails if two threads use it. The other functions call it too. No code
of a user runs while a thread owns the lock, so such code may wait for other threads.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from dpnn_bridge.base.exclusive import Exclusive

Function = TypeVar("Function", bound=Callable[..., Any])


def _exclusive(function: Function) -> Function:
    @wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        with Exclusive(_exclusive):
            return function(*args, **kwargs)

    return alone  # type: ignore[return-value]


parse = _exclusive(ast.parse)  # noqa: TID251
literal_eval = _exclusive(ast.literal_eval)  # noqa: TID251
getsource = _exclusive(inspect.getsource)  # noqa: TID251
