"""dpnn's own test suite, unmodified, on the bridge. Needs checkouts of nn, dpnn, torchx and nnx in DPNN_LUA_SOURCES."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

SOURCES = os.environ.get("DPNN_LUA_SOURCES")


@pytest.mark.skipif(not SOURCES, reason="set DPNN_LUA_SOURCES to a folder with checkouts of nn, dpnn, torchx, nnx")
def test_the_test_suite_of_dpnn_passes(capfd: pytest.CaptureFixture[str]) -> None:
    assert SOURCES is not None
    bridge = LuaBridge(SOURCES)
    bridge.execute("require 'dpnn' torch.manualSeed(1) dpnn.test()")  # raises when a test fails
    assert "with 0 failures and 0 errors" in capfd.readouterr().out


@pytest.mark.skipif(not SOURCES, reason="set DPNN_LUA_SOURCES to a folder with a checkout of nn")
def test_layers_of_nn_are_right_in_double(capfd: pytest.CaptureFixture[str]) -> None:
    assert SOURCES is not None
    names = ["Linear", "SpatialConvolution", "SpatialMaxPooling", "BatchNormalization", "LookupTable", "Softmax"]
    LuaBridge(SOURCES).execute("require 'nn' nn.test(..., 1)", [f"^{name}$" for name in names])
    assert "with 0 failures and 0 errors" in capfd.readouterr().out
