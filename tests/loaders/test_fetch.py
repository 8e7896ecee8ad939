"""Addresses: what a web server does wrong, or on purpose, is one error of ours, in bounded time."""

from __future__ import annotations

import gzip
import json
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from click.testing import CliRunner
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.base import remote, web
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.errors import MissingFileError, T7Error, T7LimitError

pytest.importorskip("aiohttp", reason="optional extra is not installed")

MODEL = (SAMPLES / "torch-demos__mnist_convnet" / "model.t7").read_bytes()
CHUNKED = b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(bytes(70 << 20), 1)


class Handler(BaseHTTPRequestHandler):
    """Answers ``/name…`` as the function of that name in :data:`ANSWERS` says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with suppress(OSError):
            ANSWERS[re.split("[./]", self.path.strip("/"))[0]](self)
        self.close_connection = True

    def head(self, status: int = 200, **headers: Any) -> None:
        self.send_response(status)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes, **headers: Any) -> None:
        self.head(**({"Content_Length": len(data)} | headers))
        self.wfile.write(data)

    def drip(self) -> None:
        self.head(Content_Length=len(MODEL))
        for byte in MODEL:
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)

    def slowly(self, start: bytes, endless: bytes, pause: float = 0.05) -> None:
        """Send what is no content, without an end."""
        self.wfile.write(b"HTTP/1.1 " + start)
        while True:
            self.wfile.write(endless)
            time.sleep(pause)

    def headers_without_end(self) -> None:
        self.send_response(200)
        while True:
            self.wfile.write(b"X: " + b"y" * 1000 + b"\r\n")


ANSWERS: dict[str, Callable[[Handler], object]] = {
    "good": lambda h: h.body(MODEL),
    "unknown-length": lambda h: (h.head(), h.wfile.write(MODEL)),
    "says-gzip": lambda h: h.body(gzip.compress(MODEL), Content_Encoding="gzip"),
    "missing": lambda h: h.head(404, Content_Length=0),
    "fails": lambda h: h.head(500, Content_Length=0),
    "loops": lambda h: h.head(302, Location="/loops.t7", Content_Length=0),
    "leads-to-a-file": lambda h: h.head(302, Location="file:///etc/passwd", Content_Length=0),
    "breaks-off": lambda h: h.body(MODEL[:5000], Content_Length=len(MODEL)),
    "sends-less": lambda h: h.body(MODEL, Content_Length=1 << 50),
    "sends-more": lambda h: h.body(MODEL, Content_Length=10),
    "negative": lambda h: h.body(MODEL, Content_Length=-5),
    "garbage": lambda h: h.wfile.write(b"\xff\0\x1b[2J\r\n\r\n"),
    "page": lambda h: h.body(b"<html>log in</html>"),
    "bomb": lambda h: h.body(BOMB, Content_Encoding="gzip"),
    "silent": lambda h: time.sleep(5),
    "drips": Handler.drip,
    "headers": Handler.headers_without_end,
    "header-drips": lambda h: h.slowly(b"200 OK\r\nX: ", b"y"),
    "continues": lambda h: h.slowly(b"100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk-size-drips": lambda h: h.slowly(CHUNKED, b"0"),
    "chunk-extension": lambda h: h.slowly(CHUNKED + b"5;", b"a=b;" * 10_000, 0),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize("name", ["good", "unknown-length", "says-gzip"])
def test_what_a_server_sends_is_read(name: str, server: str) -> None:
    assert sum(p.numel() for p in dpnn_bridge.load(f"{server}/{name}.t7").parameters()) == 169_506


@pytest.mark.parametrize("name", ["..%2Fs", "%2e%2e%2fs", "..\\s", "a%b ü", "a?b", "a#b", "a::b", "zip::s", "*"])
def test_a_shard_of_an_index_is_a_file_beside_it(name: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.dumps({"weight_map": {"x": f"{name}.safetensors"}}).encode()
    asked: list[str] = []
    monkeypatch.setitem(ANSWERS, "folder", lambda h: (asked.append(h.path), h.body(index)))
    for query in ("", "?of=a/b"):
        with pytest.raises(T7Error):
            dpnn_bridge.load(f"{server}/folder/m.safetensors.index.json{query}")
    for path in asked:
        host, folder, file = path.partition("?")[0].split("/")
        assert (host, folder) == ("", "folder")
        assert unquote(file) in ("m.safetensors.index.json", f"{name}.safetensors")
        assert "?" not in path or path.endswith("index.json?of=a/b")
    assert len(asked) == (2 if re.search(r"[?#*]|::", name) else 4)


def test_a_file_beside_a_member_of_an_archive_is_in_the_archive() -> None:
    assert remote.beside("zip://a.t7::https://host/b.zip", "c.t7") == "zip://c.t7::https://host/b.zip"
    assert remote.beside("simplecache::zip://d/a.t7::s3://b/c", "e") == "simplecache::zip://d/e::s3://b/c"
    assert remote.beside("s3://b/d/a%", "c%") == "s3://b/d/c%"


TIMEOUT = "cannot be fetched: .*Timeout"
SLOW = (TIMEOUT, "sends less than")
BAD = {
    "missing": "file not found",
    "fails": "cannot be fetched: ClientResponseError: 500",
    "loops": "cannot be fetched: TooManyRedirects",
    "leads-to-a-file": "cannot be fetched: NonHttpUrlRedirect",
    "breaks-off": "cannot be fetched: ClientPayloadError",
    "sends-less": "cannot be fetched: ClientPayloadError",
    "sends-more": "damaged|ends|cannot be fetched|not a Torch7 file",
    "negative": "cannot be fetched",
    "garbage": "cannot be fetched",
    "page": "an HTML or XML page",
    "bomb": "decompresses to more than",
    "silent": TIMEOUT,
    "drips": "sends less than",
    "header-drips": TIMEOUT,
    "continues": TIMEOUT,
    "chunk-size-drips": TIMEOUT,
    "chunk-extension": TIMEOUT,
    "headers": "cannot be fetched",
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_server_is_one_error(name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 1 if BAD[name] in SLOW else 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    url = f"{server}/{name}.t7"
    start = time.monotonic()
    with pytest.raises(T7Error, match=BAD[name]) as caught:
        dpnn_bridge.load(url)
    assert time.monotonic() - start < 30
    assert url in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert list(tmp_path.iterdir()) == []
    assert isinstance(caught.value, T7LimitError) == (name == "bomb")


def test_a_server_that_fails_is_one_line_of_the_command(server: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(convert_command, [f"{server}/breaks-off.t7", str(tmp_path / "m.pt")])
    assert done.exit_code == 3
    assert done.stderr.startswith(f"error: {server}/breaks-off.t7: cannot be fetched: ")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_server_is_asked_for_what_is_not_compressed(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []
    answer = lambda h: (asked.append(h.headers["Accept-Encoding"]), h.body(MODEL))  # noqa: E731
    monkeypatch.setitem(ANSWERS, "asked", answer)
    dpnn_bridge.load(f"{server}/asked.t7")
    assert asked == ["identity"]


PAGE = """<a href="a.t7">a</a> <A class="x" HREF='b.t7'>b</A> <a href="sub/">sub</a> <a href="../">up</a>
<a href="/c.t7">c</a> <a href="http://elsewhere.invalid/d.t7">d</a> <a href="e.t7?of=d">e</a> <a href="../g.t7">g</a>
<a href="text.txt">h</a>"""
PAGES: dict[str, Callable[[Handler], object]] = {
    "list": lambda h: h.body(PAGE.encode() if h.path == "/list/" else b'<a href="f.t7">f</a>'),
    "spaces": lambda h: h.body(b"<a" + b" " * 100_000),
    "slashes": lambda h: h.body(b'<a href="' + b"/" * 100_000 + b'">'),
    "endless-page": lambda h: (h.head(), h.slowly(b"", b"x" * 100_000, 0)),
    "deep": lambda h: h.body(b'<a href="a/">a</a><a href="b/">b</a>'),
    "empty": lambda h: h.body(b"".join(b'<a href="%d/">a</a>' % i for i in range(99)) if h.path == "/empty/" else b""),
    "not-there": ANSWERS["missing"],
    "not-now": ANSWERS["fails"],
    "no-answer": ANSWERS["header-drips"],
    "long-link": lambda h: h.body(b'<a href="' + b"a" * 3000 + b'.t7">a</a>'),
}


@pytest.fixture
def pages(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, answer in PAGES.items():
        monkeypatch.setitem(ANSWERS, name, answer)
    return server


def test_files_that_a_page_links_are_listed(pages: str) -> None:
    """Below the folder of the pattern only."""
    assert remote.listed(f"{pages}/list/*.t7") == [f"{pages}/list/a.t7", f"{pages}/list/b.t7"]
    assert remote.listed(f"{pages}/list/*/*.t7") == [f"{pages}/list/sub/f.t7"]
    assert [str(u)[-6:] for u in remote.listed(f"{pages}/list/**/*.t7")] == ["t/a.t7", "t/b.t7", "b/f.t7"]
    with pytest.raises(MissingFileError, match="no file matches"):  # folders below it are not read
        remote.listed(f"{pages}/deep/*/*.t7")


def test_pages_are_read_for_a_limited_time(pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LONGEST_LISTING", 0)
    with pytest.raises(T7LimitError, match="longer than 0 seconds"):
        remote.listed(f"{pages}/list/*.t7")


def test_a_link_that_is_no_address_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "chunks", lambda url: iter([b'<a href="http://[x">x</a><a href="a.t7">a</a>']))
    assert web.matching("https://host/f/*.t7") == ["https://host/f/a.t7"]


def test_a_name_that_almost_matches_takes_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    links = b" ".join(b'<a href="%sb%d.t7">x</a>' % (b"a_" * 250, i) for i in range(9))
    monkeypatch.setattr(web, "chunks", lambda url: iter([links]))
    start = time.process_time()
    assert len(web.matching("https://host/**/*_*_*_b*.t7")) == 9
    assert web.matching("https://host/**/*_*_*_*_c*.t7") == []
    assert time.process_time() - start < 2


LISTINGS = {
    "long-link": "no file matches",
    "spaces": "no file matches",
    "slashes": "no file matches",
    "endless-page": "lists more than",
    "deep": "lists more than",
    "empty": "lists more than",
    "not-there": "no file matches",
    "not-now": "its files cannot be listed: ClientResponseError: 500",
    "no-answer": "its files cannot be listed: .*Timeout",
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_hostile_page_is_one_error(name: str, pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PATIENCE", 1 if name == "no-answer" else 20)
    monkeypatch.setattr(web, "MAX_PAGES", 50)
    start = time.monotonic()
    with pytest.raises(T7Error, match=LISTINGS[name]) as caught:
        remote.listed(f"{pages}/{name}/**/*.t7")
    assert time.monotonic() - start < 20
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("folder", ["a b", "a%20b"])
def test_percent_encoded_names_match(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    links = (
        b"/a%20b/n%c3%a9.t7",
        b"/a%20b/m.t7",
        b"https://host%2Fa%20b%2F@other/n%c3%a9.t7",
        b"/a%20b/%2e%2e/n%c3%a9.t7",
        b"/a%20b/n%c3%a9%2F..%2Fx.t7",
        b"/a%20b/n%c3%a9%2fx.t7",
    )
    page = b" ".join(b'<a href="%s">x</a>' % link for link in links)
    monkeypatch.setattr(web, "chunks", lambda url: iter([page]))
    for pattern in ("n\u00e9*.t7", "**/n\u00e9*.t7"):
        found = web.matching(f"https://host/{folder}/{pattern}")
        assert found == ["https://host/a%20b/n%c3%a9%2fx.t7", "https://host/a%20b/n%c3%a9.t7"]
