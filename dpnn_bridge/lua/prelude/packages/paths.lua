-- paths: the part of torch's package `paths` that is written in Lua.
local bridge = ...
require 'libpaths'
local paths = paths

function paths.is_win() return paths.uname():match('Windows') end
function paths.is_mac() return paths.uname():match('Darwin') end
paths.home = os.getenv('HOME') or '.'

local function entries(folder, accepts)
   local names, i = paths.dir(folder) or {}, 0
   return function()
      repeat i = i + 1 until names[i] == nil or accepts(names[i])
      return names[i]
   end
end
function paths.files(folder, accepts)
   if type(accepts) == 'string' then
      local pattern = accepts
      accepts = function(name) return name:find(pattern) end
   elseif accepts ~= nil and type(accepts) ~= 'function' then
      error('Expecting optional arg 2 to be function or string. Got : ' .. torch.type(accepts))
   end
   return entries(folder, accepts or function() return true end)
end
local function is_entry(name) return name ~= '.' and name ~= '..' end
function paths.iterdirs(folder)
   return entries(folder, function(name) return is_entry(name) and paths.dirp(paths.concat(folder, name)) end)
end
function paths.iterfiles(folder)
   return entries(folder, function(name) return is_entry(name) and paths.filep(paths.concat(folder, name)) end)
end

function paths.thisfile(file, depth)
   local source = bridge.debug.getinfo(depth or 2, 'S').source
   local here = source:match('^@(.*)$')
   if not file then return here and paths.concat(here) end
   return here and paths.concat(paths.dirname(paths.concat(here)), file) or file
end
function paths.dofile(file, depth)
   local here = paths.thisfile(nil, 1 + (depth or 2))
   return dofile(here and paths.concat(paths.dirname(here), file) or file)
end

function paths.rmall(path, more)
   if more ~= 'yes' then return nil, "missing second argument ('yes')" end
   if paths.filep(path) then return os.remove(path) end
   if not paths.dirp(path) then return nil, 'not a file or directory', path end
   for name in paths.files(path, is_entry) do
      local inner = paths.concat(path, name)
      local ok, message = paths.rmall(inner, more)
      if not ok then return ok, message, inner end
   end
   return paths.rmdir(path)
end

function paths.findprogram(...)
   for _, name in ipairs {...} do
      for folder in (os.getenv('PATH') or '.'):gmatch('[^:]+') do
         if paths.filep(paths.concat(folder, name)) then return paths.concat(folder, name) end
      end
   end
   return nil
end

return paths
