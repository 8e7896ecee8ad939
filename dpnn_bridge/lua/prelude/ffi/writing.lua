-- Writing objects to files without calling Python for each value: the bytes are collected in a buffer, which Python writes.
local bridge, py = ...
local ffi, native, handles, metatables = bridge.ffi, bridge.native, bridge.handles, bridge.metatables
local states, storages, leave_window, text = native.states, native.storages, native.leave_window, native.text
local type, select, pcall, error = type, select, pcall, error
local File = metatables['torch.File']

local MAX_BYTES = 65536  -- size of a buffer
local bytes = ffi.typeof('uint8_t[?]')

-- file -> {data=, at=, open=, text=}; open while writeObject runs
local outputs = setmetatable({}, {__mode = 'k'})

local function flush(file)
   local output = outputs[file]
   if output and output.at > 0 then
      leave_window(file)
      local count = output.at
      output.at = 0
      local code, message = py.put_bytes(handles[file], tonumber(ffi.cast('intptr_t', output.data)), count)
      if code == -1 then error(message, 0) end
   end
end
native.before_file_methods(flush)

-- the memory for the next `count` bytes; nil if Python must write them
local function reserve(file, count)
   local output = outputs[file]
   if not (output and output.open) or count > MAX_BYTES then return nil end
   if output.at + count > MAX_BYTES then flush(file) end
   local data = output.data + output.at
   output.at = output.at + count
   return data
end

-- write elements as text, separated by spaces, and a newline; false if Python must write them
local function print_elements(file, ty, cell, count)
   local print = text.print[ty]
   for i = 0, count - 1 do
      local data = print and reserve(file, text.LONGEST)
      if not data then return false end
      local length = print(data, cell, i)
      data[length] = i < count - 1 and 32 or 10
      outputs[file].at = outputs[file].at - text.LONGEST + length + 1
   end
   return true
end

-- write elements of one byte, which a text file has in binary format, and a newline
local function put_bytes(file, data, count)
   local target = reserve(file, count + 1)
   if not target then return false end
   ffi.copy(target, data, count)
   target[count] = 10
   return true
end

-- write elements of a block, cell.block; false if Python must write them
local function put(file, ty, cell, count, size)
   local output = outputs[file]
   if not (output and output.open) then return false end
   if output.text then return size > 1 and print_elements(file, ty, cell, count) or size == 1 and put_bytes(file, cell.block.data, count) end
   local target = reserve(file, count * size)
   if target then ffi.copy(target, cell.block.data, count * size) end
   return target ~= nil
end

local write_object = File.writeObject
function File.writeObject(file, ...)
   local output = outputs[file]
   local form = not (output and output.open) and type(file) == 'userdata' and py.output_format(handles[file], text.available())
   if not form then return write_object(file, ...) end
   if not output then
      output = {data = bytes(MAX_BYTES), at = 0}
      outputs[file] = output
   end
   output.open, output.text = true, form == 'text'
   local ok, message = pcall(write_object, file, ...)
   output.open = false
   flush(file)
   if not ok then error(message, 0) end
end

for ty, c_type in pairs(native.c_types) do
   local slow, size, one = File['write' .. ty], c_type.size, ffi.new(c_type.name .. '[1]')
   local cell = {block = {data = one}}
   File['write' .. ty] = slow and function(file, ...)
      local n, value = select('#', ...), ...
      if n == 1 then
         local block = type(value) == 'userdata' and storages[value]
         if type(value) == 'number' then
            if native.fits(ty, value) then
               one[0] = value
               if put(file, ty, cell, 1, size) then return end
            end
         elseif block and block.ty == ty and block.size > 0 then
            if put(file, ty, {block = block}, block.size, size) then return block.size end
         end
      end
      return slow(file, ...)
   end
end

local slow_string, length = bridge.write_string, {block = {data = ffi.new 'int32_t[1]'}}
function bridge.write_string(file, string)
   local count = type(string) == 'string' and #string
   -- reserve the space for all bytes first: if there is not enough, Python writes the complete string
   local data = count and reserve(file, text.LONGEST + count + 1)
   if not data then
      flush(file)
      leave_window(file)
      return slow_string(file, string)
   end
   local output = outputs[file]
   output.at = output.at - (text.LONGEST + count + 1)
   length.block.data[0] = count
   put(file, 'Int', length, 1, 4)
   ffi.copy(output.data + output.at, string, count)
   output.at = output.at + count
   if output.text and count > 0 then
      output.data[output.at] = 10
      output.at = output.at + 1
   end
end

-- the identity of an object in a file, which is the same for all userdata of one tensor or storage
local slow_identity = bridge.identity
function bridge.identity(object)
   local known = type(object) == 'userdata' and (states[object] or storages[object])
   if not known then return slow_identity(object) end
   if not known.identity then known.identity = known.handle and slow_identity(object) or known end
   return known.identity
end
