"""Objects of older versions of their class lack a field that a mapping can do without, and nothing is lost by it.

Such an object converts, and what is written of it converts again to a module that computes the same; or it is refused
at once, with the reason.
"""

from __future__ import annotations

from typing import Any

import mapping_examples
import pytest
import torch
from formula import lua
from mapping_examples import MAPPINGS, NEVER_RUN, Call, ClassMapping, example, mapping_id
from torch import nn

import dpnn_bridge
from dpnn_bridge import to_lua, to_torch
from dpnn_bridge.compare import nested
from dpnn_bridge.conversion import convert_object
from dpnn_bridge.conversion.lua_class import TRANSIENT
from dpnn_bridge.conversion.noise import replayed
from dpnn_bridge.conversion.options import Options
from dpnn_bridge.errors import ConversionError
from dpnn_bridge.modules.nn.arithmetic import CAddTable
from dpnn_bridge.modules.rnn.cells import fast_lstm, gru
from dpnn_bridge.modules.rnn.dropout import LazyDropout
from dpnn_bridge.modules.rnn.recurrence import Recurrent, Recursor
from dpnn_bridge.objects import LuaObject, LuaTable
from dpnn_bridge.outputs.container import pack, unpack

every_mapping = pytest.mark.parametrize("mapping", MAPPINGS, ids=mapping_id)


def converted(obj: LuaObject) -> nn.Module | None:
    """The module, None where it is refused with a reason."""
    try:
        return to_torch(obj)
    except ConversionError:
        return None


def again(module: nn.Module) -> dict[str, nn.Module]:
    """What is read from the files that are written of a module."""
    return {".t7": to_torch(to_lua(module)), ".pt": unpack(pack(module), Options(), "")[0]}


def output(module: nn.Module, call: Call) -> Any:
    """What the module gives in a call, None where it raises."""
    try:
        return list(nested.leaves(Call(module, call.arguments).copy().run()))
    except Exception:
        return None


@every_mapping
def test_what_older_files_lack(mapping: ClassMapping) -> None:
    obj = example(mapping)
    optional = []
    for name in [key for key in obj if isinstance(key, str) and key not in TRANSIENT]:
        older = obj.changed({name: None})
        if mapping.matches(older) and (module := converted(older)) is not None:
            optional.append(name)
            again(module)
    module = converted(obj.changed(dict.fromkeys(optional)))
    if module is None or mapping.names[0] in NEVER_RUN:
        return
    call = mapping_examples.call(mapping)
    assert call is not None
    expected = output(module, call)
    for way, other in again(module).items():
        found = output(other, call)
        assert (found is None) == (expected is None), way
        if expected is not None:
            torch.testing.assert_close(found, expected, equal_nan=True, msg=lambda m, way=way: f"{way}: {m}")


def without_results(value: Any, done: dict[int, Any]) -> Any:
    """A copy in which no object has its last results, as scripts that clean a model before saving leave it."""
    if not isinstance(value, (LuaObject, LuaTable)):
        return value
    if id(value) not in done:
        copy = done[id(value)] = value.changed({}) if isinstance(value, LuaObject) else LuaTable()
        for key, inner in value.items():
            lost = isinstance(value, LuaObject) and key in ("output", "gradInput")
            copy[key] = None if lost else without_results(inner, done)
    return done[id(value)]


@every_mapping
def test_what_cleaned_files_lack(mapping: ClassMapping) -> None:
    module = converted(without_results(example(mapping), {}))
    if module is not None:
        again(module)


def test_the_first_weight_norm_kept_the_weight(tmp_path: Any) -> None:
    """It had no ``weightSize``, which Torch7 and we need of files without the weight."""
    inner = lua("nn.Linear", weight=torch.zeros(3, 4), bias=torch.ones(3))
    module = to_torch(
        lua("nn.WeightNorm", inner, v=torch.randn(3, 4), g=torch.rand(3), bias=torch.ones(3), outputDim=1)
    )
    for suffix in (".t7", ".pt"):
        dpnn_bridge.save(tmp_path / f"m{suffix}", module)
        x = torch.randn(2, 4)
        torch.testing.assert_close(dpnn_bridge.load(tmp_path / f"m{suffix}")(x), module(x))


@pytest.mark.parametrize(("eps", "noted"), [(1e-3, True), (0, False), (None, False)])
def test_the_eps_of_a_square_root_is_noted(eps: float | None, noted: bool) -> None:
    """Until September 2015 Torch7 computed ``sqrt(x + eps)``; nothing in the file says which version wrote it."""
    module, report = convert_object(lua("nn.Sqrt", eps=eps), Options())
    torch.testing.assert_close(module(torch.tensor([4.0])), torch.tensor([2.0]))
    assert any("eps = 0.001" in note for note in report.notes) is noted


