"""Convert every exception that leaves a public function to an error of this package.

Every public function that reads, converts, runs or writes is wrapped once. Errors of this package and KeyboardInterrupt
pass through. Any other exception becomes an error of this package with the original exception as its cause.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import unwrap
from traceback import walk_tb
from typing import Any, ParamSpec, TypeVar

from dpnn_bridge.base.arguments import call_message, unknown_keyword
from dpnn_bridge.base.display import shortened
from dpnn_bridge.errors import (
    CHECK_PATH,
    REMOVED_DIRECTORY,
    ConversionError,
    DpnnBridgeError,
    FileAccessError,
    LuaValueError,
    MissingFileError,
    OptionError,
)

P = ParamSpec("P")
T = TypeVar("T")

#: next step after an error of the operating system that names a file
_NEXT_STEPS = {
    errno.ENOENT: CHECK_PATH,
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check the permissions of the file and its folders"),
}


def wrap_errors(error_type: type[DpnnBridgeError], doing: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function so that it raises only errors of this package.

    Args:
        error_type: error class for other exceptions, except OSError and TypeErrors caused by the caller's arguments.
        doing: the operation, for messages: ``"reading the file"``.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return function(*args, **kwargs)
            except DpnnBridgeError:
                raise
            except (Exception, SystemExit) as error:  # a plugin may call sys.exit
                if isinstance(error, TypeError) and _is_wrong_call(error, function, kwargs):
                    raise OptionError(f"{function.__name__}: {call_message(error, function)}") from error
                raise as_package_error(error, error_type, doing) from error

        return guarded

    return decorate


def as_package_error(error: BaseException, error_type: type[DpnnBridgeError], doing: str) -> DpnnBridgeError:
    """Return an error of this package with the message of another exception."""
    message = shortened(str(error).strip().split("\n", 1)[0], 500)
    if isinstance(error, OSError):
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        where = f"{named[-1]}: " if named else ""
        reason = error.strerror or message or type(error).__name__
        is_missing = isinstance(error, FileNotFoundError)
        if is_missing and (named or error.strerror is None):
            reason = "no such file"
        if is_missing and not named and working_directory_is_removed():
            is_missing, reason = False, REMOVED_DIRECTORY
        kind = MissingFileError if is_missing else FileAccessError
        step = _NEXT_STEPS.get(error.errno or 0) if named else None
        advice = f"; {step}" if step else ""
        converted: DpnnBridgeError = kind(f"{where}{doing}: {reason[:1].lower()}{reason[1:]}{advice}")
        converted.errno, converted.filename = error.errno, error.filename  # type: ignore[attr-defined]
        return converted
    if isinstance(error, MemoryError):
        return error_type(f"{doing}: not enough memory")
    if isinstance(error, RecursionError):
        return error_type(f"{doing}: the data are nested too deeply, or contain themselves")
    return error_type(f"{doing}: {type(error).__name__}{f': {message}' if message else ''}")


def with_layer(error: Exception, path: str, class_name: str) -> Exception:
    """Return an error that a class mapping raised, with the path of the module.

    An error of this package that has a path, or that is about a file, is returned unchanged, and so is an error of
    recursion: any layer can be the one that exceeds Python's limit.
    """
    if isinstance(error, ConversionError):
        if error.path or not path or type(error) not in (ConversionError, LuaValueError):
            return error
        return type(error)(error.reason, path=path, class_name=error.class_name or class_name)
    if isinstance(error, (DpnnBridgeError, RecursionError)):
        return error
    if isinstance(error, OSError):
        return as_package_error(error, ConversionError, f"converting {path or 'the model'} ({class_name})")
    reason = as_package_error(error, ConversionError, "converting the module")
    return ConversionError(str(reason), path=path, class_name=class_name)


def working_directory_is_removed() -> bool:
    """Return whether the working directory was removed."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    except OSError:  # of a folder that the user may not read
        pass
    return False


def _is_wrong_call(error: TypeError, function: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Return whether a TypeError is about the arguments of the call, or about an unknown option.

    Args:
        error: the TypeError, caught where ``function`` is called.
        function: the called function. It passes unknown options to an options class.
        options: the keyword arguments of the call.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if len(frames) < 2:
        return True
    unknown = unknown_keyword(error)
    own_code = getattr(unwrap(function), "__code__", None)
    return unknown is not None and unknown in options and frames[-1].f_code is own_code
