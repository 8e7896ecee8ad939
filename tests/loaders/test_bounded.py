"""Whatever a file declares, describing, finding, converting and writing it takes no more than the file is worth."""

from __future__ import annotations

import gc
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mapping_examples import MAPPINGS, example

import dpnn_bridge
from dpnn_bridge.checkpoints.describe import describe
from dpnn_bridge.conversion.budget import PER_VALUE, TENSORS, Budget
from dpnn_bridge.errors import ConversionError, ConversionLimitError, DpnnBridgeError, T7FormatError, T7Warning
from dpnn_bridge.loaders import dumps, loads, write_t7
from dpnn_bridge.loaders.compare import difference
from dpnn_bridge.objects import LuaObject, LuaStorage, LuaTable, LuaTensor
from dpnn_bridge.parity.verify import verify

SECONDS = 30  # processor time: what is not bounded takes hours


def module(name: str, **fields: Any) -> LuaObject:
    return LuaObject(name, LuaTable(fields))


def sequential(modules: list[LuaObject]) -> LuaObject:
    return module("nn.Sequential", modules=LuaTable.from_list(modules))


def tensor(*shape: int) -> LuaTensor:
    return LuaTensor.from_numpy(np.ones(shape, np.float32))


def use(path: Path, value: Any) -> None:
    """Everything that a command does with a file, in time; errors must be ours."""
    write_t7(path, value)
    start = time.process_time()
    description = describe(path)
    assert sum(map(len, description.lines())) < 10_000_000
    lengths = [0]
    for suffix in (".pt", ".safetensors", ".t7", ".py"):
        try:
            dpnn_bridge.convert(path, path.with_name(f"out{suffix}"), force=True)
        except DpnnBridgeError as error:
            lengths.append(len(str(error)))
    assert max(lengths) < 20_000
    assert time.process_time() - start < SECONDS


def shared(depth: int, leaf: Any, wrap: Any) -> Any:
    for _ in range(depth):
        leaf = wrap(leaf)
    return leaf


def test_tables_that_share_tables(tmp_path: Path) -> None:
    table = shared(60, LuaTable({"x": 1}), lambda t: LuaTable({"a": t, "b": t}))
    use(tmp_path / "m.t7", LuaTable({"model": module("nn.Identity"), "opt": table}))
    model = dpnn_bridge.load(tmp_path / "out.pt")
    assert type(model).__name__ == "Identity"
    use(tmp_path / "field.t7", module("nn.Identity", note=table))
    use(tmp_path / "fixture.t7", LuaTable({"module": module("nn.Identity"), "input": table, "output": table}))
    with pytest.raises(DpnnBridgeError):
        verify(tmp_path / "fixture.t7")


def test_modules_that_share_modules(tmp_path: Path) -> None:
    net = shared(50, module("nn.Identity"), lambda m: module("nn.Sequential", modules=LuaTable.from_list([m, m])))
    use(tmp_path / "m.t7", net)
    with pytest.raises(ConversionLimitError, match="shared modules so often"):
        dpnn_bridge.to_torch(net)


def test_time_grows_with_the_number_of_modules_alone() -> None:
    """Each module was once compared with all that were converted before it."""
    dpnn_bridge.to_torch(module("nn.Identity"))  # imports what it needs
    times = []
    for count in (1_500, 12_000):
        net = sequential([module("nn.Identity") for _ in range(count)])
        gc.disable()  # it goes through the objects of all tests before
        start = time.process_time()
        try:
            assert len(dpnn_bridge.to_torch(net)) == count
        finally:
            gc.enable()
        times.append(time.process_time() - start)
    assert times[1] < 32 * times[0]


@pytest.mark.parametrize(
    ("class_name", "field"),
    [
        ("nn.SpatialPyramid", "ratios"),
        ("nn.SpatialPyramid", "winWidth"),
        ("nn.SpatialPyramid", "winHeight"),
        ("nn.SpatialFovea", "ratios"),
        ("nn.PyramidPacker", "scales"),
        ("nn.SharpMask", "skpos"),
        ("nn.AppendConstant", "constant_value"),
        ("w2nn.ClippedWeightedHuberCriterion", "clip"),
    ],
)
def test_lists_of_settings_that_modules_may_share_are_short(class_name: str, field: str) -> None:
    mapping = next(m for m in MAPPINGS if class_name in m.names and field in example(m))
    obj = LuaObject(class_name, LuaTable({**dict(example(mapping).items()), field: LuaTable.from_list([1] * 101)}))
    with pytest.raises(ConversionError, match="at most 100 settings, found 101"):
        dpnn_bridge.to_torch(obj)


