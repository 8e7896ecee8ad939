"""Addresses: what a web server does wrong, or on purpose, is one error of ours, in bounded time."""

from __future__ import annotations

import gzip
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from samples import SAMPLES

import dpnn_bridge
from dpnn_bridge.base import remote
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.errors import T7Error, T7LimitError

pytest.importorskip("aiohttp", reason="optional extra is not installed")

MODEL = (SAMPLES / "torch-demos__mnist_convnet" / "model.t7").read_bytes()
BOMB = gzip.compress(bytes(70 << 20), 1)


class Handler(BaseHTTPRequestHandler):
    """Answers ``/name…`` as the function of that name in :data:`ANSWERS` says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with suppress(OSError):
            ANSWERS[self.path.strip("/").partition(".")[0]](self)
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
    "silent": "cannot be fetched: .*Timeout",
    "drips": "sends less than",
    "headers": "cannot be fetched",
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_server_is_one_error(name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE", 1 if name in ("silent", "drips") else 20)
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
