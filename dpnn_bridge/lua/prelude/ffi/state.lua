-- With LuaJIT, Lua caches the geometry of tensors and accesses their memory through ffi, so most calls on small tensors do not
-- call Python. The state of a tensor is a table
--
--    {ty=, block=, offset=, n=, count=, dense=, object=, handle=, current=, described=, pointer=,
--     [2k-1] = size of dimension k, [2k] = its stride}
--
-- with n dimensions, count elements, whether it is contiguous (dense), the userdata (object), Python's object (handle) and its ID
-- (pointer, cached), and whether the result of cdata() is up to date (described).
-- block = {ty=, data=, size=, handle=, id=, memory=, pinned=}: a typed pointer, the number of elements, Python's storage object and
-- its ID or the memory that Lua allocated, and whether other code has the address from data(), so that the memory must not move.
-- Python's object of a tensor is created when it is first needed, and updated when it is needed after Lua has changed the view
-- (until then, `current` is false).
local bridge, py = ...
local ffi = bridge.ffi
local rawgetmt, rawsetmt, keep_alive_with = bridge.getmetatable, bridge.setmetatable, bridge.keep_alive_with
local handles, metatables = bridge.handles, bridge.metatables
local newproxy, type, rawset, setmetatable = newproxy, type, rawset, setmetatable
local native = {}
bridge.native = native

local MAX_BYTES = 65536 -- largest memory that Lua allocates itself

-- Every view creates a table. With Lua's default pause, loops over small tensors would spend most of their time in the garbage
-- collector. Most memory of a program belongs to PyTorch and is not counted here.
collectgarbage('setpause', 400)

local function c_type(name, size)
   -- aligned like PyTorch's memory, because BLAS kernels round differently for other alignments
   local memory = ffi.typeof('struct __attribute__((aligned(64))) { ' .. name .. ' values[?]; }')
   return {name = name, pointer = ffi.typeof(name .. ' *'), size = size, memory = memory}
end
local c_types = {
   Byte = c_type('uint8_t', 1), Char = c_type('int8_t', 1), Short = c_type('int16_t', 2), Int = c_type('int32_t', 4),
   Long = c_type('int64_t', 8), Half = c_type('uint16_t', 2), Float = c_type('float', 4), Double = c_type('double', 8),
}
native.c_types = c_types

-- A table with weak keys only would keep the values of dead keys alive for one more collection. Therefore a userdata keeps its
-- state or block alive as its environment (setfenv, see keep_alive_with), and the result of cdata() its tensor's state through
-- `state_of_cdata`.
local states = setmetatable({}, {__mode = 'kv'})   -- userdata, or result of cdata() -> state
local blocks = setmetatable({}, {__mode = 'v'})    -- Python's ID of a block -> block
local storages = setmetatable({}, {__mode = 'kv'}) -- userdata -> block
local state_of_cdata = setmetatable({}, {__mode = 'k'}) -- result of cdata() -> state
native.states, native.storages = states, storages
local function keep(known, object, value)
   known[object] = value
   keep_alive_with(object, value)
end
local function keep_state(object, S)
   S.object = object
   keep(states, object, S)
   return S
end

-- compute count and dense from sizes and strides
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
   block.data, block.size = ffi.cast(c_types[block.ty].pointer, address), size
end

-- the block in Lua for the block of a handle of Python
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

local function update(S, handle, ty, id, offset, n, ...)
   if not ty then return nil end
   S.ty, S.offset, S.handle, S.current, S.described = ty, offset, handle, true, nil
   S.block = id and known_block(handle, ty, id) or false
   return fill(S, n, ...)
end

-- the state of a tensor that Python created; nil for other objects
local function read(object)
   local handle = handles[object]
   if type(handle) ~= 'userdata' then return nil end
   local S = update({}, handle, py.describe_tensor(handle))
   return S and keep_state(object, S)
end
native.read = read

-- the state of a tensor of type ty (any type if ty is nil) that has memory or no dimensions; nil or false for other values
function native.state(x, ty)
   local S = type(x) == 'userdata' and (states[x] or read(x))
   return S and (not ty or S.ty == ty) and (S.block or S.n == 0) and S
end

