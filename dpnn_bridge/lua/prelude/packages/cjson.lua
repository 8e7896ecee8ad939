-- cjson: conversion between Lua tables and JSON with Python's json.
local _, py = ...
local null = newproxy(false)

-- settings: name -> {default, check of a new value}
local function integer_between(low, high)
   return function(value)
      if type(value) == 'number' and value % 1 == 0 and value >= low and value <= high then return value end
      error(('bad argument #1 (expected integer between %d and %d)'):format(low, high), 4)
   end
end
local function one_of(values)
   return function(value)
      local setting = values[value]
      if setting == nil then error("bad argument #1 (invalid option '" .. tostring(value) .. "')", 4) end
      return setting
   end
end
local MAX_INTEGER = 2 ^ 31 - 1
local SWITCH = {[true] = true, [false] = false, on = true, off = false}
local SETTINGS = {
   encode_max_depth = {1000, integer_between(1, MAX_INTEGER)}, decode_max_depth = {1000, integer_between(1, MAX_INTEGER)},
   encode_number_precision = {14, integer_between(1, 16)}, encode_keep_buffer = {true, one_of(SWITCH)},
   encode_invalid_numbers = {false, one_of {[true] = true, [false] = false, on = true, off = false, null = 'null'}},
   decode_invalid_numbers = {true, one_of(SWITCH)},
   sparse_convert = {false, one_of(SWITCH)}, sparse_ratio = {2, integer_between(0, MAX_INTEGER)}, sparse_safe = {10, integer_between(0, MAX_INTEGER)},
}

local function fail(what, why) error('Cannot serialise ' .. what .. ': ' .. why, 0) end

-- the length of an array; nil for an object
local function array_length(value, settings)
   local count, most = 0, 0
   for key in pairs(value) do
      if type(key) ~= 'number' or key < 1 or key % 1 ~= 0 then return nil end
      count, most = count + 1, math.max(most, key)
   end
   if settings.sparse_ratio > 0 and most > settings.sparse_safe and most > count * settings.sparse_ratio then
      if settings.sparse_convert then return nil end
      fail('table', 'excessively sparse array')
   end
   return most
end

local function number_text(value, settings)
   if value - value == 0 then return (('%.' .. settings.encode_number_precision .. 'g'):format(value)) end
   if not settings.encode_invalid_numbers then fail('number', 'must not be NaN or Inf') end
   if settings.encode_invalid_numbers == 'null' then return 'null' end
   return value ~= value and 'NaN' or value > 0 and 'Infinity' or '-Infinity'
end

local function encode(value, depth, settings)
   local lua_type = type(value)
   if value == null or value == nil then return 'null' end
   if lua_type == 'boolean' then return tostring(value) end
   if lua_type == 'string' then return py.json.quote(value) end
   if lua_type == 'number' then return number_text(value, settings) end
   if lua_type ~= 'table' then fail(lua_type, 'type not supported') end
   if depth > settings.encode_max_depth then error('Cannot serialise, excessive depth (' .. depth .. ')', 0) end
   local parts, length = {}, array_length(value, settings)
   if length and length > 0 then
      for i = 1, length do parts[i] = encode(rawget(value, i), depth + 1, settings) end
      return '[' .. table.concat(parts, ',') .. ']'
   end
   for key, inner in pairs(value) do
      if type(key) ~= 'string' and type(key) ~= 'number' then fail(type(key), 'table key must be a number or string') end
      local name = type(key) == 'number' and '"' .. number_text(key, settings) .. '"' or py.json.quote(key)
      parts[#parts + 1] = name .. ':' .. encode(inner, depth + 1, settings)
   end
   return '{' .. table.concat(parts, ',') .. '}'
end

local function new()
   local settings = {}
   for name, setting in pairs(SETTINGS) do settings[name] = setting[1] end
   local function configured(name, value)
      if value ~= nil then settings[name] = SETTINGS[name][2](value) end
      return settings[name]
   end
   local cjson = {_NAME = 'cjson', _VERSION = '2.1.0', null = null, new = new}
   function cjson.encode(...)
      if select('#', ...) ~= 1 then error("bad argument #1 to 'encode' (expected 1 argument)", 2) end
      return encode((...), 1, settings)
   end
   function cjson.decode(...)
      local text = ...
      if select('#', ...) ~= 1 or type(text) ~= 'string' and type(text) ~= 'number' then
         error("bad argument #1 to 'decode' (expected 1 argument, a string)", 2)
      end
      local value, message = py.json.decode(tostring(text), null, settings.decode_max_depth, settings.decode_invalid_numbers)
      if message then error(message, 2) end
      return value
   end
   function cjson.encode_sparse_array(convert, ratio, safe)
      return configured('sparse_convert', convert), configured('sparse_ratio', ratio), configured('sparse_safe', safe)
   end
   for name in pairs(SETTINGS) do
      if not name:find('^sparse') then cjson[name] = function(value) return configured(name, value) end end
   end
   return cjson
end
return new()
