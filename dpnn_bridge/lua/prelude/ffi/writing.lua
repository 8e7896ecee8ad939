-- Writing objects to binary files without calling Python for each value: the bytes are collected in a buffer, which Python writes.
local bridge, py = ...
local ffi, native, handles, metatables = bridge.ffi, bridge.native, bridge.handles, bridge.metatables
local states, storages, leave_window = native.states, native.storages, native.leave_window
local type, select, pcall, error = type, select, pcall, error
local File = metatables['torch.File']

local MAX_BYTES = 65536  -- size of a buffer
local bytes = ffi.typeof('uint8_t[?]')

-- file -> {data=, at=, open=}; open while writeObject runs
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

local write_object = File.writeObject
function File.writeObject(file, ...)
   local output = outputs[file]
   if output and output.open or type(file) ~= 'userdata' or not py.takes_bytes(handles[file]) then return write_object(file, ...) end
   if not output then
      output = {data = bytes(MAX_BYTES), at = 0}
      outputs[file] = output
   end
   output.open = true
   local ok, message = pcall(write_object, file, ...)
   output.open = false
   flush(file)
   if not ok then error(message, 0) end
end

for ty, kind in pairs(native.kinds) do
   local slow, size, one = File['write' .. ty], kind.size, ffi.new(kind.name .. '[1]')
   File['write' .. ty] = slow and function(file, ...)
      local n, value = select('#', ...), ...
      if n == 1 then
         local block = type(value) == 'userdata' and storages[value]
         if type(value) == 'number' then
            local data = native.fits(ty, value) and reserve(file, size)
            if data then
               one[0] = value
               ffi.copy(data, one, size)
               return
            end
         elseif block and block.ty == ty and block.size > 0 then
            local data = reserve(file, block.size * size)
            if data then
               ffi.copy(data, block.data, block.size * size)
               return block.size
            end
         end
      end
      return slow(file, ...)
   end
end

local slow_string, length = bridge.write_string, ffi.new 'int32_t[1]'
function bridge.write_string(file, text)
   local data = type(text) == 'string' and reserve(file, 4 + #text)
   if not data then
      flush(file)
      leave_window(file)
      return slow_string(file, text)
   end
   length[0] = #text
   ffi.copy(data, length, 4)
   ffi.copy(data + 4, text, #text)
end

-- the identity of an object in a file, which is the same for all userdata of one tensor or storage
local slow_identity = bridge.identity
function bridge.identity(object)
   local known = type(object) == 'userdata' and (states[object] or storages[object])
   if not known then return slow_identity(object) end
   if not known.identity then known.identity = known.handle and slow_identity(object) or known end
   return known.identity
end
