-- cjson: Lua tables as JSON and back, over Python's json.
local bridge, py = ...
local cjson = {_NAME = 'cjson', _VERSION = '2.1.0', null = newproxy(false)}
local DEEPEST = 1000
local settings = {sparse_ratio = 2, sparse_safe = 10}

-- the length of an array, or nothing for an object
local function array_length(value)
   local count, most = 0, 0
   for key in pairs(value) do
      if type(key) ~= 'number' or key < 1 or key % 1 ~= 0 then return nil end
      count, most = count + 1, math.max(most, key)
   end
   if most > settings.sparse_safe and most > count * settings.sparse_ratio then error('Cannot serialise table: excessively sparse array', 0) end
   return most
end

local function encode(value, depth)
   local kind = type(value)
   if value == cjson.null or value == nil then return 'null' end
   if kind == 'boolean' then return tostring(value) end
   if kind == 'string' then return py.json.quote(value) end
   if kind == 'number' then
      if value ~= value or value == math.huge or value == -math.huge then error('Cannot serialise number: must not be NaN or Inf', 0) end
      return (('%.14g'):format(value))
   end
   if kind ~= 'table' then error('Cannot serialise ' .. kind .. ': type not supported', 0) end
   if depth > DEEPEST then error('Cannot serialise, excessive depth (' .. depth .. ')', 0) end
   local parts, length = {}, array_length(value)
   if length and length > 0 then
      for i = 1, length do parts[i] = encode(value[i], depth + 1) end
      return '[' .. table.concat(parts, ',') .. ']'
   end
   for key, inner in pairs(value) do
      if type(key) ~= 'string' and type(key) ~= 'number' then error('Cannot serialise table: table key must be a number or string', 0) end
      parts[#parts + 1] = py.json.quote(tostring(key)) .. ':' .. encode(inner, depth + 1)
   end
   return '{' .. table.concat(parts, ',') .. '}'
end

function cjson.encode(value) return encode(value, 1) end
function cjson.decode(text)
   local value, message = py.json.decode(text, cjson.null)
   if message then error(message, 2) end
   return value
end
function cjson.new() return cjson end
function cjson.encode_sparse_array(_, ratio, safe)
   settings.sparse_ratio, settings.sparse_safe = ratio or settings.sparse_ratio, safe or settings.sparse_safe
end
for _, name in ipairs {'encode_max_depth', 'decode_max_depth', 'encode_number_precision', 'encode_keep_buffer',
                       'encode_invalid_numbers', 'decode_invalid_numbers'} do
   cjson[name] = function() end
end
return cjson
