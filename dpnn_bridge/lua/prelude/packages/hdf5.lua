-- hdf5: groups and data sets of a file, with the methods of torch-hdf5.
local bridge, py = ...
hdf5 = {}
local files = {}
for name, f in pairs(py.hdf5) do files[name] = bridge.bind(f) end
for name, f in pairs(py.hdf5_lists) do files[name] = bridge.plain(f) end

local function joined(path, name)
   if type(name) == 'table' then name = table.concat(name, '/') end
   name = name:gsub('^/+', '')
   return name == '' and path or (path == '/' and '/' or path .. '/') .. name
end

local DataSet = torch.class 'hdf5.HDF5DataSet'
function DataSet:__init(file, path) self._file, self._path = file, path end
function DataSet:all() return files.read(self._file, self._path) end
function DataSet:dataspaceSize() return files.size(self._file, self._path) end
function DataSet:partial(...)
   local bounds = {}
   for _, range in ipairs {...} do
      if type(range) ~= 'table' then range = {range, range} end
      bounds[#bounds + 1], bounds[#bounds + 2] = range[1], range[2]
   end
   return files.read(self._file, self._path, unpack(bounds))
end
function DataSet:write(tensor, ...)
   files.write_part(self._file, self._path, tensor, ...)
   return self
end
function DataSet:close() end
function DataSet:__tostring() return '[HDF5DataSet ' .. self._path .. ']' end

local Group = torch.class 'hdf5.HDF5Group'
function Group:__init(file, path) self._file, self._path = file, path end
function Group:read(name)
   local path = joined(self._path, name or '/')
   local kind = files.is_group(self._file, path) and hdf5.HDF5Group or hdf5.HDF5DataSet
   return kind(self._file, path)
end
function Group:all(left)
   local values, names = {}, files.names(self._file, self._path)
   left = left or {count = files.most_steps(self._file)}
   local _, depth = self._path:gsub('/', '') -- each name is found from the root of the file
   left.count = left.count - #names * depth
   if left.count < 0 then -- groups that contain groups twice at every level have no end
      error('hdf5: the groups lead to more names than the file can contain; read parts of it instead of all()')
   end
   for _, name in ipairs(names) do values[name] = self:read(name):all(left) end
   return values
end
local function store(how)
   local function stored(self, name, data, options)
      local path = joined(self._path, name)
      if torch.isTensor(data) then return how(self._file, path, data, options) end
      if type(data) ~= 'table' then error('torch-hdf5: writing data of type ' .. type(data) .. ' is not supported', 2) end
      for key, value in pairs(data) do stored(self, joined(path, tostring(key)), value, options) end
   end
   return stored
end
Group.write = store(function(file, path, data, options)
   options = options or {}
   files.write(file, path, data, options._level, unpack(options._chunking or {}))
end)
Group.append = store(function(file, path, data) files.append(file, path, data) end)
function Group:close() end
function Group:__tostring() return '[HDF5Group ' .. self._path .. ']' end

local File = torch.class('hdf5.HDF5File', 'hdf5.HDF5Group')
function File:__init(name, mode)
   name = name:gsub('^~/', function() return (os.getenv('HOME') or '~') .. '/' end)
   if mode == nil or mode == 'a' then mode = paths.filep(name) and 'r+' or 'w' end
   if not ({r = 1, ['r+'] = 1, w = 1, ['w-'] = 1})[mode] then error("Unknown mode '" .. mode .. "' for hdf5.open()", 2) end
   self._name = name
   self._file, self._path = files.open(self._name, mode), '/'
end
function File:filename() return self._name end
function File:close() files.close(self._file) end
function File:__tostring() return '[HDF5File: ' .. self._name .. ']' end
function hdf5.open(name, mode) return hdf5.HDF5File(name, mode) end

local Options = torch.class 'hdf5.DataSetOptions'
function Options:__init() end
function Options:setChunked(...)
   self._chunking = {...}
   return self
end
function Options:setDeflate(level)
   self._level = level or 6
   return self
end
function Options:close() end
return hdf5
