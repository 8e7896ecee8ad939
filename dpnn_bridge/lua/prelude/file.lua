-- torch.File: reading and writing of objects, torch.save, torch.load, torch.serialize and torch.deserialize.
local bridge, py = ...
local type, pairs, ipairs, error, tonumber, tostring = type, pairs, ipairs, error, tonumber, tostring
local string_dump, load_chunk, debug = bridge.dump, bridge.load, bridge.debug
local metatables, typename, bind, handle = bridge.metatables, bridge.typename, bridge.bind, bridge.handle

local NIL, NUMBER, STRING, TABLE, TORCH, BOOLEAN, FUNCTION, LEGACY_FUNCTION, RECURSIVE_FUNCTION = 0, 1, 2, 3, 4, 5, 6, 7, 8

local File = torch.newmetatable('torch.File')
for name, f in pairs(py.file_methods) do File[name] = bind(f) end
local describe = File.__tostring__
function File.__tostring__(self)
   return type(self) == 'table' and typename(self) or describe(self)  -- a table: the metatable of a file
end
for _, kind in ipairs {'MemoryFile', 'DiskFile', 'PipeFile'} do
   if py['new_' .. kind] then
      local parent = kind == 'PipeFile' and 'torch.DiskFile' or 'torch.File'
      local mt = torch.newmetatable('torch.' .. kind, parent, bind(py['new_' .. kind]))
      for name, f in pairs(py[kind .. '_methods']) do mt[name] = bind(f) end
      mt.__tostring__ = File.__tostring__
   end
end

function File:writeBool(value) self:writeInt(value and 1 or 0) end
function File:readBool() return self:readInt() == 1 end

-- state of a file: the objects that were written, by pointer, and read, by index
local states = setmetatable({}, {__mode = 'k'})
local function state(file)
   if not states[file] then
      states[file] = {written = {}, kept = {}, count = 0, read = {}, path = {}, upvalues = {}, upvalue_count = 0, closures = {}}
   end
   return states[file]
end

function File:referenced(on) state(self).force = not on; return self end
function File:isReferenced() return not (states[self] and states[self].force) end

-- Functions: only bytecode that this Lua state has dumped is loaded. Other bytecode becomes a function that raises an error.
local dumped = {}
local bytecode_of = setmetatable({}, {__mode = 'k'})  -- such a function -> {bytes, upvalues}

local function dump(f)
   if bytecode_of[f] then return bytecode_of[f].bytes end
   if not string_dump then return nil end
   local ok, bytes = pcall(string_dump, f)
   if not ok then return nil end
   dumped[bytes] = true
   return bytes
end