def _dilated(rows: int, columns: int) -> LuaObject:
    fields = {"kW": 3, "kH": 3, "dilationH": rows, "dilationW": columns, "weight": torch.zeros(1, 1, 3, 3)}
    return lua("nn.SpatialDilatedConvolution", nInputPlane=1, nOutputPlane=1, **fields)


@pytest.mark.parametrize(
    ("obj", "note"),
    [
        (_dilated(2, 3), "dilationH for the columns"),
        (_dilated(2, 2), None),
        (lua("nn.Padding", dim=1, pad=2, value=0), "has no index"),
        (lua("nn.Padding", dim=1, pad=2, value=0, index=1), None),
        (lua("nn.Mean", dimension=1), "has no sizeAverage"),
        (lua("nn.Mean", dimension=1, sizeAverage=True), None),
    ],
)
def test_what_another_version_computed_is_noted(obj: LuaObject, note: str | None) -> None:
    """Versions of the class wrote the same fields and computed other numbers."""
    notes = convert_object(obj, Options())[1].notes
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_the_first_penalty_gave_the_gradient_of_the_penalty_alone() -> None:
    """It had no ``provideOutput``, for which Torch7 still takes false."""
    x = torch.tensor([2.0, -3.0], requires_grad=True)
    to_torch(lua("nn.L1Penalty", l1weight=0.5, sizeAverage=False))(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.5, -0.5]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("nn.LookupTable", "weight"),
        ("nn.LookupTableMaskZero", "weight"),
        ("nn.LookupTableGPU", "weight"),
        ("nn.WeightedLookupTable", "weight"),
        ("nn.IndexLinear", "weight"),
        ("nn.NCEModule", "weight"),
        ("nn.LinearWeightNorm", "v"),
    ],
)
def test_a_matrix_of_another_shape_is_refused_by_name(name: str, field: str) -> None:
    """Until 2015 the rows of a ``nn.LookupTable`` could be matrices."""
    tensors: dict[str, Any] = {"bias": torch.zeros(4), field: torch.zeros(4, 2, 3), "unigrams": torch.ones(4)}
    with pytest.raises(ConversionError, match=rf"field '{field}' has shape \(4, 2, 3\), expected 2 dimensions"):
        to_torch(lua(name, k=2, **tensors))


@pytest.mark.parametrize(("new", "noted"), [({}, True), ({"output_tensor": torch.zeros(1)}, False)])
@pytest.mark.parametrize("whole", [False, True])
def test_the_average_of_weighted_losses_before_august_2015_is_noted(new: Any, noted: bool, whole: bool) -> None:
    obj = lua("nn.ClassNLLCriterion", sizeAverage=True, weights=torch.rand(3), **new)
    _, report = convert_object(lua("nn.CrossEntropyCriterion", nll=obj) if whole else obj, Options())
    assert any("has weights and no output_tensor" in note for note in report.notes) is noted


@pytest.mark.parametrize("field", ["startModule", "inputModule", "feedbackModule", "transferModule", "mergeModule"])
def test_a_module_that_the_constructor_needs_is_refused_by_its_field(field: str) -> None:
    members = [nn.Identity(), nn.Linear(3, 4), nn.Linear(4, 4), nn.Tanh(), CAddTable()]
    with pytest.raises(ConversionError, match=f"nn.Recurrent has no field '{field}'"):
        to_torch(to_lua(Recurrent(*members)).changed({field: None}))


@pytest.mark.parametrize(
    "make",
    [
        lambda: gru(3, 4),
        lambda: fast_lstm(3, 4),
        lambda: Recurrent(nn.Identity(), nn.Linear(3, 4), nn.Linear(4, 4), nn.Tanh(), CAddTable()),
        lambda: Recursor(nn.Sequential(LazyDropout(0.5), nn.Linear(3, 4))),
    ],
)
def test_step_modules_without_clones_convert_and_replay(make: Any) -> None:
    """Files of before March 20, 2015 have no ``sharedClones``, and scripts that clean a model remove them."""
    old = to_lua(make()).changed(sharedClones=None)
    module = to_torch(old)
    with replayed(module, old):
        outputs = [module(torch.randn(2, 3)) for _ in range(2)]
    assert [y.shape for y in outputs] == [(2, 4), (2, 4)]
