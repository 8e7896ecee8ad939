-- Tensors and storages, userdata whose data belong to Python, and the conversion of Python functions to Lua functions.
local bridge, py = ...
local rawsetmt = bridge.setmetatable
local type, select, error, tonumber, pairs, ipairs, unpack = type, select, error, tonumber, pairs, ipairs, unpack
local newproxy, rawget, rawequal = newproxy, rawget, rawequal
local metatables = bridge.metatables

-- userdata (or cdata) -> Python object
local handles = setmetatable({}, {__mode = 'k'})
bridge.handles = handles

local reserve = bridge.reserve
local function wrap(handle, tname)
   reserve()
   local object = newproxy(false)
   handles[object] = handle
   return rawsetmt(object, metatables[tname])
end
bridge.wrap = wrap

local argument
local function list(values)
   reserve()
   local n = #values
   if n <= 100 then
      local converted = {}
      for i = 1, n do converted[i] = argument(values[i]) end
      return py.list(unpack(converted, 1, n))
   end
   local result = py.list()
   for i = 1, n do py.append(result, argument(values[i])) end
   return result
end

function argument(value)
   if type(value) == 'number' then return value == 0 and 1 / value < 0 and py.negative_zero or value end
   local handle = handles[value]
   if handle ~= nil then return handle end
   if type(value) == 'table' then return list(value) end
   return value
end
bridge.argument = argument
bridge.handle = function(value) return handles[value] end

-- several results: pairs of an object and its class name, or of nil and the position of an argument
local function several(args, v, t, ...)
   if t == nil then return end
   return type(t) == 'string' and wrap(v, t) or args[t], several(args, ...)
end

-- Codes of results from Python: 0 a plain value | k the k-th argument | -1 an error | -2 an object | -3 no result | -4 several results
local function finish(level, args, code, v, t, ...)
   if code == 0 then return v
   elseif code == -2 then return wrap(v, t)
   elseif code == -1 then error(v, level)
   elseif code == -3 then return
   elseif code == -4 then return several(args, v, t, ...)
   end
   return args[code]
end

-- number of changes that Python made to geometries, which Lua caches with LuaJIT (ffi/state.lua)
local changes = bridge.ffi and bridge.ffi.cast('double *', py.changes) or {[0] = 0}

local function refresh_if_changed(before, args, ...)
   if changes[0] ~= before then bridge.refresh(unpack(args, 1, args.n)) end
   return ...
end

local CALLER = jit and 2 or 4  -- the level of the caller below two tail calls, which LuaJIT does not count
local function bind_many(f, ...)
   reserve()
   local args, converted = {n = select('#', ...), ...}, {}
   for i = 1, args.n do converted[i] = argument(args[i]) end
   return finish(CALLER, args, refresh_if_changed(changes[0], args, f(unpack(converted, 1, args.n))))
end

-- A Lua function that calls a Python function. Errors are reported at its caller, so wrappers must use a tail call (return f(...)).
local function bind(f)
   return function(...)
      reserve()
      local n = select('#', ...)
      local a, b, c, d = ...
      local before, code, v, t, w, u, x, y
      if n == 1 then
         local p = argument(a)
         before = changes[0]
         code, v, t, w, u, x, y = f(p)
      elseif n == 2 then
         local p, q = argument(a), argument(b)
         before = changes[0]
         code, v, t, w, u, x, y = f(p, q)
      elseif n == 3 then
         local p, q, r = argument(a), argument(b), argument(c)
         before = changes[0]
         code, v, t, w, u, x, y = f(p, q, r)
      elseif n == 4 then
         local p, q, r, s = argument(a), argument(b), argument(c), argument(d)
         before = changes[0]
         code, v, t, w, u, x, y = f(p, q, r, s)
      else
         return bind_many(f, ...)
      end
      if changes[0] ~= before then bridge.refresh(a, b, c, d) end
      if code == 1 then return a
      elseif code == -2 then return wrap(v, t)
      elseif code == 0 then return v
      elseif code == -1 then error(v, 2)
      elseif code == -3 then return
      elseif code == 2 then return b
      elseif code == 3 then return c
      elseif code == 4 then return d
      end
      return finish(3, {a, b, c, d}, code, v, t, w, u, x, y)
   end
end
bridge.bind = bind

function bridge.same(a, b)
   local x, y = handles[a], handles[b]
   return x ~= nil and y ~= nil and py.same(x, y)
end

function bridge.pointer(object)
   local handle = handles[object]
   if handle ~= nil then return py.pointer(handle) end
   if type(object) == 'cdata' then  -- the value of a C pointer
      return tonumber(bridge.ffi.cast('intptr_t', bridge.ffi.cast('void*', object)))
   end
   return bridge.address(object)
end

-- classes -------------------------------------------------------------------------------------------------------
local ELEMENT_TYPES = {'Byte', 'Char', 'Short', 'Int', 'Long', 'Half', 'Float', 'Double'}
bridge.element_types = ELEMENT_TYPES

