-- Parts of Torch7's environment other than tensors: string.format, os.exit, timers, threads and packages.
local bridge, py = ...
local bind = bridge.bind

-- string.format as in th's LuaJIT: a number halfway between two decimals is rounded away from zero
local format, gsub, find, match, error, pcall, unpack = string.format, string.gsub, string.find, string.match, error, pcall, unpack
local MAX_PRECISION = 99 - 20  -- Lua prints up to 99 decimals

-- the text of x with its last decimal, which C rounded to even, incremented by one
local function incremented(directive, x)
   local text = format((gsub(directive, '%%', '%%#')), x)  -- with all decimals
   local head, last, point, rest = match(text, '^(.-)(%d)(%.?)([eE][-+]%d+ *)$')
   if not head then head, last, point, rest = match(text, '^(.-)(%d)(%.?)( *)$') end
   return head .. last + 1 .. (find(directive, '#') and point or '') .. rest
end
-- a number that the directive prints as th prints x, or the printed text; precision and kind (e, f or g) are those of the directive
local function away_from_zero(directive, x, precision, kind)
   if kind == 'g' and precision > 0 then precision = precision - 1 end
   if x - x ~= 0 or precision > MAX_PRECISION then return x end
   local long, next = '%.' .. precision + 20 .. (kind == 'f' and 'f' or 'e'), x * (1 + 2 ^ -52)
   local function decimals(value) return match(format(long, value), '(%d)%.(%d*)') end
   local before, fraction = decimals(x)
   if not find(fraction, '^50*$', precision + 1) then return x end
   local _, next_fraction = decimals(next)
   if find(next_fraction, '^50', precision + 1) then return next end
   local kept = (before .. fraction):byte(precision + 1) - 48
   return kept % 2 == 0 and incremented(directive, x) or x  -- C has rounded an odd decimal up to the next even one
end
function string.format(...)
   local text, n, arguments, at = (...), select('#', ...), {...}, 1
   if type(text) == 'string' and find(text, '%%[^%a]*[eEfgG]') then
      text = gsub(text, '(%%[-+ #0]*%d*(%.?%d*)([%a%%]))', function(directive, precision, kind)
         at = kind == '%' and at or at + 1
         local x = arguments[at]
         if find(kind, '[eEfgG]') and type(x) == 'number' then
            precision = precision == '' and 6 or tonumber(precision:sub(2)) or 0
            arguments[at] = away_from_zero(directive, x, precision, kind:lower())
            if type(arguments[at]) == 'string' then return '%s' end
         end
      end)
      arguments[1] = text
   end
   local ok, result = pcall(format, unpack(arguments, 1, n))
   if not ok then error((result:gsub("'%?'", "'format'")), 2) end
   return result
end

-- os.exit would end the Python program without its cleanup, and without a result; dpnn-lua replaces this function
function os.exit(code)
   error('os.exit(' .. (code == nil and '' or tostring(code)) .. ') does not end a Python program: remove the call, or run the file with dpnn-lua', 2)
end