-- the block of a storage that Python created
function native.read_storage(object, ty)
   local handle = handles[object]
   if handle == nil then return nil end
   local block = known_block(handle, ty, py.pointer(handle))
   keep(storages, object, block)
   return block
end

-- update the state or block of a tensor or storage after Python may have changed it
local function reload(object)
   local S = states[object]
   if S then
      update(S, S.handle, py.describe_tensor(S.handle))
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

-- called after Python code has moved the memory of a block
function bridge.memory_moved(id)
   if blocks[id] then locate(blocks[id]) end
end

-- Called when Python gets a lazy copy of the memory of a block: Lua asks Python for the address at its next access; Python copies
-- then.
-- Returns false if other code has the address from data().
local address_on_access = {__index = function(block, key)
   if key ~= 'data' then return nil end
   locate(block)
   return block.data
end}
function bridge.prepare_lazy_copy(id)
   local block = blocks[id]
   if block and block.pinned then return false end
   if block then block.data = nil setmetatable(block, address_on_access) end
   return true
end

-- memory that Lua allocates -----------------------------------------------------------------------------------------
local new_memory -- a number with which it is filled instead of 0
function bridge.fill_new_memory(value) new_memory = value ~= 0 and value or nil end

local function allocate(ty, count)
   local c_type = c_types[ty]
   local memory = c_type.memory(count)
   if new_memory then for i = 0, count - 1 do memory.values[i] = new_memory end end
   return {ty = ty, data = ffi.cast(c_type.pointer, memory), size = count, memory = memory, handle = false}
end

-- a block of `count` elements; nil if it is so large that Python must allocate it
local function new_block(ty, count)
   if count * c_types[ty].size <= MAX_BYTES then return allocate(ty, count) end
end
native.new_block = new_block

-- Python's object for a block; memory that Lua allocated is copied to PyTorch's
local function storage_handle(block)
   if not block then return nil end
   if not block.handle then
      local handle, address = py.adopt(block.ty, block.size, tonumber(ffi.cast('intptr_t', block.data)))
      block.data, block.handle, block.memory, block.id = ffi.cast(c_types[block.ty].pointer, address), handle, nil, py.pointer(handle)
      blocks[block.id] = block
   end
   return block.handle
end

-- enlarge a block; a block that becomes large moves to PyTorch's memory
local function grow(block, count)
   local size = c_types[block.ty].size
   if block.handle or count * size > MAX_BYTES then
      py.resize_storage(storage_handle(block), count)
      locate(block)
      return
   end
   local larger = allocate(block.ty, count)
   ffi.copy(larger.data, block.data, block.size * size)
   block.data, block.size, block.memory = larger.data, count, larger.memory
end

-- enlarge the block of a state to `count` elements from its offset on
function native.ensure_capacity(S, count)
   if not S.block then S.block = allocate(S.ty, 0) end
   if S.offset + count > S.block.size then grow(S.block, S.offset + count) end
end

-- create or update Python's object of a tensor or storage
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

-- whether two Lua objects are the same tensor; once created, S.handle never changes, so its pointer is cached
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
local cdata_of = setmetatable({}, {__mode = 'kv'})  -- userdata -> result of cdata()
native.cdata_of = cdata_of
local class = {}
for ty in pairs(c_types) do class[ty] = metatables['torch.' .. ty .. 'Tensor'] end

-- create the tensor of a state
function native.wrap(S)
   local object = newproxy(false)
   keep_state(object, S)
   return rawsetmt(object, class[S.ty])
end

local storage_class = {}
for ty in pairs(c_types) do storage_class[ty] = metatables['torch.' .. ty .. 'Storage'] end
function native.wrap_storage(block)
   local object = newproxy(false)
   keep(storages, object, block)
   return rawsetmt(object, storage_class[block.ty])
end

-- must be called after the view of a state has changed
function native.view_changed(S)
   local object = S.object
   S.current = false
   if S.described then S.described = nil end
   rawset(handles, object, nil)
   local c = cdata_of[object]
   if c then rawset(handles, c, nil) end
end

-- object:cdata(): the geometry as a C struct. The same struct is returned until the geometry changes, while the caller keeps it
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
      states[c], state_of_cdata[c], cdata_of[self] = S, S, c
   end
   return c
end
for _, mt in pairs(class) do mt.cdata = cdata end
