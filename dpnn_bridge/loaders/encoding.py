"""Detect the encoding of a stream, and the type of a file that is not a .t7 file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dpnn_bridge.errors import NotT7Error


@dataclass(frozen=True)
class Encoding:
    """Encoding of a .t7 stream, which has no header that contains it.

    Attributes:
        ascii: whether the stream is text instead of binary.
        big_endian: byte order of a binary stream.
        long_size: bytes of a C ``long`` in a binary stream.
        trailing: number of bytes after the object that was read.
    """

    ascii: bool = False
    big_endian: bool = False
    long_size: int = 8
    trailing: int = field(default=0, compare=False)

    def __str__(self) -> str:
        if self.ascii:
            return "ASCII"
        return f"binary, {'big' if self.big_endian else 'little'} endian, {self.long_size}-byte longs"


def encodings(head: bytes, mode: str | None, big_endian: bool | None, long_size: int | None) -> Iterator[Encoding]:
    """Yield possible encodings of a file that starts with ``head``, most likely first.

    Args:
        head: first bytes of the file.
        mode, big_endian, long_size: settings of the caller; None: detect.
    """
    if mode == "ascii" or (mode is None and _ASCII.match(head)):
        yield Encoding(ascii=True)
        return
    if big_endian is not None:
        orders = [big_endian]
    elif head[:4] == bytes(4):  # a nil is equal in both byte orders
        orders = [False, True]
    else:
        orders = [1 <= int.from_bytes(head[:4], "big") <= 8]
    for order in orders:
        for size in (8, 4) if long_size is None else (long_size,):
            yield Encoding(big_endian=order, long_size=size)


_ASCII = re.compile(rb"\s*[0-8]\s")

#: first bytes of files of torch.save before PyTorch 1.6: the pickle of a magic number
OLD_PYTORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

_SEARCH_FOLDER = "look for the model file in the same folder"

#: first bytes of a file, type of the file, advice
_OTHER_TYPES: list[tuple[bytes, str, str]] = [
    (rb"(?s)PK\x03\x04.{26}[^/\x00]*\.npy", "a numpy archive", "open it with numpy.load"),
    (
        rb"PK\x03\x04",
        "a zip archive, probably a PyTorch checkpoint",
        "load it with torch.load, or a .pt2 file with torch.export.load",
    ),
    (re.escape(OLD_PYTORCH), "a PyTorch checkpoint of a version before 1.6", "load it with torch.load"),
    (
        rb"\x80[\x02-\x05]|[(}\]][dl]?p\d|c[a-z_]+\n\w+\np\d",
        "a Python pickle that torch.save did not write, so torch.load cannot read it",
        "if you trust it, open it with pickle.load, which can run code of the file",
    ),
    (
        rb"(?s)(sys_info|pickle|tensors|storages)\x00.{,256}ustar",
        "a PyTorch checkpoint of a version before 0.1.10",
        "if you trust it, load it with torch.load(path, weights_only=False), after dpnn_bridge.legacy.install() if it "
        "contains objects of torch.legacy.nn",
    ),
    (rb"version https://git-lfs", "a Git-LFS pointer", "fetch the file with 'git lfs pull'"),
    (rb"/annex/objects/", "a git-annex pointer", "fetch the file with 'git annex get'"),
    (rb"\x1f\x8b", "compressed with gzip", "unpack it first with gunzip (or tar xzf)"),
    (rb"BZh[1-9]", "compressed with bzip2", "unpack it first with bunzip2"),
    (rb"\xfd7zXZ\x00", "compressed with xz", "unpack it first with unxz"),
    (rb"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first with unzstd"),
    (rb"7z\xbc\xaf|Rar!", "a 7z or RAR archive", "unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive", "unpack it first with tar xf"),
    (rb"\x89HDF\r\n", "an HDF5 file", "open it with h5py"),
    (rb"MATLAB 5", "a MATLAB file", "open it with scipy.io.loadmat"),
    (rb"\x93NUMPY", "a numpy array", "open it with numpy.load"),
    (rb"(?s).{8}\{\"", "a safetensors file", "open it with safetensors"),
    (rb"\x1bL", "compiled Lua code", "it contains a program, not data"),
    (rb"\x7fELF|MZ", "an executable", "it contains a program, not data"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF.{4}WEBP|BM.{4}\x00{4}", "an image", _SEARCH_FOLDER),
    (rb"%PDF", "a PDF document", _SEARCH_FOLDER),
    (rb"\x08[\x01-\x20](\x12[\x01-\x40][A-Za-z]|[:B])", "an ONNX model", "open it with onnx or onnxruntime"),
    (rb"\x0a[\x01-\x7f](\x01)?\x0a", "a TensorFlow graph, or another protocol buffer", "open it with TensorFlow"),
    (rb"\x0a[\x01-\x40][A-Za-z]", "a Caffe model, or another protocol buffer", "open it with Caffe or cv2.dnn"),
    (
        rb"(\s*#[^\n]*\n)*\s*(name\s*:\s*\"|layers?\s*\{)",
        "a Caffe network definition, without weights",
        _SEARCH_FOLDER,
    ),
    (
        rb"(?i)\s*(<!doctype html|<html|<head|<\?xml|<!--)",
        "an HTML or XML page",
        "the server returned a page instead of the file (log-in, quota, error); download it again with a browser",
    ),
]
_PATH = re.compile(rb"[\w.~/\\+-]*[/\\.][\w.~/\\+-]*\n?")
_TEXT = re.compile(rb"(?:[\t\n\r\x20-\x7e]|[\xc2-\xf4][\x80-\xbf]{1,3})+(?:[\xc2-\xf4][\x80-\xbf]{0,2})?")


def check_head(head: bytes, size: int, name: str) -> None:
    """Check that a file may be a .t7 file.

    Args:
        head: first bytes of the file.
        size: number of bytes of the file.
        name: name of the file, for the message.

    Raises:
        NotT7Error: the file has another type. The message contains the type and the next step.
    """
    what, advice = _identify(head, size)
    if what:
        where = f"{name}, byte 0: " if name else "byte 0: "
        raise NotT7Error(f"{where}not a Torch7 file but {what}; {advice}")


def line_ends_changed(data: bytes) -> bool:
    """Return whether every line feed follows a carriage return, as after a transfer in text mode."""
    count = data.count(b"\n")
    return count > 1 and data.count(b"\r\n") == count


def _identify(head: bytes, size: int) -> tuple[str, str]:
    if not size:
        return "empty (0 bytes)", "download or copy it again"
    if head[:4] in _TYPE_CODES or _ASCII.match(head):
        if re.match(rb"[0-8]\r\n", head):
            return "an ASCII .t7 file whose line ends were changed", "transfer it again in binary mode"
        return "", ""
    for pattern, what, advice in _OTHER_TYPES:
        if re.match(pattern, head):
            return what, advice
    if size == len(head) and size < 1024 and _PATH.fullmatch(head):
        return (
            f"a symbolic link saved as text, to {head.decode('latin-1').strip()!r}",
            "download the target of the link",
        )
    if _TEXT.fullmatch(head):
        return f"text that begins with {head[:30].decode('utf-8', 'ignore')!r}", "pass the .t7 file itself"
    if int.from_bytes(head[:4], "little") < 256:
        return "", ""  # the reader reports an invalid type code
    return (
        f"an unknown binary format that begins with {head[:8].hex(' ')}",
        "a Torch7 file begins with a type code, 0 to 8; raw numbers without a header can be read with numpy.fromfile",
    )


def transfer_damage(data: bytes) -> str:
    """Describe how a copy in text mode changed a binary file; empty if it was not changed.

    Args:
        data: first bytes of the file.
    """
    advice = "transfer the original again in binary mode"
    if line_ends_changed(data):
        return f"its line ends were changed: each line feed follows a carriage return; {advice}"
    sample = data[:_SAMPLE]
    if len(sample.translate(None, _ASCII_BYTES)) > 16 and _TEXT_BYTES.fullmatch(sample):
        lost = " and bytes were lost" if b"\xef\xbf\xbd" in data else ""
        return f"the file is valid UTF-8: a program has converted it as text{lost}; {advice}"
    return ""


_SAMPLE = 1 << 16
_ASCII_BYTES = bytes(range(128))
#: UTF-8 that may end within a character
_TEXT_BYTES = re.compile(
    rb"(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})+[\xc2-\xf4]?[\x80-\xbf]{0,2}"
)


_TYPE_CODES = {code.to_bytes(4, order) for code in range(9) for order in ("little", "big")}
