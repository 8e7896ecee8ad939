-- With LuaJIT, Lua keeps the geometry of tensors itself, and reads and writes their memory through ffi: a call that
-- needs no more than that does not ask Python. A state is a table
--
--    {ty=, block=, offset=, n=, count=, dense=, object=, handle=, current=, [2k-1] = size of dimension k, [2k] = its stride}
--
-- with block = {ty=, data=, size=, handle=, memory=}: a typed pointer, elements, and Python's storage object or memory of
-- Lua's own. Python's object of a tensor is made when it is first needed, and follows when Lua has moved the view
-- (`current` is false until then).
local bridge, py = ...
local ffi = bridge.ffi
local rawgetmt, rawsetmt, hold = bridge.getmetatable, bridge.setmetatable, bridge.hold
local handles, metatables = bridge.handles, bridge.metatables
local newproxy, type, rawset, setmetatable = newproxy, type, rawset, setmetatable
local native = {}
bridge.native = native

local SMALL = 65536 -- bytes that Lua allocates itself

-- Every view makes a table: with Lua's own pause, loops over small tensors spend most of their time marking what lives.
-- The largest part of what a program keeps is PyTorch's memory, which does not count here.
collectgarbage('setpause', 400)

local function kind(name, size)
   -- memory lies as PyTorch's does: where its first element lies decides how a library rounds
   local memory = ffi.typeof('struct __attribute__((aligned(64))) { ' .. name .. ' values[?]; }')
   return {name = name, pointer = ffi.typeof(name .. ' *'), size = size, memory = memory}
end
local kinds = {
   Byte = kind('uint8_t', 1), Char = kind('int8_t', 1), Short = kind('int16_t', 2), Int = kind('int32_t', 4),
   Long = kind('int64_t', 8), Half = kind('uint16_t', 2), Float = kind('float', 4), Double = kind('double', 8),
}
native.kinds = kinds

-- A table with weak keys would keep what belongs to a dead key for one collection more: a userdata holds its own state
-- or block, as its environment, and a cdata its tensor's state in `described`.
local states = setmetatable({}, {__mode = 'kv'})   -- userdata, or what cdata() gave -> state
local blocks = setmetatable({}, {__mode = 'v'})    -- Python's number of a block -> block
local storages = setmetatable({}, {__mode = 'kv'}) -- userdata -> block
local described = setmetatable({}, {__mode = 'k'}) -- what cdata() gave -> state
native.states, native.storages = states, storages
local function keep(known, object, value)
   known[object] = value
   hold(object, value)
end
local function keep_state(object, S)
   S.object = object
   keep(states, object, S)
   return S
end

-- count and dense from sizes and strides
local function measure(S)
   local n, count, dense = S.n, 1, true
   for k = 2 * n - 1, 1, -2 do
      local size = S[k]
      if size ~= 1 then
         if S[k + 1] ~= count then dense = false end
         count = count * size
      end
   end
   S.count, S.dense = n > 0 and count or 0, dense
   return S
end
native.measure = measure

local function locate(block)
   local address, size = py.memory(block.handle)
   block.data, block.size = ffi.cast(kinds[block.ty].pointer, address), size
end

-- Lua's block for one of Python's
local function known_block(handle, ty, id)
   local block = blocks[id]
   if not block then
      block = {ty = ty, handle = py.storage_of(handle), id = id}
      blocks[id] = block
      locate(block)
   end
   return block
end

local function fill(S, n, ...)
   S.n = n
   for k = 1, 2 * n do S[k] = (select(k, ...)) end
   return measure(S)
end

local function take(S, handle, ty, id, offset, n, ...)
   if not ty then return nil end
   S.ty, S.offset, S.handle, S.current, S.described = ty, offset, handle, true, nil
   S.block = id and known_block(handle, ty, id) or false
   return fill(S, n, ...)
end

-- the state of a tensor that Python has
local function read(object)
   local handle = handles[object]
   if type(handle) ~= 'userdata' then return nil end
   local S = take({}, handle, py.describe_tensor(handle))
   return S and keep_state(object, S)
end
native.read = read

-- the state of a tensor, of one type if it is given, whose elements are in memory or that has no dimension
function native.state(x, ty)
   local S = type(x) == 'userdata' and (states[x] or read(x))
   return S and (not ty or S.ty == ty) and (S.block or S.n == 0) and S
end

-- the block of a storage that Python has
function native.read_storage(object, ty)
   local handle = handles[object]
   if handle == nil then return nil end
   local block = known_block(handle, ty, py.pointer(handle))
   keep(storages, object, block)
   return block
end

-- a tensor or storage that a call to Python may have moved
local function reload(object)
   local S = states[object]
   if S then
      take(S, S.handle, py.describe_tensor(S.handle))
      if S.block then locate(S.block) end
   elseif type(object) == 'table' then
      for _, value in ipairs(object) do reload(value) end
   elseif type(object) == 'userdata' and handles[object] ~= nil then
      local block = blocks[py.pointer(handles[object])]
      if block then locate(block) end
   end
end
function bridge.refresh(...)
   for i = 1, select('#', ...) do
      local object = select(i, ...)
      if object ~= nil then reload(object) end
   end
