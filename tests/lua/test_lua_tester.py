"""torch.Tester; the messages are those that Torch7 printed."""

from __future__ import annotations

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

CODE = """
local tester, messages = torch.Tester(), {}
function tester:_assert_sub(condition, message)
   messages[#messages + 1] = tostring(condition) .. ' ' .. message
end
local nested = {{1, {2, 3}}, {1, {2, 4}}}
for _, pair in ipairs {{1, 2}, {1 / 0, 1 / 0}, {'a', 'b'}, {1, '1'}, nested, {{a = 1}, {}}, {{}, {b = 2}}} do
   tester:eq(pair[1], pair[2], 0.5)
end
tester:ne({1}, {1})
return messages
"""


def test_comparisons_say_where_values_differ() -> None:
    assert list(LuaBridge().execute(CODE)) == [
        "false EQ failed: 1 ~= 2 with tolerance=0.5",
        "false EQ failed: inf ~= inf with tolerance=0.5",
        "false EQ failed: a (string) ~= b (string)",
        "false EQ failed: values have different types (first: number, second: string)",
        "false At table location 2.2: EQ failed: 3 ~= 4 with tolerance=0.5",
        "false Entry a missing in second table (is 1 in first)",
        "false Entry b missing in first table (is 2 in second)",
        "false The tables are equal",
    ]
