-- How files contain the objects of converted classes: as the table of their fields, with few exceptions. The same files are read in
-- loaders/serializers.py. Returns a function that defines read and write of a class.
local bridge = ...
local headers = setmetatable({}, {__mode = 'k'})  -- object -> the value beside its fields

local function fields_of(self, omitted)
   local fields = {}
   for k, v in pairs(self) do
      if not (omitted and omitted[k]) then fields[k] = v end
   end
   return fields
end
local function set_fields(self, fields)
   for k, v in pairs(fields) do self[k] = v end
end

local function fields_only(class)
   function class:read(file) set_fields(self, file:readObject()) end
end

-- the header precedes the fields
local function header_first(class, header_of)
   function class:read(file)
      headers[self] = file:readObject()
      set_fields(self, file:readObject())
   end
   function class:write(file)
      file:writeObject(header_of(self))
      file:writeObject(fields_of(self))
   end
end
local function gpu(class)
   header_first(class, function(self) return {self._type, self.device} end)
end
local function data_parallel(class)  -- since version 2 with a header
   local default, with_header = {}, {}
   fields_only(default)
   header_first(with_header, function(self) return headers[self] or self.gpuAssignments end)
   function class:read(file) (bridge.version(self) >= 2 and with_header or default).read(self, file) end
   function class:write(file)
      if bridge.version(self) >= 2 then return with_header.write(self, file) end
      file:writeObject(fields_of(self))
   end
end

-- two unrelated classes: one is a copy of nn.DataParallelTable, the other writes each branch as an object
local function model_parallel(class)
   function class:read(file)
      local first = file:readObject()
      if first.modules then return set_fields(self, first) end
      local second = file:readObject()
      if not torch.typename(second) then
         headers[self] = first
         return set_fields(self, second)
      end
      local branches = {second}
      for i = 2, #first do branches[i] = file:readObject() end
      set_fields(self, file:readObject())
      self.modules, self.gpuAssignments = branches, first
   end
   function class:write(file)
      if headers[self] then file:writeObject(headers[self])
      elseif self.gpuAssignments then
         file:writeObject(self.gpuAssignments)
         for _, branch in ipairs(self.modules) do file:writeObject(branch) end
         return file:writeObject(fields_of(self, {modules = true, gpuAssignments = true}))
      end
      file:writeObject(fields_of(self))
   end
end

-- the scales follow the fields
local function pyramid(class)
   function class:read(file)
      set_fields(self, file:readObject())
      headers[self] = {}
      for i = 1, file:readDouble() do headers[self][i] = file:readDouble() end
   end
   function class:write(file)
      file:writeObject(fields_of(self))
      local scales = headers[self] or self.scales
      file:writeDouble(#scales)
      for _, scale in ipairs(scales) do file:writeDouble(scale) end
   end
end

local exceptions = {
   ['nn.GPU'] = gpu, ['nn.DataParallelTable'] = data_parallel, ['nn.ModelParallelTable'] = model_parallel,
   ['nn.PyramidPacker'] = pyramid, ['nn.PyramidUnPacker'] = pyramid,
}
return function(class, tname)
   (exceptions[tname] or fields_only)(class)
   local read = class.read
   function class:read(file, version)
      bridge.set_version(self, version)
      read(self, file)
   end
end
