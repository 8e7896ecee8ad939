-- trepl: what th gives a script and a prompt beside torch: print of tables, import, require of './file', Penlight.
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

-- require './file' is relative to the file that says so
local plain_require = require
local readers = {th = torch.load, net = torch.load, json = function(path) return require('cjson').decode(io.open(path):read('*all')) end}
function require(name)
   if type(name) ~= 'string' or name:sub(1, 1) ~= '.' then return plain_require(name) end
   local source = bridge.debug.getinfo(2, 'S').source:gsub('^@', '')
   local path = paths.concat(paths.filep(source) and paths.dirname(source) or '.', name)
   if paths.filep(path .. '.lua') then return dofile(path .. '.lua') end
   for _, extension in ipairs {'th', 'net', 'json'} do
      if paths.filep(path) and path:match('%.' .. extension .. '$') then return readers[extension](path) end
      if paths.filep(path .. '.' .. extension) then return readers[extension](path .. '.' .. extension) end
   end
   return dofile(paths.filep(path) and path or paths.concat(path, 'init.lua'))
end

-- trepl.colors: what turns the text of a terminal into a colour; trepl.colorize: functions that colour a text
bridge.packages['trepl.colors'] = function()
   local colors = {none = 0, bright = 1, dim = 2, underline = 4, blink = 5, reverse = 7, hidden = 8}
   for i, name in ipairs {'black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'} do
      colors[name], colors[(name:gsub('^.', string.upper))], colors['_' .. name] = '0;3' .. i - 1, '1;3' .. i - 1, '4' .. i - 1
   end
   for name, code in pairs(colors) do colors[name] = '\27[' .. code .. 'm' end
   return colors
end
bridge.packages['trepl.colorize'] = function()
   local colors, functions = require 'trepl.colors', {}
   for name, code in pairs(colors) do
      functions[name] = function(text) return code .. text .. colors.none end
   end
   return functions
end

-- Penlight's modules are global in th: path, stringx, tablex ...
if pcall(require, 'pl') and text then text.format_operator() end
return {}
