"""Read from web servers. Time and memory of each request are bounded."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urljoin

from dpnn_bridge.errors import T7Error, T7LimitError

#: maximum number of seconds until a server responds, and between two chunks of a response; minimum average number of
#: bytes per second after that time
PATIENCE, SLOWEST = 60, 1000
_CHUNK = 1 << 22
#: limits of pages that list files: number, bytes and seconds of all pages for one pattern, and characters of a link
MAX_PAGES, LARGEST_PAGES, LONGEST_LISTING, LONGEST_LINK = 1000, 1 << 24, 600, 2000
_LINK = re.compile(r"""\bhref=(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)


def is_web(url: str) -> bool:
    """Return whether a URL is the address of a web server."""
    return url.startswith(("http://", "https://"))


def chunks(url: str) -> Iterator[bytes]:
    """Yield the content of a URL in chunks as the server sends them, without decompression.

    Raises:
        T7Error: The server is too slow.
        Exception: Any other error of fsspec and aiohttp.
    """
    from fsspec.asyn import sync
    from fsspec.core import url_to_fs

    client = {"auto_decompress": False, "headers": {"Accept-Encoding": "identity"}, "timeout": _client_timeout()}
    files, path = url_to_fs(url, client_kwargs=client)
    call: Callable[..., Any] = partial(sync, files.loop, timeout=PATIENCE)  # aiohttp's timeouts do not end all
    response: Any = call(partial(_response, files, path))
    start, received = time.monotonic(), 0
    try:
        while chunk := call(response.content.read, _CHUNK):
            yield chunk
            received += len(chunk)
            passed = time.monotonic() - start
            if passed > PATIENCE and received < SLOWEST * passed:
                raise T7Error(
                    f"{url}: its server sends less than {SLOWEST:,} bytes a second; download it with another program"
                )
    finally:
        files.loop.call_soon_threadsafe(response.close)


def _client_timeout() -> Any:
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)


async def _response(files: Any, path: str) -> Any:
    session = await files.set_session()
    response = await session.get(files.encode_url(path))
    if response.status == 404:
        response.close()
        raise FileNotFoundError(path)
    response.raise_for_status()
    return response


def matching(pattern: str) -> list[str]:
    """Return the URLs that match a pattern among the links (``href="…"``) of the server's pages.

    ``*`` matches any name, ``**`` any folders. Percent-encoded characters equal the characters themselves.

    Raises:
        T7LimitError: The pages are too large, too many or too slow.
        Exception: As :func:`chunks` raises them.
    """
    base = pattern.partition("*")[0].rpartition("/")[0] + "/"
    host = "/".join(base.split("/", 3)[:3]) + "/"  # compared before decoding, which changes https://host%2F@other/
    tokens = [_decoded(token) for token in re.split(r"(\*\*/?|\*)", pattern)]
    deepest = None if "**" in pattern else pattern.count("/")
    pages = _Pages(pattern)
    found, folders, seen = [], [base], {base}
    while folders:
        for url in pages.links(folders.pop()):
            name = _decoded(url)
            if url in seen or not url.startswith(host) or not name.startswith(_decoded(base)):
                continue
            if ".." in unquote(url).split("/"):
                continue
            seen.add(url)
            if url.endswith("/"):
                folders += [url] if deepest is None or url.count("/") <= deepest else []
            elif _matches(tokens, name):
                found.append(url)
    return sorted(found)


def _decoded(url: str) -> str:
    """Decode the percent-encoded characters of a URL, but not the slashes, which belong to names."""
    return unquote(re.sub("%(2f)", r"%25\1", url, flags=re.IGNORECASE))


def _matches(tokens: list[str], name: str) -> bool:
    """Return whether a pattern matches a name. A regular expression could take hours for several ``*``.

    Args:
        tokens: the pattern: text and wildcards in turn. Wildcards are ``*``, ``**`` and ``**/`` (any folders).
        name: the name.
    """
    ends = {0}  # positions in the name up to which the tokens match
    for number, token in enumerate(tokens):
        if number % 2 == 0:
            ends = {end + len(token) for end in ends if name.startswith(token, end)}
        elif token == "**":
            ends = set(range(min(ends), len(name) + 1))
        elif token == "**/":
            ends |= {i + 1 for i in range(min(ends), len(name)) if name[i] == "/"}
        else:
            starts, ends, last = sorted(ends), set(), -1
            for start in starts:
                if start > last:
                    last = (name + "/").index("/", start)
                    ends.update(range(start, last + 1))
        if not ends:
            return False
    return len(name) in ends


class _Pages:
    """Reader of all pages for one pattern, with limits for their total."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._read, self._bytes, self._end = 0, 0, time.monotonic() + LONGEST_LISTING

    def links(self, url: str) -> list[str]:
        """Return the links of a page as URLs."""
        self._read += 1
        self._check()  # also for a page without content
        page = bytearray()
        for chunk in chunks(url):
            page += chunk
            self._bytes += len(chunk)
            self._check()
        links = (html.unescape(a or b) for a, b in _LINK.findall(page.decode(errors="ignore")))
        found = []
        for link in links:
            if "?" not in link and len(link) < LONGEST_LINK:
                with suppress(ValueError):  # not an address, such as http://[
                    found.append(urljoin(url, link.partition("#")[0]))
        return found

    def _check(self) -> None:
        if self._read > MAX_PAGES or self._bytes > LARGEST_PAGES or time.monotonic() > self._end:
            raise T7LimitError(
                f"{self._pattern}: its server lists more than {MAX_PAGES:,} folders, more than {LARGEST_PAGES:,} "
                f"bytes, or longer than {LONGEST_LISTING} seconds; pass the URLs of the files"
            )
