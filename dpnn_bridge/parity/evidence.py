"""Report how the classes of a model were tested, for models without a reference."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from dpnn_bridge.conversion import registry

#: data that docs/generate_support.py writes, from the manifest of the fixtures
FIXTURES = Path(__file__).with_name("fixtures_by_class.json")
#: data that docs/generate_random_instances.py writes, from a run of tests/differential
RANDOM_INSTANCES = Path(__file__).with_name("random_instances_by_class.json")

#: class of modules without a mapping -> evidence
UNMAPPED = {
    **dict.fromkeys(("LuaModule", "LuaCriterion"), "not tested: its Lua code runs"),
    "Placeholder": "not tested: a placeholder, which cannot run",
}


@cache
def fixtures_by_class() -> dict[str, int]:
    """Return Lua class -> number of fixtures with results of Torch7."""
    return json.loads(FIXTURES.read_text(encoding="utf-8"))


@cache
def random_instances_by_class() -> dict[str, int]:
    """Return Lua class -> number of random instances whose results equal Torch7's."""
    return json.loads(RANDOM_INSTANCES.read_text(encoding="utf-8"))


def evidence_of(class_name: str, torch_type: str) -> dict[str, Any]:
    """Return how a class was tested.

    Args:
        class_name: name of the Lua class, or of PyTorch's class for a module that was created in PyTorch.
        torch_type: name of the module's class in PyTorch.

    Returns:
        ``checked_by``: ``"torch7"``, ``"formula"``, ``"structure"`` or ``"not a Torch7 class"``; ``fixtures`` and
        ``random_instances``: numbers for this name or another name of the same class; ``evidence``: description of all.
    """
    mappings = registry.mappings_of(class_name)
    if torch_type in UNMAPPED or not mappings:
        evidence = UNMAPPED.get(torch_type, "PyTorch's own")
        return {"checked_by": "not a Torch7 class", "fixtures": 0, "random_instances": 0, "evidence": evidence}
    mapping = next((m for m in mappings if torch_type in registry.torch_name(m).split(", ")), mappings[0])
    counts = fixtures_by_class()
    name = class_name if counts.get(class_name) else max(mapping.names, key=lambda n: counts.get(n, 0))
    count, checked_by = counts.get(name, 0), mapping.checked_by
    drawn = random_instances_by_class()
    instances = drawn.get(class_name) or max(drawn.get(n, 0) for n in mapping.names)
    words = {
        "formula": "values computed from the formula of its source",
        "structure": "read, built and written back",
        "torch7": f"{count} {'fixture' if count == 1 else 'fixtures'} of Torch7" if count else "no separate fixture",
    }
    if count and name != class_name:
        words["torch7"] += f", as {name}"
    evidence = words[checked_by]
    if instances:
        evidence += f", {instances} random {'instance' if instances == 1 else 'instances'}"
    return {"checked_by": checked_by, "fixtures": count, "random_instances": instances, "evidence": evidence}