def test_long_keys_and_chains(tmp_path: Path) -> None:
    key = "k" * 200_000
    use(tmp_path / "a.t7", LuaTable({key: LuaTable.from_list([LuaTable({"x": 1}) for _ in range(3000)])}))
    use(tmp_path / "b.t7", LuaTable({key: LuaTable.from_list([module("nn.Identity") for _ in range(300)])}))
    use(
        tmp_path / "c.t7",
        LuaTable({key: module("nn.Sequential", modules=LuaTable.from_list([module("nn.Tanh")] * 99))}),
    )
    use(tmp_path / "d.t7", shared(20_000, LuaTable(), lambda t: LuaTable({"next": t, "other": LuaTable()})))
    use(tmp_path / "e.t7", shared(3000, LuaTable(), lambda t: LuaTable({"n": t, "m": module("nn.Identity")})))
    use(tmp_path / "f.t7", LuaTable({"m": module("nn.Identity", x=LuaTable({key: module("nn.Nothing")}))}))


def test_many_unknown_classes(tmp_path: Path) -> None:
    table = LuaTable({f"k{i}": i for i in range(3000)})
    use(tmp_path / "m.t7", module("nn.Sequential", modules=LuaTable.from_list(
        [module(f"nn.Nothing{i}", table=table) for i in range(500)]
    )))  # fmt: skip


def test_byte_buffers(tmp_path: Path) -> None:
    storage = LuaStorage("torch.ByteStorage", 9, np.frombuffer(dumps(LuaTable({1: 2}))[:9], np.uint8).copy())
    views = [LuaTensor("torch.ByteTensor", (1 << 28,), (0,), 0, storage) for _ in range(50)]
    use(tmp_path / "m.t7", LuaTable.from_list(views))
    nested: Any = LuaTable({"x": module("nn.Identity")})
    for _ in range(300):
        nested = LuaTable({"x": dumps(nested).decode("utf-8", "surrogateescape")})
    use(tmp_path / "n.t7", nested)


