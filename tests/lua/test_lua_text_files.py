"""Numbers and objects in text files (``ascii``): the bytes of Torch7, and what both runtimes read."""

from __future__ import annotations

import pytest

pytest.importorskip("lupa")

from dpnn_bridge.lua import LuaBridge

BRIDGES = {runtime: LuaBridge(runtime=runtime) for runtime in ("luajit21", "lua51")}

#: storages and how Torch7 writes them
STORAGES = {
    "Double{1 / 3, -0.0, 1e300, math.huge, -math.huge, 2 ^ 60 + 512, 2 ^ -1074, 0.1, -12345678.5, 1e15}": (
        "0.33333333333333331 -0 1.0000000000000001e+300 inf -inf 1.1529215046068475e+18 4.9406564584124654e-324 "
        "0.10000000000000001 -12345678.5 1000000000000000"
    ),
    "Float{1 / 3, 1e-45, 3.4028235e38, 16777217, 0.1, -2.5}": (
        "0.333333343 1.40129846e-45 3.40282347e+38 16777216 0.100000001 -2.5"
    ),
    "Long{2 ^ 62, -2 ^ 63, -1, 0, 9007199254740993, 10, 99, 100, 999999999999999}": (
        "4611686018427387904 -9223372036854775808 -1 0 9007199254740992 10 99 100 999999999999999"
    ),
    "Int{-2147483648, 2147483647, 0}": "-2147483648 2147483647 0",
    "Short{-32768, 32767}": "-32768 32767",
    "Byte{0, 32, 255}": "\0 \xff",
    "Char{-1, 10, 65}": "\xff\nA",
}


@pytest.mark.parametrize("runtime", BRIDGES)
@pytest.mark.parametrize("storage", STORAGES)
def test_text_of_numbers_is_that_of_torch7(storage: str, runtime: str) -> None:
    name, _, values = storage.partition("{")
    code = f"""
        local text = torch.serialize({{torch.{name}Storage{{{values}, 'a\\nb', ''}}, 'ascii')
        local read = torch.deserialize(text, 'ascii')
        assert(torch.serialize(read, 'ascii') == text and read[2] == 'a\\nb' and read[3] == '')
        return text
    """
    count, head = values.count(",") + 1, f"torch.{name}Storage"
    expected = f"3\n1\n3\n1\n1\n4\n2\n3\nV 1\n{len(head)}\n{head}\n{count}\n{STORAGES[storage]}\n"
    expected += "1\n2\n2\n3\na\nb\n1\n3\n2\n0\n"
    assert BRIDGES[runtime].execute(code) == expected


@pytest.mark.parametrize("kind", ["Double", "Float", "Long", "Int", "Short", "Byte", "Char"])
def test_both_runtimes_read_the_same(kind: str) -> None:
    """Any layout of numbers, and what is none; also where a number is in two windows."""
    texts = [
        "7\n8 9\n", " \n\t 7  8\n\n9", "7,8", "", "x", "-", "+5 -0 1e3 1e", ".5 5. -.5e-2 . 1", "0x10 1",
        "inf -Infinity nan -nan",
        "123456789012345678 99999999999999999999 1", "1_0 2", "300 -300 70000 3e9", "7\n" * 40, "1" * 70 + " 2",
        " " * 100 + "3 4", "abc\n5\n",
    ]  # fmt: skip
    code = f"""
        local out = {{}}
        for _, text in ipairs {{...}} do
           for count = 1, 3 do
              local file = torch.MemoryFile(torch.CharStorage():string(text .. '\\0'), 'r'):ascii():quiet()
              for _ = 1, 3 do
                 local value = count == 1 and file:read{kind}() or file:read{kind}(count)
                 out[#out + 1] = type(value) == 'number' and tostring(value):gsub('-nan', 'nan') or torch.type(value)
                 if type(value) == 'userdata' then
                    for i = 1, value:size() do out[#out + 1] = tostring(value[i]):gsub('-nan', 'nan') end
                 end
                 out[#out + 1] = file:position()
                 out[#out + 1] = file:hasError()
                 file:clearError()
              end
           end
        end
        return out
    """
    padded = ["z" * (65536 - n) for n in (0, 1, 2, 7)]
    first, second = (bridge.execute(code, *texts, *padded) for bridge in BRIDGES.values())
    assert first == second


@pytest.mark.parametrize("runtime", BRIDGES)
def test_numbers_in_two_windows(runtime: str) -> None:
    code = """
        local values = torch.range(1, 20000):div(7)
        for shift = 0, 20 do
           local text = torch.serialize({('x'):rep(shift), values}, 'ascii')
           assert(torch.deserialize(text, 'ascii')[2]:equal(values), shift)
           if shift == 2 and not jit then return true end
        end
        return true
    """
    assert BRIDGES[runtime].execute(code)
