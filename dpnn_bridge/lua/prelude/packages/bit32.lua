-- bit32: bitwise operations on 32-bit numbers, as in Lua 5.2.
local bit32 = {}
local TWO_TO_32 = 2 ^ 32

local function by_bits(keep, empty)
   return function(...)
      local result = ((...) or empty) % TWO_TO_32
      for i = 2, select('#', ...) do
         local a, b, sum, weight = result, select(i, ...) % TWO_TO_32, 0, 1
         while weight < TWO_TO_32 do
            local x, y = a % 2, b % 2
            if keep(x, y) then sum = sum + weight end
            a, b, weight = (a - x) / 2, (b - y) / 2, weight * 2
         end
         result = sum
      end
      return result
   end
end
local ok, bit = pcall(require, 'bit')
local function native(f) return function(...) return f(...) % TWO_TO_32 end end
if ok then
   bit32.band = function(...) return select('#', ...) == 0 and TWO_TO_32 - 1 or bit.band(...) % TWO_TO_32 end
   bit32.bor, bit32.bxor = native(function(...) return bit.bor(0, ...) end), native(function(...) return bit.bxor(0, ...) end)
else
   bit32.band = by_bits(function(x, y) return x + y == 2 end, TWO_TO_32 - 1)
   bit32.bor = by_bits(function(x, y) return x + y > 0 end, 0)
   bit32.bxor = by_bits(function(x, y) return x ~= y end, 0)
end
function bit32.bnot(x) return TWO_TO_32 - 1 - x % TWO_TO_32 end
function bit32.btest(...) return bit32.band(...) ~= 0 end
function bit32.lshift(x, n)
   if n < 0 then return bit32.rshift(x, -n) end
   return n > 31 and 0 or (x % TWO_TO_32 * 2 ^ n) % TWO_TO_32
end
function bit32.rshift(x, n)
   if n < 0 then return bit32.lshift(x, -n) end
   return n > 31 and 0 or math.floor(x % TWO_TO_32 / 2 ^ n)
end
function bit32.arshift(x, n)
   x = x % TWO_TO_32
   if n <= 0 or x < TWO_TO_32 / 2 then return bit32.rshift(x, n) end
   return n > 31 and TWO_TO_32 - 1 or bit32.rshift(x, n) + TWO_TO_32 - 2 ^ (32 - n)
end
function bit32.lrotate(x, n) return bit32.bor(bit32.lshift(x, n % 32), bit32.rshift(x, 32 - n % 32)) end
function bit32.rrotate(x, n) return bit32.lrotate(x, -n) end
function bit32.extract(x, first, width) return bit32.rshift(x, first) % 2 ^ (width or 1) end
function bit32.replace(x, value, first, width)
   local size = 2 ^ (width or 1)
   local old = bit32.extract(x, first, width)
   return (x % TWO_TO_32 + (value % size - old) * 2 ^ first) % TWO_TO_32
end
return bit32
