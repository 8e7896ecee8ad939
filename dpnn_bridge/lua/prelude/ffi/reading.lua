-- Reading binary files without calling Python. Python reads the next bytes of a file into a window in memory, which Lua decodes. Before
-- a method of Python is called, the file position is set to where Lua has read to.
local bridge, py = ...
local ffi, native, handles, metatables = bridge.ffi, bridge.native, bridge.handles, bridge.metatables
local states, storages, get = native.states, native.storages, native.get
local type, select, rawget, tonumber, floor = type, select, rawget, tonumber, math.floor
local File = metatables['torch.File']

local MAX_BYTES = 65536  -- size of a window

-- file -> {data=, at=, size=}; false if only Python can read the file: text, other byte orders, files that are not seekable
local windows = setmetatable({}, {__mode = 'k'})

-- set the file position to where Lua has read to, and discard the window
local function leave_window(file)
   local window = windows[file]
   if window then
      py.leave_window(handles[file], window.at)
      windows[file] = nil
   end
end

-- the window of a file, with at least `count` bytes left; nil if there is none
local function window_of(file, count)
   local window = windows[file]
   if window and window.size - window.at >= count then return window end
   if window == false or count > MAX_BYTES or type(file) ~= 'userdata' then return nil end
   leave_window(file)
   local address, size = py.window(handles[file], MAX_BYTES)
   window = address and {data = ffi.cast('const uint8_t *', address), at = 0, size = size} or false
   windows[file] = window
   return window and size >= count and window or nil
end

local function copy_from(window, target, size)
   ffi.copy(target, window.data + window.at, size)
   window.at = window.at + size
end

-- read all elements of a block; false if Python must read them
local function fill(file, block, size)
   local window = window_of(file, block.size * size)
   if not window then return false end
   copy_from(window, block.data, block.size * size)
   return true
end

-- call first(file, name) before every method of Python's files
function native.before_file_methods(first)
   for _, kind in ipairs {'File', 'MemoryFile', 'DiskFile', 'PipeFile'} do
      local mt = metatables['torch.' .. kind]
      for name in pairs(py[kind == 'File' and 'file_methods' or kind .. '_methods']) do
         local f = mt[name]
         mt[name] = function(file, ...)
            first(file, name)
            return f(file, ...)
         end
      end
   end
end
native.before_file_methods(function(file, name)
   leave_window(file)
   if not name:find '^read' then windows[file or false] = nil end  -- the method may change the mode of the file
end)
native.leave_window = leave_window

for _, kind in ipairs {'MemoryFile', 'DiskFile', 'PipeFile'} do
   local mt = metatables['torch.' .. kind]
   local slow = mt.__index
   mt.__index = function(self, key)
      local value = rawget(mt, key) or rawget(File, key)
      if value ~= nil then return value end
      return slow(self, key)
   end
end

for ty, kind in pairs(native.kinds) do
   local slow, size, one = File['read' .. ty], kind.size, ffi.new(kind.name .. '[1]')
   local cell = {block = {data = one}}
   File['read' .. ty] = slow and function(file, ...)
      local n, target = select('#', ...), ...
      if n == 0 then
         local window = window_of(file, size)
         if window then
            copy_from(window, one, size)
            return get[ty](cell, 0)
         end
      elseif n == 1 and type(target) == 'userdata' then
         local block = storages[target]
         if block and block.ty == ty and block.size > 0 and fill(file, block, size) then return block.size end
      elseif n == 1 and type(target) == 'number' and target >= 0 and floor(target) == target then
         local block = native.new_block(ty, target)
         if block and fill(file, block, size) then return native.wrap_storage(block) end
      end
      return slow(file, ...)
   end
end

local slow_string, length = bridge.read_string, ffi.new 'int32_t[1]'
function bridge.read_string(file)
   local window = window_of(file, 4)
   if window then
      ffi.copy(length, window.data + window.at, 4)
      local count = length[0]
      window = count >= 0 and window_of(file, 4 + count)
      if window then
         window.at = window.at + 4 + count
         return ffi.string(window.data + window.at - count, count)
      end
   end
   leave_window(file)
   return slow_string(file)
end

-- set the view that a file describes; false if its elements are not in the storage
local function set_view(S, block, offset, size, stride)
   local last = offset - 1
   for k = 1, size.size do
      local count, step = tonumber(size.data[k - 1]), tonumber(stride.data[k - 1])
      if count < 1 or step < 0 then return false end
      last = last + (count - 1) * step
   end
   if offset < 1 or size.size > 0 and not (block and block.ty == S.ty and last < block.size) then return false end
   for k = 1, size.size do S[2 * k - 1], S[2 * k] = tonumber(size.data[k - 1]), tonumber(stride.data[k - 1]) end
   S.block, S.offset, S.n = block, offset - 1, size.size
   native.moved(native.measure(S))
   return true
end
local slow_geometry = bridge.set_geometry
function bridge.set_geometry(t, storage, offset, size, stride)
   local S, block, sizes, strides = states[t], storage ~= nil and storages[storage], storages[size], storages[stride]
   if S and block ~= nil and sizes and strides and set_view(S, block, offset, sizes, strides) then return end
   slow_geometry(t, storage, offset, size, stride)
end

for ty in pairs(native.kinds) do
   local tensor, storage = metatables['torch.' .. ty .. 'Tensor'], metatables['torch.' .. ty .. 'Storage']
   tensor.__factory = function() return (native.fresh(ty)) end
   storage.__factory = function() return native.wrap_storage(native.new_block(ty, 0)) end
   if ty ~= 'Half' then
      storage.read = function(self, file)
         local count, block = file:readLong(), storages[self]
         if block and block.size == 0 and count >= 0 then native.ensure_capacity({block = block, offset = 0}, count) else self:resize(count) end
         file['read' .. ty](file, self)
      end
   end
end
