"""Find, list, download and upload remote files with fsspec. An upload appears complete or not at all."""

from __future__ import annotations

import os
import posixpath
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dpnn_bridge.base import web
from dpnn_bridge.base.checksum import sha256_of
from dpnn_bridge.base.display import shortened
from dpnn_bridge.base.extras import missing_package
from dpnn_bridge.base.writing import open_output
from dpnn_bridge.errors import (
    MissingFileError,
    MissingPackageError,
    OptionError,
    OutputError,
    OutputExistsError,
    T7Error,
    VerificationError,
)

#: path of a local file, or URL of a remote file
Location = Path | str

_URL = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://")
_CHUNK = 1 << 22
_own = threading.local()


def is_url(origin: Any) -> bool:
    """Return whether the name of an input is a URL."""
    return isinstance(origin, str) and _URL.match(origin) is not None


def location_of(name: str | os.PathLike[str]) -> Location:
    """Return the path of a local file, also of a ``file://`` or ``local://`` URL; return any other URL unchanged."""
    if isinstance(name, str) and name.startswith("file://"):
        from urllib.request import url2pathname  # handles Windows drives; imports the HTTP client, so not at the top

        return Path(url2pathname("/" + name.removeprefix("file://").partition("/")[2]))
    if isinstance(name, str) and name.startswith("local://"):
        return Path(name.removeprefix("local://"))
    return name if isinstance(name, str) and is_url(name) else Path(name)


def local_path(origin: Any) -> Path | None:
    """Return the local file that an input is read from, also through file systems of fsspec; otherwise None.

    Args:
        origin: a path, an address such as ``simplecache::file:///x.t7`` or ``zip://x.t7::/x.zip``, an open file, or
            anything else. The name of a file in an open archive is not a path.
    """
    name = origin
    if not isinstance(origin, (str, os.PathLike)):
        with suppress(AttributeError, OSError, ValueError):
            origin.fileno()  # archives have none
            name = origin.name
    if not isinstance(name, (str, os.PathLike)):
        return None
    location = location_of(str(name).rpartition("::")[2] if is_url(name) else name)
    return location if isinstance(location, Path) else None


def input_place(origin: Any) -> Location | None:
    """Return the :func:`local_path` or the :func:`url_place` of an input, which no output may replace, or None."""
    return url_place(origin) if (path := local_path(origin)) is None and is_url(origin) else path


def url_place(url: str) -> str:
    """Return a URL in a form that is equal for equal places, such as ``cached::s3a://a//b`` and ``s3://a/b``.

    Caches are removed, and the scheme is replaced by the class of its file system. Versions of an object have its
    place, because writing to any of them writes a new one.
    """
    scheme, _, path = url.rpartition("::")[2].partition("://")
    path = posixpath.normpath(path.lstrip("/"))
    for part, kept in _SAME_PLACE.get(scheme, ()):
        path = re.sub(part, kept, path)
    with suppress(ImportError):  # without fsspec, no store can be read or written
        from fsspec.registry import known_implementations

        scheme = known_implementations.get(scheme, {}).get("class", scheme)
    return f"{scheme}://{path}"


#: scheme of a URL -> parts of its path that do not change the place, and what is kept of them: versions of an object,
#: the default type of a repository and its default branch
_SAME_PLACE = {
    **dict.fromkeys(("s3", "s3a"), ((r"\?versionId=.*", ""),)),
    "hf": ((r"^models/(?=[^/]+/[^/]+/)", ""), (r"^([^@]*)@main/", r"\1/")),
}


def manifest_path(name: str | os.PathLike[str]) -> Path:
    """Return the path of a manifest in a resolved folder: it stays when a folder in ``missing/../file`` is created.

    Raises:
        OptionError: the name is a URL; object stores cannot append to a file.
    """
    location = location_of(name)
    if isinstance(location, str):
        raise OptionError(
            f"{name}: lines are appended to a manifest, which an object store does not support; "
            "name a local file, and upload it afterwards"
        )
    return Path(os.path.realpath(location.parent), location.name)


