"""The reference data is what the manifest says it is."""

from __future__ import annotations

import hashlib

from conftest import FIXTURES, fixture_id, manifest


def test_every_file_has_the_hash_of_the_manifest() -> None:
    wrong = [
        e["file"] for e in manifest() if hashlib.sha256((FIXTURES / e["file"]).read_bytes()).hexdigest() != e["sha256"]
    ]
    assert wrong == []


def test_every_fixture_is_one_test() -> None:
    ids = [fixture_id(e) for e in manifest()]
    assert len(ids) == len(set(ids))
