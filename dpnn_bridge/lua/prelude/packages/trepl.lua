-- trepl: what scripts and the prompt have in th in addition to torch: print of tables, import, require './file', Penlight.
local bridge, py = ...
local show = py.run_prelude('show.lua')
local depth = 5

print_old = print
function print_new(...)
   if depth > 0 then return show(depth, ...) end
   return print_old(...)
end
print = print_new
function setprintlevel(n)
   if type(n) ~= 'number' or n < 0 then error('expected number [0,+)', 2) end
   depth = math.floor(n)
end

function import(package, forced)
   local result = require(package)
   local symbols = _G[package] or result
   for name, value in pairs(type(symbols) == 'table' and symbols or {}) do
      if forced or _G[name] == nil then _G[name] = value end
   end
end

-- require './file' is relative to the calling file; modules that require does not find are searched in the current folder
local original_require = require
local function read_json(path)
   local file = assert(io.open(path))
   local text = file:read('*all')
   file:close()
   return require('cjson').decode(text)
end
local readers = {th = torch.load, net = torch.load, json = read_json}
-- the file for a path without extension, and the function that reads it
local function find(path)
   if paths.filep(path .. '.lua') then return path .. '.lua', dofile end
   if paths.filep(path) then return path, readers[path:match('%.(%w+)$')] or dofile end
   for _, extension in ipairs {'th', 'net', 'json'} do
      if paths.filep(path .. '.' .. extension) then return path .. '.' .. extension, readers[extension] end
   end
   return paths.concat(path, 'init.lua'), dofile
end
function require(name)
   if type(name) == 'string' and name:sub(1, 1) == '.' then
      local source = bridge.debug.getinfo(2, 'S').source:gsub('^@', '')
      local file, read = find(paths.concat(paths.filep(source) and paths.dirname(source) or '.', name))
      return read(file)
   end
   local here = type(name) == 'string' and paths.concat(name)
   local file, read = find(here or '')
   if not here or not paths.filep(file) or file == here .. '.lua' then return original_require(name) end
   local ok, result = pcall(original_require, name)
   if ok then return result end
   local was_read, value = pcall(read, file)
   if not was_read then error(result, 0) end
   return value
end

-- trepl.colors: escape sequences of colors, empty if stdout is not a terminal; trepl.colorize: functions that color a text
local function empty(colors)
   for name in pairs(colors) do colors[name] = '' end
end
function noColors() empty(require 'trepl.colors') end
package.preload['trepl.colors'] = function()
   local colors = {bright = '\27[1m', dim = '\27[2m', underline = '\27[4m', blink = '\27[5m', reverse = '\27[7m', hidden = '\27[8m'}
   for name, code in pairs(sys.COLORS) do colors[name] = code end
   if not torch.isatty(io.stdout) then empty(colors) end
   return colors
end
package.preload['trepl.colorize'] = function()
   local colors, functions = require 'trepl.colors', {}
   for name in pairs(colors) do
      functions[name] = function(text) return colors[name] .. text .. colors.none end
   end
   return functions
end

-- Penlight's modules are global in th: path, stringx, tablex ...
if pcall(require, 'pl') and text then text.format_operator() end
return {}
