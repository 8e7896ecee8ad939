"""Random instances of every class compute what Torch7 computes.

With ``DPNN_TORCH7=/path/to/th`` Torch7 itself is asked, else the original Lua sources in ``DPNN_LUA_SOURCES``. More of
them: ``DPNN_RANDOM_INSTANCES=200``; other ones: ``DPNN_RANDOM_SEED=7``. An instance that fails is reduced to a small
one, printed and kept as a fixture in the folder ``DPNN_RANDOM_FAILURES`` (default: random_failures).
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from explained import EXPLAINED, explanation, perturbed
from hypothesis import HealthCheck, Phase
from hypothesis.errors import NoSuchExample
from instances import Instance, instances
from layers import LAYERS
from layers_lua import NOT_RANDOM
from torch7 import command, differences, run, save

from dpnn_bridge.compare.differences import Difference
from dpnn_bridge.conversion import registry

COUNT = int(os.environ.get("DPNN_RANDOM_INSTANCES") or 20)
SEED = int(os.environ.get("DPNN_RANDOM_SEED") or 0)
FAILURES = Path(os.environ.get("DPNN_RANDOM_FAILURES") or "random_failures")
QUIET = {"database": None, "deadline": None, "suppress_health_check": list(HealthCheck), "report_multiple_bugs": False}

needs_torch7 = pytest.mark.skipif(
    command() is None, reason="set DPNN_TORCH7 to a th, or DPNN_LUA_SOURCES to checkouts of nn, dpnn, rnn, nnx"
)


def drawn(class_name: str) -> list[Instance]:
    """The instances of a class that the seed stands for."""
    found: list[Instance] = []

    @hypothesis.seed(f"{SEED} {class_name}")
    @hypothesis.settings(max_examples=COUNT, phases=[Phase.generate], **QUIET)
    @hypothesis.given(instances(LAYERS[class_name]))
    def collect(case: Instance) -> None:
        found.append(case)

    collect()
    return found


def unexplained(case: Instance, fixture: Any) -> list[Difference]:
    if "refused" in fixture:
        return []
    return [d for d in differences(fixture) if not explanation(case, fixture, d)]


def reduced(class_name: str) -> Instance:
    """A small instance that fails, found by asking Torch7 about each that Hypothesis tries."""

    def fails(case: Instance) -> bool:
        return bool(unexplained(case, run([case])[0]))

    settings = hypothesis.settings(max_examples=10 * COUNT, **QUIET)
    return hypothesis.find(instances(LAYERS[class_name]), fails, settings=settings)


@needs_torch7
@pytest.mark.parametrize("class_name", LAYERS)
def test_random_instances_compute_what_torch7_computes(class_name: str, record_property: Any) -> None:
    cases = drawn(class_name)
    counts: Counter[str] = Counter()
    wrong = []
    for case, fixture in zip(cases, run(cases), strict=True):
        if "refused" in fixture:
            counts["refused"] += 1
            continue
        found = differences(fixture)
        left = [f"{d.name}: {d.message}" for d in found if not explanation(case, fixture, d)]
        counts["different" if left else "explained" if found else "equal"] += 1
        if left:
            wrong.append((case, fixture, left))
        elif found and counts["explained"] == 1:
            assert unexplained(case, perturbed(fixture, found[0])), f"{case}: the explanation excuses anything"
    for outcome in ("equal", "explained", "refused", "different"):
        record_property(outcome, counts[outcome])
    assert 3 * counts["refused"] <= 2 * len(cases), f"Torch7 refused {counts['refused']} of {len(cases)} instances"
    if wrong:
        case, fixture, left = wrong[0]
        try:
            case = reduced(class_name)
            fixture = run([case])[0]
            left = [f"{d.name}: {d.message}" for d in unexplained(case, fixture)]
        except NoSuchExample:
            pass
        path = save(FAILURES, fixture, class_name.removeprefix("nn."))
        pytest.fail(
            f"{len(wrong)} of {len(cases)} differ (DPNN_RANDOM_SEED={SEED}); {case}: {left[:3]}; kept as {path}"
        )


def test_every_class_is_declared_or_named_with_a_reason() -> None:
    rooms = ("nn", "dpnn", "rnn", "nnx")
    names = {
        name
        for name, specs in registry.known_names().items()
        for spec in specs
        if name.startswith("nn.") and spec.__module__.split(".modules.")[-1].split(".")[0] in rooms
    }
    assert names - set(LAYERS) - set(NOT_RANDOM) == set()
    assert set(NOT_RANDOM) & set(LAYERS) == set()
    assert (set(LAYERS) | set(NOT_RANDOM)) - names == set()


def test_every_explanation_has_a_reason() -> None:
    assert all(len(known.reason) > 20 for known in EXPLAINED)


def test_every_explanation_looks_at_the_values() -> None:
    assert all(known.here or known.within or known.instead for known in EXPLAINED)