end

-- Python code has moved the memory of a block
function bridge.moved(id)
   if blocks[id] then locate(blocks[id]) end
end

-- Python gets a copy of the memory of a block, which is made when one of both is written: Lua asks for the address when it next
-- needs it. False where code has the address from data().
local lent = {__index = function(block, key)
   if key ~= 'data' then return nil end
   locate(block)
   return block.data
end}
function bridge.lend(id)
   local block = blocks[id]
   if block and block.pinned then return false end
   if block then block.data = nil setmetatable(block, lent) end
   return true
end

-- memory of Lua's own ------------------------------------------------------------------------------------------------
local function allocate(ty, count)
   local kind = kinds[ty]
   local memory = kind.memory(count)
   return {ty = ty, data = ffi.cast(kind.pointer, memory), size = count, memory = memory, handle = false}
end

-- a block of so many elements, or nil where Python is to make it
local function new_block(ty, count)
   if count * kinds[ty].size <= SMALL then return allocate(ty, count) end
end
native.new_block = new_block

-- Python's object for a block; what Lua had in memory of its own moves to PyTorch's
local function storage_handle(block)
   if not block then return nil end
   if not block.handle then
      local handle, address = py.adopt(block.ty, block.size, tonumber(ffi.cast('intptr_t', block.data)))
      block.data, block.handle, block.memory, block.id = ffi.cast(kinds[block.ty].pointer, address), handle, nil, py.pointer(handle)
      blocks[block.id] = block
   end
   return block.handle
end

-- more room in a block: what becomes large moves to PyTorch's memory
local function grow(block, count)
   local size = kinds[block.ty].size
   if block.handle or count * size > SMALL then
      py.resize_storage(storage_handle(block), count)
      locate(block)
      return
   end
   local larger = allocate(block.ty, count)
   ffi.copy(larger.data, block.data, block.size * size)
   block.data, block.size, block.memory = larger.data, count, larger.memory
end

-- room for so many elements from the first of a state on
function native.make_room(S, count)
   if not S.block then S.block = allocate(S.ty, 0) end
   if S.offset + count > S.block.size then grow(S.block, S.offset + count) end
end

-- Python's object for what Lua made or moved
local function materialise(object)
   local S = states[object]
   if not S then
      local handle = storage_handle(storages[object])
      if handle then rawset(handles, object, handle) end
      return handle
   end
   if not S.current then
      local storage = storage_handle(S.block)
      if S.handle then
         py.point(S.handle, storage, S.offset, unpack(S, 1, 2 * S.n))
      else
         S.handle = py.tensor_on(S.ty, storage, S.offset, unpack(S, 1, 2 * S.n))
      end
      S.current = true
   end
   rawset(handles, object, S.handle)
   return S.handle
end
rawgetmt(handles).__index = function(_, object)
   local kind = type(object)
   if kind == 'userdata' or kind == 'cdata' then return materialise(object) end
end

-- whether two objects are one; Python's object of a tensor stays the same
local same = bridge.same
local function pointer(S)
   S.pointer = S.pointer or py.pointer(S.handle)
   return S.pointer
end
function bridge.same(a, b)
   local S, T = states[a], states[b]
   if not S or not T then return same(a, b) end
   return S == T or S.handle and T.handle and pointer(S) == pointer(T) or false
end

-- userdata -----------------------------------------------------------------------------------------------------------
local cdata_of = setmetatable({}, {__mode = 'kv'})  -- userdata -> what cdata() gave
native.cdata_of = cdata_of
local class = {}
for ty in pairs(kinds) do class[ty] = metatables['torch.' .. ty .. 'Tensor'] end

-- a new tensor on a state
function native.wrap(S)
   local object = newproxy(false)
   keep_state(object, S)
   return rawsetmt(object, class[S.ty])
end

local storage_class = {}
for ty in pairs(kinds) do storage_class[ty] = metatables['torch.' .. ty .. 'Storage'] end
function native.wrap_storage(block)
   local object = newproxy(false)
   keep(storages, object, block)
   return rawsetmt(object, storage_class[block.ty])
end

-- to be called when a state has got another view
function native.moved(S)
   local object = S.object
   S.current = false
   if S.described then S.described = nil end
   rawset(handles, object, nil)
   local c = cdata_of[object]
   if c then rawset(handles, c, nil) end
end

-- object:cdata(): the C struct of a geometry, made once
ffi.cdef 'typedef struct { long *size; long *stride; int nDimension; ptrdiff_t storageOffset; long values[?]; } dpnn_bridge_tensor;'
local struct = ffi.typeof 'dpnn_bridge_tensor'
local function cdata(self)
   local S = states[self] or read(self)
   local c = S.described and cdata_of[self]
   if not c then
      local n = S.n
      c = struct(2 * n)
      c.size, c.stride, c.nDimension, c.storageOffset = c.values, c.values + n, n, S.offset
      for k = 1, n do c.values[k - 1], c.values[n + k - 1] = S[2 * k - 1], S[2 * k] end
      S.described = true
      states[c], described[c], cdata_of[self] = S, S, c
   end
   return c
end
for _, mt in pairs(class) do mt.cdata = cdata end
