"""Pickles of ``torch.legacy.nn`` are read as data, in the old format and as zip archives."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import struct
import subprocess
import sys
import time
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import FIXTURES

import dpnn_bridge
from dpnn_bridge import legacy
from dpnn_bridge.cli.convert import convert_command
from dpnn_bridge.cli.inspect import inspect_command
from dpnn_bridge.errors import NotT7Error, T7Error, T7FormatError, T7LimitError
from dpnn_bridge.legacy import nn
from dpnn_bridge.legacy.pickles import MAGIC, contains_legacy, read
from dpnn_bridge.loaders.origin import LocalFile
from dpnn_bridge.objects import LuaObject, LuaTable


class Backend:
    """What every object of PyTorch 0.4 held in ``_backend``."""

    def __reduce__(self) -> Any:
        return sys.modules["torch._thnn.utils"]._unpickle_backend, ("THNNFloatBackend",)


class OldSize:
    """A ``torch.Size`` that is pickled as PyTorch 0.1 to 1.0 did: as a new object, not by a call."""

    __class__ = property(lambda self: torch.Size)  # type: ignore[assignment]

    def __init__(self, sizes: torch.Size) -> None:
        self.sizes = tuple(sizes)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return copyreg.__newobj__, (torch.Size, self.sizes)  # type: ignore[attr-defined]


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes classes as PyTorch 0.4 had them: one for each module, without any method of ours."""

    def unpickle_backend(name: str) -> None:
        raise AssertionError("a pickle was executed")

    utils = types.ModuleType("torch._thnn.utils")
    unpickle_backend.__module__, unpickle_backend.__qualname__ = utils.__name__, "_unpickle_backend"
    utils._unpickle_backend = unpickle_backend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, utils.__name__, utils)

    def make(name: str) -> type:
        module = types.ModuleType(f"torch.legacy.nn.{name}")
        kind = type(name, (), {"__module__": module.__name__})
        setattr(module, name, kind)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return kind

    known: dict[str, type] = {}
    return lambda name: known.setdefault(name, make(name))


def as_pytorch_had_it(value: Any, classes: Any, done: dict[int, Any]) -> Any:
    """An object of ``dpnn_bridge.legacy.nn`` as one of PyTorch 0.4's class with the same fields."""
    if isinstance(value, list):
        return [as_pytorch_had_it(v, classes, done) for v in value]
    if isinstance(value, torch.Size):
        return OldSize(value)
    if not isinstance(value, (nn.Module, nn.Criterion)):
        return value
    if id(value) not in done:
        done[id(value)] = made = classes(type(value).__name__)()
        made.__dict__.update({k: as_pytorch_had_it(v, classes, done) for k, v in value.__dict__.items()})
        made._backend = Backend()
    return done[id(value)]


def net() -> Any:
    shared = nn.Linear(6, 6)
    built = nn.Sequential().add(nn.SpatialConvolution(1, 2, 3, 3, 1, 1, 1)).add(nn.SpatialBatchNormalization(2))
    built.add(nn.Threshold(0, 1e-6)).add(nn.SpatialMaxPooling(2, 2)).add(nn.View(-1, 6)).add(shared).add(nn.Tanh())
    built.add(shared).add(nn.ConcatTable().add(nn.Narrow(1, 0, 3)).add(nn.Identity())).add(nn.JoinTable(1))
    built.evaluate()
    return built


def save(value: Any, path: Path, zipped: bool) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


both = pytest.mark.parametrize("zipped", [False, True], ids=["old", "zip"])


