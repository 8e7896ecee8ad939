"""The zoo: loaded when one of its classes is looked up, and importable by the names that its files had."""

from __future__ import annotations

import io
import pickle
import subprocess

import pytest
import torch

from dpnn_bridge.zoo.style import NoiseFill

LOADED = "print(any(n.startswith('dpnn_bridge.zoo.') for n in sys.modules))"


@pytest.mark.parametrize(
    ("lookup", "loads"),
    [
        ("registry.find(LuaObject('nn.Linear'))", False),
        ("to_lua(nn.Linear(2, 3))", False),
        ("registry.find(LuaObject('nn.NoiseFill', LuaTable([('num_noise_channels', 2)])))", True),
        ("registry.mappings_of('nn.Nonsense')", True),
        ("registry.known_names()", True),
        ("assert registry.mapping_of(nn.InstanceNorm2d(2)).names == ('nn.InstanceNormalization',)", True),
    ],
)
def test_it_is_loaded_when_a_class_of_it_is_looked_up(lookup: str, loads: bool, python: list[str]) -> None:
    program = (
        "import sys\nfrom torch import nn\nfrom dpnn_bridge import to_lua\n"
        "from dpnn_bridge.conversion import registry\n"
        f"from dpnn_bridge.objects import LuaObject, LuaTable\nregistry.discover()\n{lookup}\n{LOADED}"
    )
    done = subprocess.run([*python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{loads}\n"


@pytest.mark.parametrize(
    "statement",
    [
        "import dpnn_bridge.modules.third_party.style as found",
        "from dpnn_bridge.modules.third_party import style as found",
        "from dpnn_bridge.modules.third_party import NoiseFill as kind; found = sys.modules[kind.__module__]",
        "from dpnn_bridge.modules import third_party; found = sys.modules[third_party.NoiseFill.__module__]",
    ],
)
def test_earlier_names_lead_to_the_same_modules(statement: str, python: list[str]) -> None:
    program = (
        f"import sys\n{statement}\nimport dpnn_bridge.zoo.style as now\nassert found is now\nprint(now.__spec__.name)"
    )
    done = subprocess.run([*python, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("dpnn_bridge.zoo.style\n", "")


def test_pickles_with_earlier_names_load() -> None:
    module = NoiseFill(3)
    now = pickle.dumps(module, protocol=0)
    before = now.replace(b"dpnn_bridge.zoo.style", b"dpnn_bridge.modules.third_party.style")
    assert before != now
    assert type(pickle.loads(before)) is NoiseFill
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert type(torch.load(file, weights_only=False)) is NoiseFill


def test_a_file_that_was_imported_by_itself_hides_no_variant_of_another(python: list[str]) -> None:
    program = (
        "import dpnn_bridge.zoo.style\nfrom dpnn_bridge.conversion import registry\n"
        "from dpnn_bridge.objects import LuaObject, LuaTable\n"
        "print(registry.find(LuaObject('nn.NoiseFill', LuaTable([('n_colors', 3)]))).__qualname__)"
    )
    done = subprocess.run([*python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "MaskNoiseFill.Lua\n"


def test_a_module_that_never_was_is_not_there() -> None:
    with pytest.raises(ModuleNotFoundError, match="nonsense"):
        __import__("dpnn_bridge.modules.third_party.nonsense")