def absolute(location: Location) -> str:
    """Return the absolute path of a local file, valid in every process; return a URL unchanged."""
    return location if isinstance(location, str) else os.path.abspath(location)


def beside(location: Location, name: str) -> Location:
    """Return the path or URL of another file in the same folder, of ``zip://x::https://host/y`` beside ``x``."""
    if not isinstance(location, str):
        return location.with_name(name)
    end = location.find("::", location.find("://"))
    first, outer = (location, "") if end < 0 else (location[:end], location[end:])
    caches, separator, file = first.rpartition("::")
    part = quote(os.fsencode(name), safe="") if web.is_web(file) else name
    return f"{caches}{separator}{without_query(file).rpartition('/')[0]}/{part}{outer}"


def without_query(url: str) -> str:
    """Return a web address without its query. In names of an object store, ``?`` is an ordinary character."""
    return url.partition("?")[0] if web.is_web(url) else url


def listed(pattern: str) -> list[str]:
    """Return the files that match a URL with ``*`` or ``**`` (folders at any depth); for another URL, only the URL.

    Raises:
        MissingFileError: no file matches.
        T7Error: the store cannot be listed.
    """
    if "*" not in pattern:
        return [pattern]
    try:
        found = list(web.matching(pattern)) if web.is_web(pattern) else _matching(pattern)
    except (T7Error, MissingPackageError):
        raise
    except ImportError as error:
        raise _missing(pattern, error) from error
    except FileNotFoundError:  # the bucket does not exist
        found = []
    except Exception as error:
        raise _cannot_list(pattern, error) from error
    if not found:
        raise MissingFileError(f"{pattern}: no file matches")
    return found


def with_star_only(pattern: str) -> str:
    """Return a pattern of ``glob`` in which only ``*`` is special."""
    return re.sub(r"[\[?]", r"[\g<0>]", pattern)


def _matching(pattern: str) -> list[str]:
    """Return the files of a store that match a pattern."""
    files, path = _store(pattern, _cannot_list)
    files.invalidate_cache()
    found = files.glob(with_star_only(path), detail=True)
    names = sorted(name for name, info in found.items() if info["type"] != "directory")
    return [files.unstrip_protocol(name) for name in names]


def url_exists(url: str) -> bool:
    """Return whether a URL exists in its store."""
    files, path = _store(url)
    try:
        files.invalidate_cache()
        return bool(files.exists(path))
    except Exception as error:
        raise _cannot_write(url, error) from error


def download(url: str, target: Path) -> None:
    """Download a file.

    The response of a web server is stored as sent, without decoding a content encoding.

    Raises:
        MissingFileError: the file does not exist.
        T7Error: the download fails or is too slow.
    """
    with open_output(target) as file:
        for chunk in _chunks(url):
            file.write(chunk)


def _chunks(url: str) -> Iterator[bytes]:
    """Yield the content of a file in chunks."""
    try:
        if web.is_web(url):
            yield from web.chunks(url)
            return
        import fsspec

        opened: Any = fsspec.open(url, "rb")  # without a reference, the archive of zip://a.t7::b.zip would be closed
        with opened.open() as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except T7Error:
        raise
    except ImportError as error:
        raise _missing(url, error) from error
    except FileNotFoundError as error:
        raise MissingFileError(f"{url}: file not found") from error
    except Exception as error:
        raise _cannot_fetch(url, error) from error


def check_upload(url: str, force: bool) -> None:
    """Raise :class:`OutputError` unless a file may be written to a URL, as far as this can be checked beforehand."""
    if _is_local(_store(url)[0]):
        raise OutputError(f"{url} is a file on this machine; pass its path instead")
    if not force and url_exists(url):
        raise OutputExistsError(f"{url} exists; use --force (force=True) to replace it")