-- split a text at the matches of a pattern; empty parts are kept, except at the ends
function bridge.split(text, pattern)
   local parts, from = {}, 1
   while from <= #text do
      local first, last = text:find(pattern, from)
      if not first or last < first then break end
      if first > 1 then parts[#parts + 1] = text:sub(from, first - 1) end
      from = last + 1
   end
   if from <= #text then parts[#parts + 1] = text:sub(from) end
   return parts
end

string.gfind = string.gfind or string.gmatch
table.unpack = table.unpack or unpack

-- torch.Timer ---------------------------------------------------------------------------------------------------
local Timer = torch.newmetatable('torch.Timer', nil, bind(py.new_timer))
function Timer:time()
   local real, user, sys = py.timer_read(bridge.handle(self))
   return {real = real, user = user, sys = sys}
end
for name, f in pairs(py.timer_methods) do Timer[name] = bind(f) end
-- nn makes timers serializable
Timer.__factory = torch.Timer
function Timer:write() end
function Timer:read() return self end

local seconds = bind(py.seconds)
function torch.tic() return seconds() end
function torch.toc(start)
   if type(start) ~= 'number' then error('bad argument #1 (number expected, got ' .. type(start) .. ')', 2) end
   return seconds() - start
end

-- processors ----------------------------------------------------------------------------------------------------
torch.setnumthreads, torch.getnumthreads, torch.getnumcores = bind(py.setnumthreads), bind(py.getnumthreads), bind(py.getnumcores)
function torch.setheaptracking(on)
   if type(on) ~= 'boolean' then error('bad argument #1 (boolean expected, got ' .. type(on) .. ')', 2) end
   torch._heaptracking = on
end
function torch.updatethreadlocals() end
function torch.updateerrorhandlers() end
torch.hasLapack = function() return true end
torch._heaptracking = true
function torch.test() error('torch.test runs the test suite of Torch7 itself, which the bridge does not contain: run test/test.lua of a checkout of torch7', 2) end
local is_terminal, io_type = bind(py.isatty), io and io.type
function torch.isatty(file)
   if not (io_type and io_type(file)) then error('bad argument #1 (FILE* expected, got ' .. type(file) .. ')', 2) end
   for descriptor, name in pairs {[0] = 'stdin', 'stdout', 'stderr'} do
      if io[name] == file then return is_terminal(descriptor) end
   end
   return false
end

-- storages use Python's memory and ignore the allocator
torch.newmetatable('torch.Allocator', nil, bind(py.new_allocator))

-- packages ------------------------------------------------------------------------------------------------------
local function directory(path) return path:match('^(.*)/[^/]*$') or '.' end

if bridge.open then
   local open = bridge.open
   function torch.packageLuaPath(name)
      if not name then return directory(torch.packageLuaPath('torch')) end
      if type(name) ~= 'string' then error('bad argument #1 (string expected, got ' .. type(name) .. ')', 2) end
      local found = py.find_module(name)
      if found then return directory(found) end
      for pattern in package.path:gmatch('[^;]+') do
         local path = pattern:gsub('%?', (name:gsub('%%', '%%%%')))
         local f = open(path)
         if f then
            f:close()
            return directory(path)
         end
      end
      found = py.find_module(name, true)
      if found then return directory(found) end
      if name == 'torch' then return py.prelude end
   end

   -- test.lua of an installed package is test/test.lua in a checkout
   local function find_in(folder, file)
      local path = folder .. '/' .. file
      return py.exists(path) and path or py.exists(folder .. '/test/' .. file) and folder .. '/test/' .. file or path
   end

   function torch.include(name, file) return dofile(find_in(torch.packageLuaPath(name), file)) end

   -- include 'File.lua' searches the folder of the calling file, or of the file `depth` levels above it in the call stack
   function include(file, depth)
      local source = bridge.debug.getinfo(2 + (depth or 0), 'S').source
      return dofile(file:sub(1, 1) == '/' and file or find_in(directory(source:match('^@(.*)$') or './'), file))
   end
end

-- The folders of lua_path, which may contain checkouts and installed packages, are searched first. Checkouts whose name differs in
-- case are searched after package.path: `require 'RNN'` may mean ./RNN.lua next to a checkout of rnn
if bridge.open then  -- the require of a sandbox is in sandbox.lua
   local searchers = package.loaders or package.searchers
   local function search_lua_path(position, any_case)
      table.insert(searchers, position, function(name)
         local path = py.find_module(name, any_case)
         if not path then return any_case and '' or "\n\tnothing for '" .. name .. "' in lua_path" end
         return assert(loadfile(path))
      end)
   end
   search_lua_path(2, false)
   search_lua_path(4, true)  -- the third searcher is package.path
end

local loaded = package.loaded
for _, name in ipairs {'torch.Tensor', 'torch.File', 'torch.Tester', 'torch.TestSuite', 'torch.CmdLine', 'libtorch', 'cwrap'} do
   loaded[name] = true
end
