-- Methods of tensors that are written in Lua, C pointers to their data, and the default tensor type.
local bridge, py = ...
local type, error, pairs, ipairs, tonumber, unpack = type, error, pairs, ipairs, tonumber, unpack
local handles, metatables, typename = bridge.handles, bridge.metatables, bridge.typename
local ELEMENT_TYPES = bridge.element_types

local Tensor = {}
local function check_tensor(value, n, tname)
   local actual = typename(value)
   if not actual or not actual:find('Tensor$') or (tname and actual ~= tname) then
      error(string.format('bad argument #%d (%s expected, got %s)', n, tname or 'tensor', actual or type(value)), 3)
   end
end

local function call_or_fail(f, first, ...)
   if first == nil then error('the storage has become smaller than the tensor', 0) end
   return f(first, ...)
end
-- call f with the elements of one or more tensors; each result replaces the element of the first tensor immediately
local function visit(tensors, f)
   local visited, strict, count = {}, false, tensors[1]:nElement()  -- strict: see ffi/apply.lua
   for i, t in ipairs(tensors) do
      visited[i] = handles[t]
      strict = strict or not t:isContiguous()
      if i > 1 and t:nElement() ~= count then error('size mismatch', 3) end
   end
   if count > 0 and type(f) ~= 'function' then error('bad argument (function expected, got ' .. type(f) .. ')', 3) end
   local step, value = py.visitor(unpack(visited)), nil
   for _ = 1, count do
      value = call_or_fail(f, step(value))
      if value == false and not strict then value = nil end
      if value ~= nil then
         if strict then value = tonumber(value) elseif value == true then value = 1 end
         if type(value) ~= 'number' then error('given function should return a number or nil', 3) end
         value = bridge.argument(value)
      end
   end
   if value ~= nil then step(value) end
   return tensors[1]
end

function Tensor.apply(self, f) return visit({self}, f) end
function Tensor.map(self, a, f) check_tensor(a, 1, self:type()); return visit({self, a}, f) end
function Tensor.map2(self, a, b, f)
   check_tensor(a, 1, self:type()); check_tensor(b, 2, self:type())
   return visit({self, a, b}, f)
end

function Tensor.totable(self) return py.totable(handles[self]) end
function Tensor.real(self) return self:type(torch.getdefaulttensortype()) end
function Tensor.__tostring__(self) return py.print_tensor(handles[self]) end