HUGE = 10**9
DECLARED = {
    "kernel": module("nn.SpatialConvolution", nInputPlane=HUGE, nOutputPlane=HUGE, kW=3, kH=3, dW=1, dH=1),
    "linear": module("nn.Linear", inputSize=HUGE, outputSize=HUGE),
    "lstm": module("cudnn.LSTM", inputSize=2, hiddenSize=2, numLayers=HUGE, weight=tensor(10), bidirectional=False),
    "gru": module("cudnn.GRU", inputSize=HUGE, hiddenSize=HUGE, numLayers=1, weight=tensor(10)),
    "normalization": module("nn.SpatialBatchNormalization", nFeature=HUGE, affine=False, running_mean=tensor(2)),
    "lookup": module("nn.LookupTable", nIndex=HUGE, nOutput=HUGE),
    "contrastive": module("nn.SpatialSubtractiveNormalization", nInputPlane=HUGE, kernel=tensor(3, 3)),
    "cosine": module("nn.Euclidean", inputSize=HUGE, outputSize=HUGE),
    "fast lstm": module("nn.FastLSTM", inputSize=HUGE, outputSize=HUGE, rho=HUGE),
    "repeater": module("nn.Repeater", rho=HUGE, module=module("nn.Identity"), modules=LuaTable()),
    "expanded": module("nn.Linear", weight=LuaTensor(
        "torch.FloatTensor", (1 << 14, 1 << 14), (0, 0), 0, LuaStorage("torch.FloatStorage", 1, np.ones(1, np.float32))
    )),
    "expanded field": module("nn.Identity", note=LuaTensor(
        "torch.FloatTensor", (1 << 14, 1 << 14), (0, 0), 0, LuaStorage("torch.FloatStorage", 1, np.ones(1, np.float32))
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_declared_sizes(name: str, tmp_path: Path) -> None:
    use(tmp_path / "m.t7", DECLARED[name])
    if name not in ("repeater", "expanded field"):  # a field is kept with its strides
        with pytest.raises(ConversionError):
            dpnn_bridge.load(tmp_path / "m.t7")


def test_the_number_of_tensors_is_limited() -> None:
    budget = Budget(LuaTable())
    for _ in range(TENSORS + PER_VALUE):
        budget.spend(0)
    with pytest.raises(ConversionLimitError, match="more tensors than the file contains"):
        budget.spend(0)


def test_repeated_elements_are_limited_sooner_in_text(tmp_path: Path) -> None:
    one = LuaStorage("torch.FloatStorage", 1, np.ones(1, np.float32))
    write_t7(tmp_path / "m.t7", LuaTable({"x": LuaTensor("torch.FloatTensor", (1 << 21,), (0,), 0, one)}))
    dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.npz")
    with pytest.raises(ConversionLimitError, match="more memory than the file contains"):
        dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.json")


def test_modules_nested_too_deeply_are_named() -> None:
    net = shared(110, module("nn.Identity"), lambda m: sequential([m]))
    with pytest.raises(ConversionError, match="nested deeper than 100 levels"):
        dpnn_bridge.to_torch(net)


def test_views_of_one_storage(tmp_path: Path) -> None:
    storage = LuaStorage("torch.FloatStorage", 90_000, np.ones(90_000, np.float32))
    views = [LuaTensor("torch.FloatTensor", (80_000,), (1,), i, storage) for i in range(2000)]
    use(tmp_path / "m.t7", LuaTable({"model": module("nn.Identity"), "views": LuaTable.from_list(views)}))
    weights = [module("nn.CMul", weight=view, size=LuaStorage("torch.LongStorage", 1, np.array([80_000])))
               for view in views]  # fmt: skip
    use(tmp_path / "n.t7", module("nn.Sequential", modules=LuaTable.from_list(weights)))


def test_an_ascii_number_at_the_end_is_cut() -> None:
    assert loads(b"1\n12\n") == 12
    for data in (b"1\n12", b"1\n1", b"5\n1", b"4\n1\n3\nV 1\n18\ntorch.FloatStorage\n2\n1 234"):
        with pytest.raises(T7FormatError, match="the file ends in"):
            loads(data)


def test_trailing_bytes_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "m.t7"
    path.write_bytes(dumps(module("nn.Identity")) + b"garbage")
    with pytest.warns(T7Warning, match=r"m\.t7: 7 bytes after the object are not read") as caught:
        dpnn_bridge.read_t7(path)
    assert caught[0].filename == __file__
    assert any("7 bytes after this object" in line for line in describe(path).lines())
    report = dpnn_bridge.convert(path, tmp_path / "m.pt")
    assert any("7 bytes after" in note for note in report.notes)


@pytest.mark.parametrize(
    "key",
    ["x  # (1, 2)", '"', "'", "\\", '"""', '"); import os; ("', "\n", "class", "a.b", "\x1f", "ü", "{}", "\udcff"],
)
def test_keys_in_generated_python(key: str, tmp_path: Path) -> None:
    value = LuaTable({key: LuaTable({key: key})})
    net = module(
        "nn.Sequential", modules=LuaTable.from_list([module("nn.Linear", weight=tensor(2, 2), bias=tensor(2))])
    )
    for root in (LuaTable({key: net, "z": net}), LuaTable({key: net}), module("nn.Identity", note=value)):
        write_t7(tmp_path / "m.t7", root)
        dpnn_bridge.convert(tmp_path / "m.t7", tmp_path / "m.py", force=True)
        compile((tmp_path / "m.py").read_text(encoding="utf-8"), "m.py", "exec")


def test_comparing_does_not_copy_a_long_key_for_each_of_its_entries(tmp_path: Path) -> None:
    key = "k" * 1_000_000
    value, other = (LuaTable({key: LuaTable({f"e{i}": i + n for i in range(20_000)})}) for n in (0, 1))
    start = time.process_time()
    write_t7(tmp_path / "key.t7", value)
    found = difference(value, other)
    assert time.process_time() - start < SECONDS
    assert found is not None
    assert found.endswith("e0 is 0 in one and 1 in the other")
    assert len(found) < 5000


def test_a_long_key_is_not_part_of_the_name_of_each_model_below_it(tmp_path: Path) -> None:
    models = LuaTable({f"e{i}": module("nn.Identity") for i in range(400)})
    use(tmp_path / "models.t7", LuaTable({"k" * 1_000_000: models}))
    use(tmp_path / "beside.t7", LuaTable({"k" * 1_000_000: models, "model": module("nn.Identity")}))
    assert (tmp_path / "out.pt").stat().st_size < 4_000_000


def repeated(*shape: int, dtype: type = np.float64) -> LuaTensor:
    """A view that repeats one element."""
    one = LuaTensor.from_numpy(np.ones(1, dtype))
    return LuaTensor(one.class_name, shape, (0,) * len(shape), 0, one.storage)


SHARED_SIZES = LuaStorage("torch.LongStorage", 10_000, np.ones(10_000, np.int64))
SHARED_PAIRS = LuaTable.from_list([LuaTable.from_list([1, 2])] * 10_000)


@pytest.mark.parametrize(
    ("class_name", "fields"),
    [
        ("nn.View", {"size": SHARED_SIZES, "numElements": 1}),
        ("nn.Reshape", {"size": SHARED_SIZES, "nelement": 1}),
        ("nn.Transpose", {"permutations": SHARED_PAIRS}),
        ("nn.Transpose", {"permutations": LuaTable.from_list([SHARED_SIZES])}),
    ],
    ids=["View", "Reshape", "Transpose", "pairs of a Transpose"],
)
def test_sizes_that_many_modules_share(class_name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    write_t7(tmp_path / "m.t7", sequential([module(class_name, **fields) for _ in range(1000)]))
    start = time.process_time()
    with pytest.raises(ConversionError, match="expected an entry for each dimension, at most 32, found 10,000"):
        dpnn_bridge.load(tmp_path / "m.t7")
    assert time.process_time() - start < 2  # before: 3 to 25 s


def test_sizes_that_double(tmp_path: Path) -> None:
    inner = module("nn.Identity")
    for depth in (3, 40):
        size = shared(
            depth, LuaStorage("torch.LongStorage", 1, np.ones(1, np.int64)), lambda t: LuaTable.from_list([t, t])
        )
        fields = {"module": inner, "recurrentModule": inner, "modules": LuaTable.from_list([inner])}
        write_t7(tmp_path / "m.t7", module("nn.Recurrence", outputSize=size, nInputDim=1, rho=9, **fields), force=True)
        if depth == 3:
            assert dpnn_bridge.load(tmp_path / "m.t7").output_size == [
                [[[1], [1]], [[1], [1]]],
                [[[1], [1]], [[1], [1]]],
            ]
    with pytest.raises(ConversionError, match="the sizes of the output are more than 256 values"):
        dpnn_bridge.load(tmp_path / "m.t7")


def test_numbers_that_a_view_repeats_are_not_copied(tmp_path: Path) -> None:
    criterions = LuaTable.from_list([module("nn.MSECriterion")] * 2)
    write_t7(tmp_path / "m.t7", module("nn.MultiCriterion", criterions=criterions, weights=repeated(1 << 23)))
    tracemalloc.start()
    assert dpnn_bridge.load(tmp_path / "m.t7").weights == [1.0, 1.0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20  # before: 256 MB


def test_a_table_of_connections_that_a_view_repeats_is_not_copied(tmp_path: Path) -> None:
    fields = dict.fromkeys(("kW", "kH", "dW", "dH", "nInputPlane", "nOutputPlane"), 1)
    for count in (2, 1 << 24):
        obj = module(
            "nn.SpatialConvolutionMap",
            connTable=repeated(count, 2),
            weight=repeated(count, 1, 1, dtype=np.float32),
            bias=tensor(1),
            **fields,
        )
        write_t7(tmp_path / f"{count}.t7", obj)
    assert dpnn_bridge.load(tmp_path / "2.t7").connection_table.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    tracemalloc.start()
    with pytest.raises(ConversionLimitError):
        dpnn_bridge.load(tmp_path / f"{1 << 24}.t7")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 << 20  # before: 128 MB