-- {{1, 2}, {3, 4}} -> flat list of numbers and sizes
local function flatten(value)
   local sizes, at = {}, value
   while type(at) == 'table' and #at > 0 do
      sizes[#sizes + 1] = #at
      at = at[1]
   end
   local flat = {}
   local function visit(v, depth)
      if depth > #sizes then
         if type(v) ~= 'number' and not (type(v) == 'string' and tonumber(v)) then error('invalid element (not a number)', 0) end
         flat[#flat + 1] = argument(v)
         return
      end
      if type(v) ~= 'table' then error('invalid tensor definition', 0) end
      if #v ~= sizes[depth] then error('invalid tensor sizes', 0) end
      for i = 1, #v do visit(v[i], depth + 1) end
   end
   if #sizes > 0 then visit(value, 1) end
   return flat, sizes
end

local function spec(index)
   -- encode the entries of t[{...}] as flat numbers: 1, position | 2, first, last
   local out, n = {}, 0
   for i = 1, #index do
      local entry = index[i]
      if tonumber(entry) and type(entry) ~= 'table' then
         out[n + 1], out[n + 2] = 1, tonumber(entry)
         n = n + 2
      elseif type(entry) == 'table' then
         out[n + 1], out[n + 2], out[n + 3] = 2, tonumber(entry[1]), tonumber(entry[2])
         n = n + 3
      else
         break
      end
   end
   return out, n
end

local function define_tensor(ty)
   local tname = 'torch.' .. ty .. 'Tensor'
   local create, from_table = bind(py.new_tensor(ty)), py.tensor_of_numbers(ty)
   local function new(...)
      local first = ...
      if type(first) == 'table' then
         local flat, sizes = flatten(first)
         return finish(2, {}, from_table(flat, sizes))
      end
      return create(...)
   end
   local mt = torch.newmetatable(tname, nil, new, nil, function() return create() end)
   local get_number, put_number, get_object, put_object = py.get_number, py.put_number, bind(py.get_object), py.put_object
   local get_table, put_table = py.get_table, py.put_table

   mt.__index__ = function(self, key)
      local kind = type(key)
      if kind == 'number' then
         local code, v, t = get_number(handles[self], key)
         if code == 0 then return v, true end
         if code == -2 then return wrap(v, t), true end
         error(v, 3)
      elseif kind == 'string' then
         if tonumber(key) then return finish(3, {}, get_number(handles[self], tonumber(key))), true end
         return false
      elseif kind == 'table' then
         local numbers, n = spec(key)
         return finish(3, {}, get_table(handles[self], unpack(numbers, 1, n))), true
      elseif handles[key] ~= nil then
         local value = get_object(self, key)
         if value ~= nil then return value, true end
      end
      return false
   end

   mt.__newindex__ = function(self, key, value)
      local kind = type(key)
      value = argument(value)
      if kind == 'number' or (kind == 'string' and tonumber(key)) then
         local code, message = put_number(handles[self], tonumber(key), value)
         if code == -1 then error(message, 3) end
         return true
      elseif kind == 'table' then
         local numbers, n = spec(key)
         local code, message = put_table(handles[self], value, unpack(numbers, 1, n))
         if code == -1 then error(message, 3) end
         return true
      elseif handles[key] ~= nil then
         local code, result = put_object(handles[self], handles[key], value)
         if code == -1 then error(result, 3) end
         return result
      end
      return false
   end

   for name, f in pairs(py.methods(ty)) do mt[name] = bind(f) end
   mt.torch = {}
   for name, f in pairs(py.functions_of(ty)) do mt.torch[name] = bind(f) end
   return mt
end

local function define_storage(ty)
   local new = bind(py.new_storage(ty))
   local mt = torch.newmetatable('torch.' .. ty .. 'Storage', nil, new, nil, function() return new() end)
   local get, put = py.storage_get, py.storage_put
   mt.__index__ = function(self, key)
      if tonumber(key) and type(key) ~= 'table' then
         local code, v = get(handles[self], tonumber(key))
         if code == 0 then return v, true end
         error(v, 3)
      end
      return false
   end
   mt.__newindex__ = function(self, key, value)
      if tonumber(key) and type(key) ~= 'table' then
         local code, message = put(handles[self], tonumber(key), argument(value))
         if code == -1 then error(message, 3) end
         return true
      end
      return false
   end
   for name, f in pairs(py.storage_methods(ty)) do mt[name] = bind(f) end
   mt.totable = function(self) return py.totable(handles[self]) end
   return mt
end

for _, ty in ipairs(ELEMENT_TYPES) do
   define_storage(ty)
   define_tensor(ty)
end

-- The default type is the class whose constructor is torch.Tensor, which scripts may also assign.
local constructor, class, default_type
local function update_default_type()
   constructor = torch.Tensor
   local mt = type(constructor) == 'table' and bridge.getmetatable(constructor)
   class = mt and bridge.names[rawget(mt, '__index')] or nil
   default_type = class and class:match '^torch%.(%a+)Tensor$'
   py.set_default_type(default_type)
end
-- the element type, such as 'Float', and the class; nil if torch.Tensor is not a constructor of tensors
function bridge.default_type()
   if not rawequal(torch.Tensor, constructor) then update_default_type() end
   return default_type, class
end
local refresh_default_type = bridge.default_type
for name, f in pairs(py.functions()) do
   local call = bind(f)
   torch[name] = function(...)
      refresh_default_type()
      return call(...)
   end
end

-- random numbers ------------------------------------------------------------------------------------------------
torch.newmetatable('torch.Generator', nil, bind(py.new_generator), nil, bind(py.new_generator))
torch._gen = wrap(py.default_generator, 'torch.Generator')
for _, name in ipairs {'manualSeed', 'seed', 'initialSeed', 'getRNGState', 'setRNGState'} do torch[name] = bind(py[name]) end

function torch.multinomialAliasSetup(probabilities, state)
   state = torch.type(state) == 'table' and state or {}
   if state[1] then
      state[1], state[2] = torch.multinomialAliasSetup_(probabilities, state[1], state[2])
   else
      state[1], state[2] = torch.multinomialAliasSetup_(probabilities)
   end
   return state
end
function torch.multinomialAlias(output, state)
   torch.DoubleTensor.multinomialAlias_(output, state[1], state[2])
   return output
end