function Tensor.split(result, tensor, count, dim)
   if type(result) ~= 'table' then
      result, tensor, count, dim = {}, result, tensor, count
   else
      for k in pairs(result) do result[k] = nil end
   end
   dim = dim or 1
   local first, size = 1, tensor:size(dim)
   while first <= size do
      result[#result + 1] = tensor:narrow(dim, first, math.min(count, size - first + 1))
      first = first + count
   end
   return result
end

function Tensor.chunk(result, tensor, count, dim)
   if type(result) ~= 'table' then result, tensor, count, dim = {}, result, tensor, count end
   dim = dim or 1
   return Tensor.split(result, tensor, math.ceil(tensor:size(dim) / count), dim)
end

-- C pointers to the data ----------------------------------------------------------------------------------------
local ffi = bridge.ffi
local c_types = {
   Byte = 'unsigned char', Char = 'char', Short = 'short', Int = 'int', Long = 'long', Half = 'unsigned short',
   Float = 'float', Double = 'double',
}
if ffi then
   local kept_alive = setmetatable({}, {__mode = 'k'})  -- cdata -> tensor or storage that it points to
   local pointer = {}
   for ty, name in pairs(c_types) do pointer['torch.' .. ty .. 'Tensor'] = ffi.typeof(name .. '*') end

   function Tensor.data(self)
      local S = bridge.native.states[self]
      local block = S and S.block
      if block then block.pinned = true end
      -- memory that Lua allocated moves when Python first needs it, so then Python returns the address
      local address = block and block.handle and block.data + S.offset or py.address(handles[self])
      if not address then return nil end
      local data = ffi.cast(pointer[typename(self)], address)
      kept_alive[data] = self
      return data
   end

   for _, ty in ipairs(ELEMENT_TYPES) do
      local c_pointer = ffi.typeof(c_types[ty] .. '*')
      local mt = metatables['torch.' .. ty .. 'Storage']
      function mt.data(self)
         local data = ffi.cast(c_pointer, py.address(handles[self]) or 0)
         kept_alive[data] = self
         return data
      end
      function mt.cdata(self) return self end
   end
   function torch.data(object, as_number)
      if not object then return nil end
      local data = object:data()
      return as_number and ffi.cast('intptr_t', data) or data
   end
else
   -- without LuaJIT: a table that reads and writes like the C array
   function Tensor.data(self)
      local flat, offset = self:storage(), self:storageOffset()
      return flat and setmetatable({}, {
         __index = function(_, i) return flat[offset + i] end,
         __newindex = function(_, i, value) flat[offset + i] = value end,
      })
   end
   function Tensor.cdata(self) return self end
   for _, ty in ipairs(ELEMENT_TYPES) do
      local mt = metatables['torch.' .. ty .. 'Storage']
      function mt.data(self)
         return setmetatable({}, {
            __index = function(_, i) return self[i + 1] end,
            __newindex = function(_, i, value) self[i + 1] = value end,
         })
      end
      function mt.cdata(self) return self end
   end
   function torch.data(object) return object and object:data() or nil end
end
function torch.cdata(object) return object and object:cdata() or nil end

for _, ty in ipairs(ELEMENT_TYPES) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   for name, f in pairs(Tensor) do
      if not (ty == 'Half' and (name == 'apply' or name == 'map' or name == 'map2')) then mt[name] = f end
   end
   metatables['torch.' .. ty .. 'Storage'].__tostring__ = function(self) return py.print_storage(handles[self]) end
end

-- the few computations that Torch7 supports in half precision: they convert to the default type
local Half = metatables['torch.HalfTensor']
function Half.mean(self, dim) return self:real():mean(dim):half() end
function Half.abs(self) return self:real():abs():half() end
function Half.max(self) return self:real():max() end
function Half.add(self, a, b) return self:real():add(a, b:real()):half() end
function Half.reshape(self, a, b) return self:real():reshape(a, b):half() end
function Half.__sub__(a, b) return (a:real() - b:real()):half() end

local double = metatables['torch.DoubleTensor']
for _, name in ipairs {'expand', 'expandAs', 'repeatTensor', 'view', 'viewAs', 'permute'} do
   torch[name] = function(t, ...)
      check_tensor(t, 1)
      return metatables[typename(t)][name](t, ...)
   end
end
for _, name in ipairs {'split', 'chunk'} do torch[name] = Tensor[name] end

function torch.isTensor(object)
   local tname = typename(object)
   return tname ~= nil and tname:find('torch.*Tensor') ~= nil
end
function torch.isStorage(object)
   local tname = typename(object)
   return tname ~= nil and tname:find('torch.*Storage') ~= nil
end
function torch.totable(object)
   if torch.isTensor(object) or torch.isStorage(object) then return object:totable() end
   error('obj must be a Storage or a Tensor', 2)
end

-- default type --------------------------------------------------------------------------------------------------
function torch.setdefaulttensortype(tname)
   if type(tname) ~= 'string' then error('string expected', 2) end
   local constructor = torch.getconstructortable(tname)
   if not constructor then error(string.format('<%s> is not a string describing a torch object', tname), 2) end
   torch.Tensor = constructor  -- as in Torch7, also if the next line raises an error
   torch.Storage = torch.getconstructortable(torch.typename(constructor(1):storage()))
end
function torch.getdefaulttensortype()
   local _, class = bridge.default_type()
   if class then return class end
end
torch.setdefaulttensortype('torch.DoubleTensor')
double.isTensor = torch.isTensor