@both
def test_a_net(classes: Any, tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    built, image = net(), torch.randn(2, 1, 4, 6)
    expected = built.forward(image)
    path = save(as_pytorch_had_it(built, classes, {}), tmp_path / "net.pth", zipped)
    model = dpnn_bridge.load(path)
    torch.testing.assert_close(model(image).detach(), expected, rtol=0, atol=0)
    assert not model.training
    assert isinstance(model[0], torch.nn.Conv2d)
    assert model[5] is model[7]
    dpnn_bridge.write_t7(tmp_path / "net.t7", model)
    torch.testing.assert_close(dpnn_bridge.load_lua(tmp_path / "net.t7").forward(image), expected, rtol=0, atol=0)


@both
def test_the_commands(classes: Any, tmp_path: Path, zipped: bool) -> None:
    path = save(as_pytorch_had_it({"model": net(), "epoch": 3}, classes, {}), tmp_path / "net.bin", zipped)
    path = save({"model": as_pytorch_had_it(net(), classes, {}), "epoch": 3}, path, zipped)
    shown = CliRunner().invoke(inspect_command, [str(path)])
    assert shown.exit_code == 0, shown.output
    assert "pickle of torch.legacy.nn" in shown.output
    assert "nn.SpatialConvolution" in shown.output
    tree = CliRunner().invoke(inspect_command, [str(path), "--raw"])
    assert tree.exit_code == 0, tree.output
    assert "[1]: nn.SpatialConvolution" in tree.output
    ran = CliRunner().invoke(convert_command, [str(path), str(tmp_path / "out.pt")])
    assert ran.exit_code == 0, ran.output
    assert isinstance(dpnn_bridge.load(tmp_path / "out.pt")[0], torch.nn.Conv2d)
    ran = CliRunner().invoke(convert_command, [str(path), str(tmp_path / "out.t7")])
    assert ran.exit_code == 0, ran.output
    checkpoint = dpnn_bridge.load_checkpoint(path)
    assert set(checkpoint.models) == {"model"}


@both
def test_classes_that_compute_otherwise_in_older_files_of_torch7(classes: Any, tmp_path: Path, zipped: bool) -> None:
    """A pickle has no versions of classes and no field ``v2``: PyTorch 0.4 had one version of each class."""
    built = (
        nn.Sequential().add(nn.Dropout(0.3)).add(nn.GradientReversal(0.5)).add(nn.VolumetricMaxPooling(2, 2, 2).ceil())
    )
    built.evaluate()
    model = dpnn_bridge.load(save(as_pytorch_had_it(built, classes, {}), tmp_path / "net.pth", zipped))
    x = torch.randn(1, 2, 5, 5, 5, requires_grad=True)
    output = model(x)
    assert torch.equal(output, torch.nn.functional.max_pool3d(x, 2, ceil_mode=True))
    output.sum().backward()
    assert x.grad is not None
    assert x.grad.sum() == -0.5 * output.numel()


@pytest.mark.parametrize("module", [nn.SoftMax(0), nn.VolumetricAveragePooling(2, 2, 2, padT=1)], ids=repr)
def test_settings_that_torch7_has_not_are_an_error(classes: Any, tmp_path: Path, module: Any) -> None:
    path = save(as_pytorch_had_it(module, classes, {}), tmp_path / "net.pth", False)
    with pytest.raises(NotT7Error, match=f"net.pth: the pickle contains a {type(module).__name__} with settings"):
        dpnn_bridge.load(path)


@both
def test_those_of_dpnn_bridge_itself(tmp_path: Path, zipped: bool) -> None:
    built = nn.Sequential().add(nn.Linear(3, 2)).add(nn.ReLU()).add(nn.View(2, -1))
    x = torch.randn(4, 3)
    expected = built.forward(x)
    path = save(built, tmp_path / "net.pth", zipped)
    torch.testing.assert_close(dpnn_bridge.load(path)(x).detach(), expected)


@both
@pytest.mark.parametrize(
    "first", [{"losses": [0.5] * 150_000}, {"optimizer": [torch.ones(2)] * 900}], ids=["list", "tensors"]
)
def test_a_model_after_much_other_data(first: Any, tmp_path: Path, zipped: bool) -> None:
    """Only the first 64 KiB were searched for the names of the classes."""
    path = save({**first, "model": nn.Linear(3, 2)}, tmp_path / "net.pth", zipped)
    assert isinstance(dpnn_bridge.load(path), torch.nn.Linear)


MODULES = sorted((FIXTURES / "nn").glob("*/*__double_train.t7"))


def test_a_model_that_load_lua_read_is_loaded_again(tmp_path: Path) -> None:
    """The first model of each class; classes that PyTorch 0.4 lacked were "a call" that is not supported."""
    compared = 0
    for path in {p.parent.name: p for p in reversed(MODULES)}.values():
        fixture = legacy.load_lua(path, unknown_classes=True)
        if not isinstance(fixture, dict) or "module" not in fixture:
            continue
        again = dpnn_bridge.load(save(fixture["module"], tmp_path / "again.pth", False))
        expected = dpnn_bridge.load(path, key="module")
        assert repr(again) == repr(expected), path
        theirs, own = expected.state_dict(), again.state_dict()
        assert own.keys() == theirs.keys(), path
        for name in own:
            torch.testing.assert_close(own[name], theirs[name], rtol=0, atol=0, equal_nan=True)
        compared += 1
    assert compared > 100


class Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@both
@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (lambda: Calls(os.system, "echo executed > executed"), r"(posix|nt)\.system"),
        (lambda: Calls(eval, "1"), r"(__builtin__|builtins)\.eval"),
        (lambda: torch.nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (lambda: Calls(subprocess.Popen, "true"), r"(subprocess|commands)\.Popen"),
    ],
)
def test_anything_else_is_refused_by_name(
    classes: Any, tmp_path: Path, zipped: bool, extra: Any, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    held = as_pytorch_had_it(net(), classes, {})
    held.more = extra()
    path = save(held, tmp_path / "net.pth", zipped)
    with pytest.raises(NotT7Error, match=rf"net\.pth: the pickle contains {named}, which is not supported"):
        dpnn_bridge.load(path)
    assert not (tmp_path / "executed").exists()
    assert CliRunner().invoke(convert_command, [str(path), str(tmp_path / "out.pt")]).exit_code == 3
    assert not (tmp_path / "out.pt").exists()


def old_format(pickled: bytes, keys: list[str], *storages: bytes) -> bytes:
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(v, 2) for v in (MAGIC, 1001, facts)]
    return b"".join([*parts, pickled, pickle.dumps(keys, 2), *storages])


