-- Reading files without calling Python. Python reads the next bytes of a file into a window in memory, which Lua decodes. Before
-- a method of Python is called, the file position is set to where Lua has read to.
local bridge, py = ...
local ffi, native, handles, metatables = bridge.ffi, bridge.native, bridge.handles, bridge.metatables
local states, storages, get, text = native.states, native.storages, native.get, native.text
local type, select, rawget, tonumber, floor = type, select, rawget, tonumber, math.floor
local File = metatables['torch.File']

local MAX_BYTES = 65536  -- size of a window

-- file -> {data=, at=, size=, start=, text=, last=}; false if only Python can read the file: other byte orders, files that are not
-- seekable. start: file position of the window; text: whether the file is a text file; last: whether the file ends with the window
local windows = setmetatable({}, {__mode = 'k'})

-- set the file position to where Lua has read to, or to `position`, and discard the window
local function leave_window(file, position)
   local window = windows[file]
   if window then
      py.leave_window(handles[file], position or window.start + window.at)
      windows[file] = nil
   end
end

-- read a window at the current position; false if only Python can read the file
local function renew(file)
   leave_window(file)
   local address, size, start, is_text = py.window(handles[file], MAX_BYTES, text.available())
   local window = address and {
      data = ffi.cast('const uint8_t *', address), at = 0, size = size, start = start, text = is_text, last = size < MAX_BYTES,
   } or false
   windows[file] = window
   return window
end

-- the window of a binary file, with at least `count` bytes left; nil if there is none
local function window_of(file, count)
   local window = windows[file]
   if window and not window.text and window.size - window.at >= count then return window end
   if window == false or window and window.text or count > MAX_BYTES or type(file) ~= 'userdata' then return nil end
   window = renew(file)
   return window and not window.text and window.size >= count and window or nil
end

-- the window of a text file, with at least `count` bytes left or the end of the file; nil if there is none
local function text_window(file, count)
   local window = windows[file]
   if window == nil and type(file) == 'userdata' or window and window.text and not window.last and window.size - window.at < count then
      window = renew(file)
   end
   return window and window.text and window or nil
end

-- skip a newline
local function end_line(window) if window.data[window.at] == 10 then window.at = window.at + 1 end end

-- the window of a text file if it has `count` bytes left: elements of one byte are in binary format there too
local function text_bytes(file, count)
   local window = count < MAX_BYTES and text_window(file, count + 1)
   return window and window.size - window.at >= count and window
end

-- read numbers of a text file; false if Python must read them, then the file position is unchanged
local function read_text(file, ty, data, count)
   local parse = text.parse[ty]
   local window = parse and text_window(file, text.LONGEST)
   if not window then return false end
   local start = window.start + window.at
   for i = 0, count - 1 do
      window = text_window(file, text.LONGEST)
      local at = parse(window.data, window.at, data, i)
      if not at or at >= window.size and not window.last then
         leave_window(file, start)
         return false
      end
      window.at = at
   end
   if count > 0 then end_line(window) end
   return true
end

local function copy_from(window, target, size)
   ffi.copy(target, window.data + window.at, size)
   window.at = window.at + size
end

-- read elements to an address; false if Python must read them
local function fill(file, ty, data, count)
   local size = native.c_types[ty].size
   local window = window_of(file, count * size)
   if not window and size > 1 then return read_text(file, ty, data, count) end
   window = window or text_bytes(file, count)
   if not window then return false end
   copy_from(window, data, count * size)
   if window.text and count > 0 then end_line(window) end
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
function native.leave_window(file) leave_window(file) end

for _, kind in ipairs {'MemoryFile', 'DiskFile', 'PipeFile'} do
   local mt = metatables['torch.' .. kind]
   local slow = mt.__index
   mt.__index = function(self, key)
      local value = rawget(mt, key) or rawget(File, key)
      if value ~= nil then return value end
      return slow(self, key)
   end
end

for ty, c_type in pairs(native.c_types) do
   local slow, one = File['read' .. ty], ffi.new(c_type.name .. '[1]')
   local cell = {block = {data = one}}
   File['read' .. ty] = slow and function(file, ...)
      local n, target = select('#', ...), ...
      if n == 0 then
         if fill(file, ty, one, 1) then return get[ty](cell, 0) end
      elseif n == 1 and type(target) == 'userdata' then
         local block = storages[target]
         if block and block.ty == ty and block.size > 0 and fill(file, ty, block.data, block.size) then return block.size end
      elseif n == 1 and type(target) == 'number' and target >= 0 and floor(target) == target then
         local block = native.new_block(ty, target)
         if block and fill(file, ty, block.data, target) then return native.wrap_storage(block) end
      end
      return slow(file, ...)
   end
end

local slow_string, length = bridge.read_string, ffi.new 'int32_t[1]'
-- read a string of a text file: its length, and its bytes; nil if Python must read it
local function read_text_string(file)
   local window = text_window(file, text.LONGEST)
   local start = window and window.start + window.at
   if not window or not read_text(file, 'Int', length, 1) then return nil end
   local count = length[0]
   if count == 0 then return '' end
   window = count > 0 and text_bytes(file, count)
   if not window then
      leave_window(file, start)
      return nil
   end
   local string = ffi.string(window.data + window.at, count)
   window.at = window.at + count
   end_line(window)
   return string
end
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
   local string = read_text_string(file)
   if string then return string end
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
   native.view_changed(native.measure(S))
   return true
end
local slow_geometry = bridge.set_geometry
function bridge.set_geometry(t, storage, offset, size, stride)
   local S, block, sizes, strides = states[t], storage ~= nil and storages[storage], storages[size], storages[stride]
   if S and block ~= nil and sizes and strides and set_view(S, block, offset, sizes, strides) then return end
   slow_geometry(t, storage, offset, size, stride)
end

for ty in pairs(native.c_types) do
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
