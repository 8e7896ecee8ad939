-- Numbers in text files, formatted and parsed by the functions of C that Torch7 uses.
local bridge = ...
local ffi, native = bridge.ffi, bridge.native
local fits, floor, tonumber = native.fits, math.floor, tonumber
local text = {parse = {}, print = {}}
native.text = text

-- under other names, because a script may declare these functions with other types
ffi.cdef [[
int dpnn_bridge_snprintf(uint8_t *text, size_t size, const char *format, ...) __asm__("snprintf");
double dpnn_bridge_strtod(const uint8_t *text, uint8_t **end) __asm__("strtod");
float dpnn_bridge_strtof(const uint8_t *text, uint8_t **end) __asm__("strtof");
]]
local C = ffi.C
local found, print_number = pcall(function() return C.dpnn_bridge_strtod and C.dpnn_bridge_strtof and C.dpnn_bridge_snprintf end)
local LONGEST = 64  -- maximum number of bytes of a number
text.LONGEST = LONGEST
local EXACT = 2 ^ 53  -- integers up to this one are exact as numbers of Lua

-- whether C can be used: a program may have set a locale with a decimal comma
local probe = ffi.new 'uint8_t[8]'
function text.available()
   if not found then return false end
   print_number(probe, 8, '%.1f', 0.5)
   return probe[1] == 46
end

-- print[ty](p, cell, i) writes element i of a block, cell.block, to p and returns the number of bytes
local function print_integer(p, cell, i)
   local value, at = tonumber(cell.block.data[i]), 0
   if value > EXACT or value < -EXACT then return print_number(p, LONGEST, '%lld', cell.block.data[i]) end
   if value < 0 then
      p[0] = 45
      value, at = -value, 1
   end
   local stop, bound = at, 10
   while value >= bound do stop, bound = stop + 1, 10 * bound end
   for k = stop, at, -1 do
      local rest = floor(value / 10)
      p[k] = 48 + (value - 10 * rest)
      value = rest
   end
   return stop + 1
end
local function print_real(ty, format)
   local get = native.get[ty]
   return function(p, cell, i) return print_number(p, LONGEST, format, get(cell, i)) end
end

local function is_digit(c) return c >= 48 and c <= 57 end
local function skip_space(p, at)
   while p[at] == 32 or p[at] >= 9 and p[at] <= 13 do at = at + 1 end
   return at
end
local function skip_sign(p, at) return (p[at] == 43 or p[at] == 45) and at + 1 or at end

-- parse[ty](p, at, data, i) sets data[i] to the number at p + at and returns the position after it; nil if Python must parse it.
-- The text ends with a 0 byte.
local function parse_integer(ty)
   return function(p, at, data, i)
      local start = skip_space(p, at)
      local first = skip_sign(p, start)
      local value, stop = 0, first
      while is_digit(p[stop]) do
         value = 10 * value + (p[stop] - 48)
         stop = stop + 1
      end
      if p[start] == 45 then value = -value end
      if stop == first or stop - first > 15 or not (ty == 'Long' or fits(ty, value)) then return nil end
      data[i] = value
      return stop
   end
end
local stop = ffi.new 'uint8_t *[1]'
local function parse_real(read)
   return function(p, at, data, i)
      local start = skip_space(p, at)
      local first = skip_sign(p, start)
      local digit = p[first] == 46 and first + 1 or first
      if not is_digit(p[digit]) or p[first] == 48 and (p[first + 1] == 88 or p[first + 1] == 120) then return nil end
      data[i] = read(p + start, stop)
      return start + tonumber(stop[0] - (p + start))
   end
end

if found then
   for _, ty in ipairs {'Short', 'Int', 'Long'} do text.print[ty], text.parse[ty] = print_integer, parse_integer(ty) end
   text.print.Double, text.parse.Double = print_real('Double', '%.17g'), parse_real(C.dpnn_bridge_strtod)
   text.print.Float, text.parse.Float = print_real('Float', '%.9g'), parse_real(C.dpnn_bridge_strtof)
end
