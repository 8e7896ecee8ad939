"""The reference data is what the manifest says it is."""

from __future__ import annotations

import hashlib

from conftest import FIXTURES, manifest


def test_every_file_has_the_hash_of_the_manifest() -> None:
    wrong = [
        e["file"] for e in manifest() if hashlib.sha256((FIXTURES / e["file"]).read_bytes()).hexdigest() != e["sha256"]
    ]
    assert wrong == []


def test_names_are_unique() -> None:
    names = [e["name"] for e in manifest()]
    assert len(names) == len(set(names))
