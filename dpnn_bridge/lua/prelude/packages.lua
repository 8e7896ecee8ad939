-- Packages of the bridge, each in a file that runs when it is required. They are used for packages that are not found in lua_path and
-- package.path, and instead of C libraries, which the bridge cannot load.
local bridge, py = ...
local packages = {}
bridge.packages = packages

-- a Lua function for a Python function that returns plain values; errors become text
local function results(ok, ...)
   if ok then return ... end
   error(tostring((...)), jit and 2 or 3)  -- LuaJIT does not count the tail call of bridge.plain
end
function bridge.plain(f) return function(...) return results(pcall(f, ...)) end end

local function file(name)
   return function() return py.run_prelude('packages/' .. name .. '.lua') end
end
for _, name in ipairs {'moses', 'xlua', 'bit32'} do packages[name] = file(name) end
package.preload.libnnx = file('libnnx')

-- nn: its base classes, see nn/base.lua
function packages.nn()
   py.run_prelude('nn/base.lua')
   return nn
end

-- the metatable of a class of nn's base or of a class with a mapping; both are defined when nn is loaded
function bridge.find_class(tname)
   if not bridge.metatables[tname] then
      if py.registered(tname) then pcall(require, 'nn') end  -- the user's file may not require nn itself
      if bridge.define_converted then bridge.define_converted(tname) end
   end
   return bridge.metatables[tname]
end

if bridge.open then
   for _, name in ipairs {'paths', 'sys', 'csvigo'} do packages[name] = file(name) end
   for _, name in ipairs {'lfs', 'cjson', 'tds', 'threads', 'image', 'hdf5', 'cutorch', 'cunn-on-cpu', 'md5', 'trepl'} do package.preload[name] = file(name) end
   package.preload['cjson.safe'] = function()
      local cjson, safe = require('cjson').new(), {}
      for name, f in pairs(cjson) do safe[name] = f end
      for _, name in ipairs {'encode', 'decode'} do
         safe[name] = function(value)
            local ok, result = pcall(cjson[name], value)
            if ok then return result end
            return nil, result
         end
      end
      return safe
   end
   for _, name in ipairs {'threads.sharedserialize', 'threads.serialize'} do package.preload[name] = function() return {} end end
   package.preload['threads.threads'] = function() return require('threads').Threads end
   package.preload['threads.safe'] = function() return require('threads').safe end
   function packages.dok()  -- named arguments, used by csvigo
      local xlua = require 'xlua'
      dok = {unpack = xlua.unpack, usage = xlua.usage, error = xlua.error}
      return dok
   end
   function package.preload.libpaths()
      local functions = {}
      for name, f in pairs(py.libpaths) do functions[name] = bridge.plain(f) end
      functions.usleep, functions.require = nil, require
      paths = functions
      return functions
   end
   function package.preload.libsys() return {clock = torch.tic, usleep = bridge.plain(py.libpaths.usleep)} end
end

local searchers = package.loaders or package.searchers
searchers[#searchers + 1] = function(name)
   return packages[name] or '\n' .. py.advice(name)
end

if bridge.open then
   require 'paths'  -- as in torch and th
   require 'sys'
else
   paths, sys = {}, {clock = torch.tic, COLORS = {}}
   package.loaded.paths, package.loaded.sys = paths, sys
end
