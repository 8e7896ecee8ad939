-- bit32: the bits of 32-bit numbers, as Lua 5.2 has them.
local bit32 = {}
local WHOLE = 2 ^ 32

local function by_bits(keep, empty)
   return function(...)
      local result = ((...) or empty) % WHOLE
      for i = 2, select('#', ...) do
         local a, b, sum, place = result, select(i, ...) % WHOLE, 0, 1
         while place < WHOLE do
            local x, y = a % 2, b % 2
            if keep(x, y) then sum = sum + place end
            a, b, place = (a - x) / 2, (b - y) / 2, place * 2
         end
         result = sum
      end
      return result
   end
end
local ok, bit = pcall(require, 'bit')
local function native(f) return function(...) return f(...) % WHOLE end end
if ok then
   bit32.band = function(...) return select('#', ...) == 0 and WHOLE - 1 or bit.band(...) % WHOLE end
   bit32.bor, bit32.bxor = native(function(...) return bit.bor(0, ...) end), native(function(...) return bit.bxor(0, ...) end)
else
   bit32.band = by_bits(function(x, y) return x + y == 2 end, WHOLE - 1)
   bit32.bor = by_bits(function(x, y) return x + y > 0 end, 0)
   bit32.bxor = by_bits(function(x, y) return x ~= y end, 0)
end
function bit32.bnot(x) return WHOLE - 1 - x % WHOLE end
function bit32.btest(...) return bit32.band(...) ~= 0 end
function bit32.lshift(x, n)
   if n < 0 then return bit32.rshift(x, -n) end
   return n > 31 and 0 or (x % WHOLE * 2 ^ n) % WHOLE
end
function bit32.rshift(x, n)
   if n < 0 then return bit32.lshift(x, -n) end
   return n > 31 and 0 or math.floor(x % WHOLE / 2 ^ n)
end
function bit32.arshift(x, n)
   x = x % WHOLE
   if n <= 0 or x < WHOLE / 2 then return bit32.rshift(x, n) end
   return n > 31 and WHOLE - 1 or bit32.rshift(x, n) + WHOLE - 2 ^ (32 - n)
end
function bit32.lrotate(x, n) return bit32.bor(bit32.lshift(x, n % 32), bit32.rshift(x, 32 - n % 32)) end
function bit32.rrotate(x, n) return bit32.lrotate(x, -n) end
function bit32.extract(x, first, width) return bit32.rshift(x, first) % 2 ^ (width or 1) end
function bit32.replace(x, value, first, width)
   local size = 2 ^ (width or 1)
   local old = bit32.extract(x, first, width)
   return (x % WHOLE + (value % size - old) * 2 ^ first) % WHOLE
end
return bit32