#: Linear(2, 1) by hand: a GLOBAL, EMPTY_TUPLE, NEWOBJ, and a state whose weight is (storage, 0, (1, 2), (2, 1))
WEIGHT = (
    b"ctorch._utils\n_rebuild_tensor\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x00aX\x03\0\0\0cpuK\x02Nt"
    b"QK\0K\x01K\x02\x86K\x02K\x01\x86tR"
)
LINEAR = b"\x80\x02ctorch.legacy.nn.Linear\nLinear\n)\x81}(X\x06\0\0\0weight" + WEIGHT + b"X\x04\0\0\0biasNub."


def test_a_pickle_made_by_hand(tmp_path: Path) -> None:
    elements = struct.pack("<q2f", 2, 3.0, -1.0)
    (tmp_path / "linear.pth").write_bytes(old_format(LINEAR, ["a"], elements))
    model = dpnn_bridge.load(tmp_path / "linear.pth")
    assert model.weight.tolist() == [[3.0, -1.0]]
    assert model.bias is None


@pytest.mark.parametrize(
    ("pickled", "keys", "elements"),
    [
        (LINEAR, ["a"], struct.pack("<q1f", 2, 3.0)),  # cut off
        (LINEAR, ["a"], struct.pack("<q2f", 3, 3.0, 1.0)),  # another number of elements
        (LINEAR, ["b"], struct.pack("<q2f", 2, 3.0, 1.0)),  # another storage
        (LINEAR, [], b""),
        (LINEAR.replace(b"K\x01K\x02\x86K\x02", b"K\x09K\x02\x86K\x02"), ["a"], struct.pack("<q2f", 2, 3.0, 1.0)),
        (LINEAR.replace(b"K\0K\x01", b"J\xff\xff\xff\xffK\x01"), ["a"], struct.pack("<q2f", 2, 3.0, 1.0)),
        (LINEAR[:-1], ["a"], b""),
        (LINEAR.replace(b")\x81}", b"}\x81}"), ["a"], struct.pack("<q2f", 2, 3.0, 1.0)),  # arguments of a class
        (b"\x80\x02ctorch.legacy.nn.Linear\nLinear\n)R.", [], b""),  # a class that is called
        (b"\x80\x02ctorch.legacy.nn.Linear\nLinear\n}b.", [], b""),  # the state of a class
        (b"\x80\x02(itorch.legacy.nn.Linear\nLinear\n.", [], b""),
        (b"\x80\x02ctorch.legacy.nn.Linear\nLinear\nr\xff\xff\xff\x7f0(lp" + b"9" * 5000 + b"\n.", [], b""),
    ],
)
def test_damaged_pickles(tmp_path: Path, pickled: bytes, keys: list[str], elements: bytes) -> None:
    (tmp_path / "linear.pth").write_bytes(old_format(pickled, keys, elements))
    with pytest.raises(T7Error):
        dpnn_bridge.load(tmp_path / "linear.pth")


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (b"X\x07\0\0\0storage", b"X\x06\0\0\0module"),
        (b"ctorch\nFloatStorage\n", b"X\x0c\0\0\0FloatStorage"),
        (b"ctorch\nFloatStorage\n", b"ctorch\nFloatTensorStorage\n"),
        (b"X\x01\0\0\0a", b"K\x01"),
        (b"K\x02Nt", b"K\x02X\x01\0\0\0at"),
    ],
    ids=["another kind", "a text as type", "another type", "a number as key", "a view"],
)
def test_an_id_that_is_no_storage_is_refused(part: bytes, other: bytes, tmp_path: Path) -> None:
    assert LINEAR.count(part) == 1
    elements = struct.pack("<q2f", 2, 3.0, -1.0)
    (tmp_path / "x.pth").write_bytes(old_format(LINEAR.replace(part, other), ["a"], elements))
    with pytest.raises(NotT7Error, match="the pickle contains a storage"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


#: offset, sizes and strides of the weight, and those that no tensor has
VIEW = b"K\0K\x01K\x02\x86K\x02K\x01\x86tR"
VIEWS = {
    "a negative offset": b"J\xff\xff\xff\xffK\x01K\x02\x86K\x02K\x01\x86tR",
    "a negative stride": b"K\x01K\x01K\x02\x86K\x02J\xff\xff\xff\xff\x86tR",
    "a huge stride": b"K\0K\x01K\x02\x86\x8a\x07\0\0\0\0\0\0\x01K\x01\x86tR",
    "a negative size": b"K\0K\x01J\xff\xff\xff\xff\x86K\x02K\x01\x86tR",
    "true as a size": b"K\0\x88K\x02\x86K\x02K\x01\x86tR",
    "a fraction": b"K\0K\x01K\x02\x86K\x02G?\xf0\0\0\0\0\0\0\x86tR",
}


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_has_sizes(view: str, tmp_path: Path) -> None:
    """Else it would reach before its storage, or numbers would overflow."""
    assert LINEAR.count(VIEW) == 1
    pickled = LINEAR.replace(VIEW, VIEWS[view])
    (tmp_path / "x.pth").write_bytes(old_format(pickled, ["a"], struct.pack("<q2f", 2, 3.0, -1.0)))
    with pytest.raises(T7FormatError, match="expected a size, found"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


@both
@pytest.mark.parametrize("order", ["little", "big"])
def test_elements_in_another_byte_order_are_refused(order: str, zipped: bool, tmp_path: Path) -> None:
    elements = struct.pack("<2f", 3.0, -1.0)
    if zipped:
        records = {"data.pkl": LINEAR, "data/a": elements, "byteorder": order.encode()}
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            for name, content in records.items():
                archive.writestr(f"x/{name}", content)
    else:
        head = b"".join(pickle.dumps(v, 2) for v in (MAGIC, 1001, {"little_endian": order == "little"}))
        tail = pickle.dumps(["a"], 2) + struct.pack("<q", 2) + elements
        (tmp_path / "x.pth").write_bytes(head + LINEAR + tail)
    if order == "little":
        assert read(LocalFile(tmp_path / "x.pth", "x.pth", []))["weight"].numpy().tolist() == [[3.0, -1.0]]
    else:
        with pytest.raises(T7FormatError, match="another byte order"):
            read(LocalFile(tmp_path / "x.pth", "x.pth", []))


COLLIDING = [i * (2**61 - 1) + 7 for i in range(20_000)]  # hashes of numbers have no secret: these have one


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize("value", [dict.fromkeys(COLLIDING[:1], 0), {1}], ids=["a dict", "a set"])
def test_keys_that_were_chosen_to_collide_are_refused(value: Any, protocol: int, tmp_path: Path) -> None:
    if isinstance(value, set):
        pickled = b"\x80\x04\x8f(K\x01\x90."  # EMPTY_SET, ADDITEMS
    elif protocol == 0:
        pickled = b"(" + b"".join(b"L%dL\nI0\n" % key for key in COLLIDING) + b"d."
    else:
        items = b"".join(pickle.dumps(key, 2)[2:-1] + b"K\x00" for key in COLLIDING)
        pickled = b"\x80\x02}(" + items + b"u."
    (tmp_path / "x.pth").write_bytes(old_format(pickled, []) + b"torch.legacy.nn")
    start = time.process_time()
    with pytest.raises(NotT7Error, match=r"keys that are not strings|an opcode that creates objects"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))
    assert time.process_time() - start < 2


@pytest.mark.parametrize("code", [b"}", b"]", b")\x85"])
def test_small_containers_are_counted(code: bytes, tmp_path: Path) -> None:
    pickled = b"\x80\x02(" + code * 20_000 + b"lctorch.legacy.nn\nTanh\n)\x81."
    (tmp_path / "x.pth").write_bytes(old_format(pickled, []))
    with pytest.raises(NotT7Error, match="more lists, dicts and tuples than a model of its size"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


CALLS = [
    b"ctorch._utils\n_rebuild_parameter\n(%btR",
    b"ccopy_reg\n_reconstructor\n(%btR",
    b"ctorch\nSize\n(%bt\x81",
    b"(%btQ",
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_has_few_arguments(call: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(
        old_format(b"\x80\x02" + call % (b"N" * 100) + b"ctorch.legacy.nn\nTanh\n)\x81.", [])
    )
    with pytest.raises(NotT7Error, match="a call with a list of 100"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


@pytest.mark.parametrize("version", [b"]q\7h\7a", b"X\3\0\0\0abc", b"J\xff\xff\xff\xff", b"G\x3f\xf8\0\0\0\0\0\0"])
def test_the_version_of_an_object_is_a_number(version: bytes, tmp_path: Path) -> None:
    pickled = b"\x80\x02ctorch.legacy.nn\nTanh\n)\x81}X\x08\0\0\0_version" + version + b"sb."
    (tmp_path / "x.pth").write_bytes(old_format(pickled, []))
    with pytest.raises(T7FormatError, match="expected the version of a class, found"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


def test_ids_of_objects_that_were_chosen_to_collide_are_refused(tmp_path: Path) -> None:
    pickled = b"\x80\x02}" + b"".join(b"p%d\n" % key for key in COLLIDING) + b"."
    (tmp_path / "x.pth").write_bytes(old_format(pickled, []) + b"torch.legacy.nn")
    with pytest.raises(T7FormatError, match="ids count the objects"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


#: levels, more than Python's stack has
DEPTH = 5_000
TWICE = b")" + b"2\x86" * 40  # (t, t) of (t, t) of ...: 81 bytes that name the empty tuple 2**40 times
TENSOR = b"ctorch._utils\n_rebuild_tensor\n(" + WEIGHT.partition(b"\n((")[2].partition(b"K\0K\x01")[0].join(
    [b"(", b"K\0"]
)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"}" + TWICE + b"Ns", id="a key that is hashed"),
        pytest.param(b"})" + b"\x85" * 300_000 + b"Ns", id="a key that is hashed recursively"),
        pytest.param(b"ccollections\nOrderedDict\n]" + TWICE + b"N\x86a\x85R", id="a key in a list of pairs"),
        pytest.param(b"ccopy_reg\n_reconstructor\n(" + TWICE + b"NNtR", id="the text of a class"),
        pytest.param(TENSOR + TWICE + b"\x85K\x01\x85tR", id="the text of a size"),
        pytest.param(TENSOR + b"(" + b"\x8a\x06\xff\xff\xff\xff\xff\x7f2" * 100_000 + b"t2tR", id="dimensions"),
        pytest.param(TENSOR + b"\x8a\x06\xff\xff\xff\xff\xff\x7f\x85K\0\x85tR", id="repeated elements"),
        pytest.param(b"\x96" + struct.pack("<Q", 1 << 31), id="a bytearray"),
        pytest.param(b"\x8b" + struct.pack("<i", 1 << 20) + b"1" * (1 << 20), id="a long integer"),
        pytest.param(
            b"}(" + b"".join(b"X\2\0\0\0%c%cN" % (a, b) for a in range(64) for b in range(64)) + b"uq\1ccollections\n"
            b"OrderedDict\nq\2" + b"h\2h\1\x85R0" * 30_000,
            id="a dict that is copied often",
        ),
        pytest.param(b"ctorch.legacy.nn\nTranspose\n)\x81}X\x0c\0\0\0permutations" + TWICE + b"sb", id="permutations"),
        pytest.param(b"ctorch.legacy.nn\nView\n)\x81}X\x04\0\0\0size" + TWICE + b"sb", id="sizes"),
    ],
)
def test_what_is_small_in_a_pickle_stays_small(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(
        old_format(b"\x80\x02" + body + b".", ["a"], struct.pack("<q2f", 2, 3.0, -1.0)) + b"torch.legacy.nn"
    )
    start = time.process_time()
    with pytest.raises(T7Error) as raised:
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))
    assert len(str(raised.value)) < 500
    assert time.process_time() - start < 2


LONG = b"X" + struct.pack("<I", 60_000) + b"x" * 60_000
USED_OFTEN = {
    "string": LONG + b"q\1" + b"0](" + b"h\1" * 3000 + b"e",
    "field": LONG
    + b"q\1"
    + b"0ctorch.legacy.nn\nTanh\n)\x81}("
    + b"".join(b"U\4%04dh\1" % i for i in range(1000))
    + b"ub",
    "key": LONG + b"q\1" + b"0](" + b"}h\1Ns" * 3000 + b"e",
    "class": b"ctorch.legacy.nn\n" + b"x" * 60_000 + b"\nq\1" + b"0](" + b"h\1)\x81}b" * 3000 + b"e",
}


@pytest.mark.parametrize("kind", USED_OFTEN)
def test_a_string_counts_at_each_use(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(old_format(b"\x80\x02" + USED_OFTEN[kind] + b".", []) + b"torch.legacy.nn")
    with pytest.raises(T7LimitError, match="uses its strings or headers too often"):
        read(LocalFile(tmp_path / "x.pth", "x.pth", []))


REFUSED = {
    "INST": b"(itorch.legacy.nn\nLinear\n",
    "OBJ": b"(ctorch.legacy.nn\nLinear\no",
    "NEWOBJ_EX": b"ctorch.legacy.nn\nLinear\n)}\x92",
    "PERSID": b"Pa\n",
    "EXT1": b"\x82\xf0",
    "EXT2": b"\x83\xf0\0",
    "EXT4": b"\x84\xf0\0\0\0",
    "EMPTY_SET": b"\x8f",
    "FROZENSET": b"(\x91",
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 1 << 31),
    "NEXT_BUFFER": b"\x97",
    "LONG4": b"\x8b" + struct.pack("<i", 1) + b"1",
}


@pytest.mark.parametrize("opcode", REFUSED)
def test_an_opcode_that_no_model_needs_is_refused(opcode: str, tmp_path: Path) -> None:
    """Before its argument is read, and also if a program has registered an extension."""
    (tmp_path / "x.pth").write_bytes(old_format(b"\x80\x02" + REFUSED[opcode] + b".", []) + b"torch.legacy.nn")
    copyreg.add_extension("collections", "OrderedDict", 0xF0)
    try:
        with pytest.raises(NotT7Error, match="an opcode that creates objects"):
            read(LocalFile(tmp_path / "x.pth", "x.pth", []))
    finally:
        copyreg.remove_extension("collections", "OrderedDict", 0xF0)


def test_a_field_does_not_name_the_class(tmp_path: Path) -> None:
    body = b"\x80\x02ctorch.legacy.nn\nTanh\n)\x81}X\x04\0\0\0kind" + TWICE + b"sb."
    (tmp_path / "x.pth").write_bytes(old_format(body, []))
    assert read(LocalFile(tmp_path / "x.pth", "x.pth", [])).class_name == "nn.Tanh"


NESTED = {
    "lists": b"]" * DEPTH + b"a" * (DEPTH - 1),
    "tuples": b")" + b"\x85" * DEPTH,
    "dicts": b"}" + b"X\1\0\0\0a}" * DEPTH + b"s" * DEPTH,
    "objects": b"ctorch.legacy.nn\nX\n)\x81}X\1\0\0\0a" * DEPTH + b"N" + b"sb" * DEPTH,
}


@pytest.mark.parametrize("kind", NESTED)
def test_nesting_takes_no_stack(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(old_format(b"\x80\x02" + NESTED[kind] + b".", []) + b"torch.legacy.nn")
    value, levels = read(LocalFile(tmp_path / "x.pth", "x.pth", [])), 0
    while isinstance(value, (LuaTable, LuaObject)):
        value, levels = next(iter(value.values()), None), levels + 1
    assert levels >= DEPTH
    shown = CliRunner().invoke(inspect_command, [str(tmp_path / "x.pth"), "--raw"])
    assert shown.exit_code == 0, shown.output


def test_every_cut_of_a_file_is_an_error(classes: Any, tmp_path: Path) -> None:
    whole = save(as_pytorch_had_it(nn.Sequential().add(nn.Linear(2, 2)), classes, {}), tmp_path / "a.pth", False)
    data = whole.read_bytes()
    for stop in range(1, len(data), 7):
        (tmp_path / "cut.pth").write_bytes(data[:stop])
        with pytest.raises(T7Error):
            dpnn_bridge.load(tmp_path / "cut.pth")


def test_other_pickles_say_what_they_are(tmp_path: Path) -> None:
    save({"weight": torch.ones(2)}, tmp_path / "weights.pth", False)
    with pytest.raises(NotT7Error, match=r"pickles of torch\.legacy\.nn .*weights_only=True"):
        dpnn_bridge.load(tmp_path / "weights.pth")
    save(torch.nn.Linear(2, 2), tmp_path / "module.pth", True)
    with pytest.raises(T7Error, match="in a program that can import their classes"):
        dpnn_bridge.load(tmp_path / "module.pth")
    assert not contains_legacy(tmp_path / "weights.pth")
    assert not contains_legacy(tmp_path / "nothing.pth")
    buffer = io.BytesIO()
    torch.save(nn.Linear(2, 2), buffer)
    assert isinstance(dpnn_bridge.load(buffer.getvalue()), torch.nn.Linear)
