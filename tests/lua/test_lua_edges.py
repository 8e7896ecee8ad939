"""Corners of operations that random programs found give what Torch7 gave: see edges.lua."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

_, *LINES = Path(__file__).with_name("edges.lua").read_text().splitlines()
CASES = dict(zip(LINES[::2], LINES[1::2], strict=True))
SHOW = """
local function show(v)
   if not torch.isTensor(v) then return tostring(v) end
   local t = v:nElement() > 0 and v:contiguous():view(-1):totable() or {}
   for i, w in ipairs(t) do t[i] = w ~= w and 'nan' or string.format('%.17g', w) end
   return '{' .. table.concat(t, ' ') .. '}'
end
local results = {(function() CODE end)()}
for i = 1, #results do results[i] = show(results[i]) end
return '--> ' .. table.concat(results, ' ')
"""


@pytest.mark.parametrize("runtime", ["luajit21", "lua51"])
def test_corners_give_what_torch7_gives(runtime: str) -> None:
    bridge = LuaBridge(runtime=runtime)
    assert {code: bridge.execute(SHOW.replace("CODE", code)) for code in CASES} == CASES
