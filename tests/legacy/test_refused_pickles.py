"""What no pickle of ``torch.legacy.nn`` contains is refused before it has an effect."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
from test_pickles import LINEAR, VIEW, WEIGHT, old_format

from dpnn_bridge.errors import NotT7Error, T7FormatError
from dpnn_bridge.legacy.pickles import read
from dpnn_bridge.loaders.origin import LocalFile

ELEMENTS = struct.pack("<2f", 3.0, -1.0)


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL, whose names may contain anything."""
    return b"".join(b"X" + struct.pack("<I", len(text)) + text.encode() for text in (module, name)) + b"\x93"


#: 400 objects with the same 1,024 fields
STATES = b"}(%sq\1ctorch.legacy.nn\nX\nq\2" % (b"".join(b"X\2\0\0\0%c%cN" % divmod(i, 32) for i in range(1024)) + b"u")
STATES += b"0h\2)\x81h\1b" * 400


@pytest.mark.parametrize(
    ("body", "what"),
    [
        pytest.param(b"ctorch._utils\n_rebuild_parameter\n]K\1aR", "a call", id="arguments in a list"),
        pytest.param(b"ctorch\nSize\n]K\1a\x81", "an object with constructor arguments", id="sizes in a list"),
        pytest.param(
            b"](X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0aX\3\0\0\0cpuK\2eQ",
            "a storage whose id is a list",
            id="id of a storage in a list",
        ),
        pytest.param(b"X\5\0\0\0abcdeQ", "a storage whose id is 'abcde'", id="text as the id of a storage"),
        pytest.param(STATES, "more copies of a dict than any model", id="one state of many objects"),
        pytest.param(
            b"ctorch.legacy.nn\nTanh\nq\1]q\2(%se" % (b"h\1)\x81" * 20_000),
            "more lists, dicts and tuples than a model of its size",
            id="objects of four bytes",
        ),
        pytest.param(
            b"ccopy_reg\n_reconstructor\n(ctorch\nSize\nNNtR", "an object of a function", id="object of a function"
        ),
        pytest.param(WEIGHT + b"}X\5\0\0\0shapeK\1sb", "the state of an object", id="state of a tensor"),
        pytest.param(b"}}b", "the state of an object", id="state of a dict"),
        pytest.param(b"ctorch\nSize\n}b", "the state of an object", id="state of a function"),
        pytest.param(named("numpy", "FloatStorage"), "numpy.FloatStorage", id="storage of another module"),
        pytest.param(named("torch.legacy.nn", "a\nb"), r"torch.legacy.nn.a\nb", id="two lines as class"),
        pytest.param(named("os", "sys\n\x1b[2Jtem"), r"os.sys\n\x1b[2Jtem", id="a name for the terminal"),
        pytest.param(named("os", "s" * 9999), "os.sss", id="a long name"),
    ],
)
def test_calls_objects_states_and_names_are_refused(body: bytes, what: str, tmp_path: Path) -> None:
    pickled = b"\x80\x04" + body + b"."
    (tmp_path / "x.pth").write_bytes(old_format(pickled, ["a"], struct.pack("<q", 2) + ELEMENTS))
    with pytest.raises(NotT7Error) as raised:
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))
    assert str(raised.value).startswith(f"x.pth: the pickle contains {what}")
    assert len(str(raised.value)) < 400


def test_a_view_has_as_many_strides_as_sizes(tmp_path: Path) -> None:
    pickled = LINEAR.replace(VIEW, b"K\0K\x01K\x02\x86K\x01\x85tR")
    (tmp_path / "x.pth").write_bytes(old_format(pickled, ["a"], struct.pack("<q", 2) + ELEMENTS))
    with pytest.raises(T7FormatError, match="expected a tensor of a storage, sizes and strides"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


def test_a_storage_does_not_reach_into_the_next_record(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        for name, content in {"data.pkl": LINEAR, "data/a": ELEMENTS[:-4], "data/b": bytes(64)}.items():
            archive.writestr(f"x/{name}", content)
    with pytest.raises(T7FormatError, match="the storage 'a' is truncated"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


def test_a_field_has_a_name(tmp_path: Path) -> None:
    pickled = b"\x80\x02ctorch.legacy.nn\nX\n)\x81}(K\1K\2X\1\0\0\0aK\3ub."
    (tmp_path / "x.pth").write_bytes(old_format(pickled, []))
    found = read(LocalFile(tmp_path / "x.pth", "x.pth", []))
    assert {name for name in found if name in (1, "a")} == {"a"}
