"""Digits of untrusted text: refused by their number, also where Python's own limit is off."""

from __future__ import annotations

import json
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dpnn_bridge
from dpnn_bridge.base.json_text import MAX_DIGITS, finite, parse_json
from dpnn_bridge.batch.manifest import last_lines
from dpnn_bridge.errors import DpnnBridgeError
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.parity.known_differences import read_known_differences

DIGITS = "9" * 5000
PACKAGE = Path(dpnn_bridge.__file__).parent
#: modules that parse files of this package, or no integers
TRUSTED = {"base/json_text.py", "checkpoints/architectures.py", "lua/system.py", "parity/evidence.py"}


@pytest.fixture(autouse=True)
def no_limit_of_python() -> Iterator[None]:
    """Remove the limit, as a library for large integers does."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(before)


@pytest.mark.parametrize(
    "text", [f"[{DIGITS}]", f"-{DIGITS}", f"[{DIGITS}]".encode("utf-16"), bytearray(DIGITS, "ascii")]
)
def test_an_integer_of_many_digits_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match=f"an integer has more than {MAX_DIGITS} digits"):
        parse_json(text)


@pytest.mark.parametrize(
    "text", ["9" * MAX_DIGITS, "-" + "9" * MAX_DIGITS, f'["{DIGITS}", 1]', f"[0.{DIGITS}, 1e-5, 7]"]
)
def test_other_values_are_those_of_json(text: str) -> None:
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def safetensors(header: str) -> bytes:
    return struct.pack("<Q", len(header)) + header.encode()


def metadata(**strings: str) -> bytes:
    whole = {"dpnn_bridge": "dpnn_bridge", "version": "1", "graph": '{"root": 1, "nodes": []}', "metadata": "{}"}
    return safetensors(json.dumps({"__metadata__": {**whole, "constants": "[]", **strings}}))


def pickled(path: Path, body: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + body.encode() + b".")


#: name of a file -> its content
FILES: dict[str, bytes] = {
    "header.safetensors": safetensors(f'{{"a": {DIGITS}}}'),
    "graph.safetensors": metadata(graph=f'{{"root": {DIGITS}, "nodes": []}}'),
    "version.safetensors": metadata(version=DIGITS),
    "metadata.safetensors": metadata(metadata=DIGITS),
    "x.safetensors.index.json": f'{{"weight_map": {{}}, "x": {DIGITS}}}'.encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_many_digits_is_one_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    with pytest.raises(DpnnBridgeError, match=f"more than {MAX_DIGITS} digits"):
        dpnn_bridge.load(tmp_path / name)


@pytest.mark.parametrize("body", [f"L{DIGITS}L\n", f"I{DIGITS}\n", f"p{DIGITS}\n"], ids=["LONG", "INT", "PUT"])
def test_a_line_of_a_pickle_has_a_limit(body: str, tmp_path: Path) -> None:
    pickled(tmp_path / "x.pt", body)
    with pytest.raises(DpnnBridgeError, match="no newline found"):
        dpnn_bridge.load(tmp_path / "x.pt")


def test_arguments_of_a_layer(tmp_path: Path) -> None:
    fields = LuaTable({"arguments": f'{{"in_features": {DIGITS}}}', "passed": "", "train": True})
    with pytest.raises(DpnnBridgeError, match=f"more than {MAX_DIGITS} digits"):
        dpnn_bridge.to_torch(LuaObject("pytorch.nn.Linear", fields))


@pytest.mark.parametrize("read", [read_known_differences, last_lines])
def test_lists(read: Callable[[Path], Any], tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(f"[{DIGITS}]\n")
    with pytest.raises((ValueError, DpnnBridgeError), match=f"more than {MAX_DIGITS} digits"):
        read(file)


def test_a_line_of_a_manifest_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("[" * 50_000 + "\n")
    with pytest.raises(DpnnBridgeError, match="line 1 is not a manifest line"):
        last_lines(tmp_path / "x.jsonl")


def test_untrusted_files_are_parsed_here() -> None:
    """Every other module passes its text to ``parse_json``."""
    texts = {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py")}
    assert {name for name, text in texts.items() if re.search(r"json\.loads?\(", text)} == TRUSTED


def test_numbers_that_json_does_not_have_are_strings() -> None:
    data = {"a": [1.5, float("inf"), (float("-inf"), True)], "b": {"c": float("nan"), "d": 1.7e308}}
    assert finite(data) == {"a": [1.5, "inf", ["-inf", True]], "b": {"c": "nan", "d": 1.7e308}}
    json.dumps(finite(data), allow_nan=False)