local function restore(bytes)
   if dumped[bytes] then return (load_chunk(bytes)) end
   local f
   f = function()
      error(string.format('this function was read from a file as Lua bytecode (%d bytes), which is never run', #bytes), 2)
   end
   bytecode_of[f] = {bytes = bytes}
   return f
end

function File:isWritableObject(object)
   local kind = type(object)
   local class = typename(object)
   if object == nil then return NIL end
   if class and torch.factory(class) then return TORCH end
   if kind == 'table' then return TABLE elseif kind == 'number' then return NUMBER end
   if kind == 'string' then return STRING elseif kind == 'boolean' then return BOOLEAN end
   if kind == 'function' and dump(object) then return RECURSIVE_FUNCTION end
end

-- ffi/reading.lua and ffi/writing.lua replace these functions
bridge.read_string, bridge.write_string, bridge.set_geometry = bind(py.read_string), bind(py.write_string), bind(py.set_geometry)
bridge.identity = torch.pointer
local function read_string(file) return bridge.read_string(file) end
local function write_string(file, text) return bridge.write_string(file, text) end

-- the method 'write' or 'read' of an object's class
local function class_method(object, name)
   local mt = metatables[typename(object)]
   local f = mt and (mt['__' .. name] or mt[name])
   return type(f) == 'function' and f or nil
end

local write_function, write_torch

-- the path of the object being written, for messages: names of fields and upvalues, without the tables of upvalues
local UPVALUES = {}
local function path_text(path)
   local parts = {}
   for i, name in ipairs(path) do
      if name ~= UPVALUES and path[i - 1] ~= UPVALUES then parts[#parts + 1] = name end
   end
   return table.concat(parts, '.')
end

function File:writeObject(object, name, hook)
   local original = object
   if hook then object = hook(object) end
   if object == nil then self:writeInt(NIL) return end
   local s = state(self)
   s.path[#s.path + 1] = name or '<?>'
   local kind = self:isWritableObject(object)
   if not kind then
      local path = path_text(s.path)
      s.path = {}
      error(string.format('Unwritable object <%s> at %s', type(object), path), 2)
   end
   self:writeInt(kind)
   if kind == NUMBER then self:writeDouble(object)
   elseif kind == BOOLEAN then self:writeBool(object)
   elseif kind == STRING then write_string(self, object)
   else
      local pointer = bridge.identity(original)
      local known = s.written[pointer]
      if known and not s.force then
         self:writeInt(known)
      else
         s.count = s.count + 1
         if not s.force then
            s.written[pointer] = s.count
            s.kept[#s.kept + 1] = {original, object}  -- kept alive, so that no other object gets the same pointer
         end
         self:writeInt(s.count)
         if kind == RECURSIVE_FUNCTION then write_function(self, object, hook)
         elseif kind == TORCH then write_torch(self, object, hook)
         else
            local n = 0
            for _ in pairs(object) do n = n + 1 end
            self:writeInt(n)
            for k, v in pairs(object) do
               self:writeObject(k, nil, hook)
               local label = (type(k) == 'string' or type(k) == 'number') and tostring(k) or nil
               if label == 'value' and s.path[#s.path - 1] == UPVALUES and type(object.name) == 'string' then label = object.name end
               self:writeObject(v, label, hook)
            end
         end
      end
   end
   s.path[#s.path] = nil
end

function write_function(file, f, hook)
   write_string(file, dump(f))
   if bytecode_of[f] then file:writeObject(bytecode_of[f].upvalues, nil, hook) return end
   local s, upvalues, i = state(file), {}, 1
   while true do
      local name, value = debug.getupvalue(f, i)
      if not name then break end
      local id
      if debug.upvalueid then
         local reference = debug.upvalueid(f, i)
         if not s.upvalues[reference] then
            s.upvalue_count = s.upvalue_count + 1
            s.upvalues[reference] = s.upvalue_count
         end
         id = s.upvalues[reference]
      end
      if name == '_ENV' then value = nil end
      upvalues[i] = {name = name, id = id, value = value}
      i = i + 1
   end
   file:writeObject(upvalues, UPVALUES, hook)
end

function write_torch(file, object, hook)
   write_string(file, 'V ' .. bridge.version(object))
   write_string(file, typename(object))
   local write = class_method(object, 'write')
   if write then write(object, file) return end
   if type(object) ~= 'table' then
      error(string.format('<%s> is a non-serializable Torch object %s', typename(object), path_text(state(file).path)), 2)
   end
   local fields = {}
   for k, v in pairs(object) do
      if file:isWritableObject(v) then
         fields[k] = v
      else
         print(string.format('$ Warning: cannot write object field <%s> of <%s> %s', tostring(k), typename(object), path_text(state(file).path)))
      end
   end
   file:writeObject(fields, typename(object), hook)
end

local function read_function(file, index, kind)
   local s = state(file)
   local f = restore(read_string(file))
   if index and not s.force then s.read[index] = f end
   local upvalues = file:readObject()
   if bytecode_of[f] then bytecode_of[f].upvalues = upvalues return f end
   for i, upvalue in ipairs(upvalues) do
      if kind ~= RECURSIVE_FUNCTION then
         debug.setupvalue(f, i, upvalue)
      elseif upvalue.name ~= '_ENV' then
         debug.setupvalue(f, i, upvalue.value)
         local first = upvalue.id and s.closures[upvalue.id]
         if first and debug.upvaluejoin then
            debug.upvaluejoin(f, i, first.f, first.i)
         elseif upvalue.id then
            s.closures[upvalue.id] = {f = f, i = i}
         end
      end
   end
   return f
end

-- CUDA tensors have the same format in files and are read as CPU tensors
local function class_to_create(name)
   local element, kind = name:match('^torch%.Cuda(%a-)(Tensor)$')
   if not kind then element, kind = name:match('^torch%.Cuda(%a-)(Storage)$') end
   if kind and not metatables[name] then return 'torch.' .. (element == '' and 'Float' or element) .. kind end
   return name
end

local function read_torch(file, index)
   local s = state(file)
   local version, name = read_string(file), nil
   local number = tonumber(version:match('^V (.*)$'))
   if number then name = read_string(file) else name, number = version, 0 end  -- a file that is older than class versions
   name = class_to_create(name)
   local factory = torch.factory(name)
   if not factory and bridge.find_class(name) then factory = torch.factory(name) end
   if not factory then error(string.format('unknown Torch class <%s>', name), 3) end
   local object = factory(file)
   if not s.force then s.read[index] = object end
   local read = class_method(object, 'read')
   if read then
      read(object, file, number)
   elseif type(object) == 'table' then
      for k, v in pairs(file:readObject()) do object[k] = v end
   else
      error(string.format('Cannot load object class <%s>', name), 3)
   end
   return object
end

function File:readObject()
   local kind = self:readInt()
   if kind == NIL then return nil
   elseif kind == NUMBER then return self:readDouble()
   elseif kind == BOOLEAN then return self:readBool()
   elseif kind == STRING then return read_string(self)
   elseif kind == FUNCTION then return read_function(self, nil, kind)
   end
   if kind ~= TABLE and kind ~= TORCH and kind ~= RECURSIVE_FUNCTION and kind ~= LEGACY_FUNCTION then
      error('unknown object', 2)
   end
   local s, index = state(self), self:readInt()
   if s.read[index] ~= nil and not s.force then return s.read[index] end
   if kind == TORCH then return read_torch(self, index) end
   if kind ~= TABLE then return read_function(self, index, kind) end
   local object = {}
   if not s.force then s.read[index] = object end
   for _ = 1, self:readInt() do
      local k = self:readObject()
      object[k] = self:readObject()
   end
   return object
end

-- tensors and storages ------------------------------------------------------------------------------------------
local function write_tensor(t, file)
   file:writeInt(t:dim())
   file:writeLong(t:size())
   file:writeLong(t:stride())
   file:writeLong(t:storageOffset())
   file:writeObject(t:storage())
end
local function read_tensor(t, file)
   local dim = file:readInt()
   local size, stride, offset = file:readLong(dim), file:readLong(dim), file:readLong()
   bridge.set_geometry(t, file:readObject(), offset, size, stride)
end
for _, ty in ipairs(bridge.element_types) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   mt.write, mt.read = write_tensor, read_tensor
end

local Generator = metatables['torch.Generator']
function Generator.write(g, file) file:writeByte(torch.getRNGState(g):storage()) end
function Generator.read(g, file) torch.setRNGState(g, torch.ByteTensor(file:readByte(5048))) end

for _, ty in ipairs {'Byte', 'Char', 'Short', 'Int', 'Long', 'Float', 'Double'} do
   local mt = metatables['torch.' .. ty .. 'Storage']
   mt.write = function(storage, file) file:writeLong(storage:size()); file['write' .. ty](file, storage) end
   mt.read = function(storage, file) storage:resize(file:readLong()); file['read' .. ty](file, storage) end
end
local half = metatables['torch.HalfStorage']
half.write = function(storage, file) file:writeLong(storage:size()); file:writeShort(py.half_bits(handle(storage))) end
half.read = function(storage, file) storage:resize(file:readLong()); file:readShort(py.half_bits(handle(storage))) end

-- saving and loading --------------------------------------------------------------------------------------------
local function check_options(mode, referenced, allowed, names)
   if mode ~= nil and not allowed[mode] then error(names .. ' (or nil) expected for mode', 3) end
   if referenced ~= nil and type(referenced) ~= 'boolean' then error('true or false (or nil) expected for referenced', 3) end
end

local new_saved, discard_saved = bind(py.new_saved or error), bind(py.discard_saved or error)

function torch.save(filename, object, mode, referenced)
   check_options(mode, referenced, {binary = true, ascii = true}, '"binary" or "ascii"')
   local file = new_saved(filename)
   file[mode or 'binary'](file)
   file:referenced(referenced ~= false)
   local ok, message = pcall(file.writeObject, file, object)
   if not ok then
      discard_saved(file)
      error(message, 0)
   end
   file:close()
end

function torch.load(filename, mode, referenced)
   check_options(mode, referenced, {binary = true, ascii = true, b32 = true, b64 = true}, '"binary", "b32", "b64" or "ascii"')
   local file = torch.DiskFile(filename, 'r')
   if mode == 'b32' or mode == 'b64' then
      file:longSize(mode == 'b32' and 4 or 8)
      mode = 'binary'
   end
   file[mode or 'binary'](file)
   file:referenced(referenced ~= false)
   local object = file:readObject()
   file:close()
   return object
end
torch.saveobj, torch.loadobj = torch.save, torch.load

local function file_with(object, mode)
   local file = torch.MemoryFile()
   file[mode or 'binary'](file)
   file:writeObject(object)
   return file
end
function torch.serializeToStorage(object, mode)
   local file = file_with(object, mode)
   local storage = file:storage()
   storage:resize(storage:size() - 1)
   file:close()
   return storage
end
function torch.serialize(object, mode)
   local file = file_with(object, mode)
   file:seek(1)
   local text = file:readString('*a')
   file:close()
   return text
end

function torch.deserializeFromStorage(storage, mode)
   return torch.deserialize(torch.CharTensor(storage):clone():storage():string(), mode)  -- also accepts a CharTensor
end
function torch.deserialize(text, mode)
   if type(text) ~= 'string' and type(text) ~= 'number' then
      error("bad argument #1 to 'deserialize' (string expected, got " .. type(text) .. ')', 2)
   end
   local file = torch.MemoryFile(torch.CharStorage():string(text .. '\0'), 'r')
   file = file[mode or 'binary'](file)
   local object = file:readObject()
   file:close()
   return object
end