def _is_local(files: Any) -> bool:
    """Return whether a file system is the local one, also inside wrappers of fsspec."""
    from fsspec import AbstractFileSystem
    from fsspec.implementations.local import LocalFileSystem

    stack, seen = [files], set()
    while stack:
        found = stack.pop()
        if isinstance(found, LocalFileSystem):
            return True
        if isinstance(found, AbstractFileSystem) and id(found) not in seen:
            seen.add(id(found))
            stack.extend(vars(found).values())
        elif isinstance(found, dict):
            stack.extend(value for value in found.values() if isinstance(value, AbstractFileSystem))
    return False


def upload(file: Path, url: str) -> None:
    """Upload a file to a URL, replacing an existing file, and read it back.

    The file appears when it is complete, if the store supports this: object stores and fsspec's file systems with
    transactions do.

    Raises:
        OutputError: the upload fails, or the file cannot be read back.
        VerificationError: the uploaded file differs; it was removed.
    """
    files, path = _own_store(url)
    try:
        if files.root_marker:  # a store with folders
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with files.transaction, files.open(path, "wb") as target, open(file, "rb") as source:
                while chunk := source.read(_CHUNK):
                    target.write(chunk)
        else:  # an object appears when it is complete; a small object takes one request
            files.put_file(os.fspath(file), path)
    except Exception as error:
        raise _cannot_write(url, error) from error
    try:
        files.invalidate_cache()
        with files.open(path, "rb") as written:
            same = sha256_of(written) == sha256_of(file)
        if not same:
            files.rm(path)
    except Exception as error:
        raise OutputError(f"{url}: was sent, but cannot be read back: {_named(error)}") from error
    if not same:
        raise VerificationError(f"{url}: differs after reading back; it was removed")


def remove_upload(url: str) -> None:
    """Remove a file that :func:`upload` wrote, if the store permits it."""
    with suppress(Exception):
        files, path = _own_store(url)
        files.rm(path)


def _named(error: Exception) -> str:
    """Return the message of a store's error as one line."""
    reason = shortened(str(error).strip().split("\n", 1)[0], 200)
    return f"{type(error).__name__}{f': {reason}' if reason else ''}"


def _cannot_list(url: str, error: Exception) -> T7Error:
    return T7Error(f"{url}: its files cannot be listed: {_named(error)}")


def _cannot_fetch(url: str, error: Exception) -> T7Error:
    return T7Error(f"{url}: cannot be fetched: {_named(error)}; check the address and the connection")


def _cannot_write(url: str, error: Exception) -> OutputError:
    return OutputError(f"cannot write {url}: {_named(error)}")


#: scheme of a URL -> the packages of the extra "remote" that it needs
_PACKAGES = {
    **dict.fromkeys(("http", "https"), ("aiohttp", "fsspec")),
    "hf": ("fsspec", "huggingface-hub"),
    **dict.fromkeys(("s3", "s3a"), ("fsspec", "s3fs", "urllib3")),
}


def _missing(url: str, error: ImportError) -> MissingPackageError:
    return missing_package(url, "remote", error, _PACKAGES.get(url.partition("://")[0], ("fsspec",)))


def _store(url: str, cannot: Callable[[str, Exception], Exception] = _cannot_write, **options: Any) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url, **options)
    except ImportError as error:
        raise _missing(url, error) from error
    except Exception as error:
        raise cannot(url, error) from error


def _own_store(url: str) -> tuple[Any, str]:
    """Return a file system for this thread alone, because a transaction covers all writes of a file system."""
    shared, path = _store(url)
    own = _own.__dict__.setdefault("stores", {})
    if own.get(shared, [None])[0] is not shared:  # fsspec may have created an equal one for another server
        own[shared] = shared, _store(url, skip_instance_cache=True)[0]  # may take 0.2 s
    return own[shared][1], path
