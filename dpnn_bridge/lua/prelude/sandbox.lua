-- Runs last: removes Python's table from Lua, and in a sandbox all functions that access anything outside.
local bridge, py = ...

python = nil
package.loaded.python = nil
if not py.sandbox then return end

local type, select, error, assert, tostring = type, select, error, assert, tostring
local handle, typename = bridge.handle, bridge.typename

-- convert an exception of Python to text, because Lua must not get objects of Python that are not wrapped
local function text_of(e)
   if type(e) == 'userdata' and handle(e) == nil and typename(e) == nil then return tostring(e) end
   return e
end
local function clean(ok, ...)
   if ok then return ok, ... end
   return ok, text_of((...))
end
local protected, with_handler = pcall, xpcall
function pcall(...) return clean(protected(...)) end
function xpcall(f, handler)
   return clean(with_handler(f, type(handler) == 'function' and function(e) return handler(text_of(e)) end or handler))
end

-- instruction limit: a hook that raises an error, set in every coroutine
local sethook = bridge.debug.sethook
local function stop() error('the sandbox has reached its limit of instructions (max_instructions)', 2) end
local STEP = 1000
local left
local function count()
   left = left - STEP
   if left <= 0 then
      sethook(stop, '', 1)  -- from now on every instruction raises an error, so that code in pcall cannot continue
      stop()
   end
end
function bridge.start_counting(n)
   left = n
   sethook(count, '', STEP)
end
bridge.stop_counting = sethook  -- a C function, because the hook would stop a Lua function
local create, resume = coroutine.create, coroutine.resume
function coroutine.create(f)
   local thread = create(f)
   sethook(thread, count, '', STEP)
   return thread
end
function coroutine.resume(...) return clean(resume(...)) end
function coroutine.wrap(f)
   local thread = create(f)
   sethook(thread, count, '', STEP)
   return function(...)
      local function finish(ok, ...)
         if not ok then error(text_of((...)), 2) end
         return ...
      end
      return finish(resume(thread, ...))
   end
end

-- require finds loaded modules, files of lua_path, which the parent process reads, and packages of the bridge
local loaded, preload = package.loaded, package.preload
local source, load_text = py.module_source, loadstring
function require(name)
   if type(name) ~= 'string' then error("bad argument #1 to 'require' (string expected)", 2) end
   if loaded[name] ~= nil then return loaded[name] end
   local loader = preload[name]
   if not loader then
      local path, text = source(name)
      if not path and text then error(text, 2) end  -- the file cannot be read
      if path then loader = assert(load_text(text, '@' .. path)) else loader = bridge.packages[name] end
   end
   if not loader then error("module '" .. name .. "' not found: a sandbox can only load files in lua_path and beside the Lua file", 2) end
   loaded[name] = true  -- for files that require each other
   local ok, value = clean(protected(loader, name))
   if not ok then
      loaded[name] = nil
      error(value, 0)
   end
   if value ~= nil then loaded[name] = value end
   return loaded[name]
end

local write = py.write
local function put(...)
   for i = 1, select('#', ...) do write(tostring((select(i, ...)))) end
end
os = {clock = os.clock, time = os.time, date = os.date, difftime = os.difftime}
io = {write = put, flush = function() end}
io.stdout, io.stderr = {write = function(_, ...) put(...) end}, {write = function(_, ...) put(...) end}
io.stdout.flush, io.stderr.flush = io.flush, io.flush
function print(...)
   local words = {...}
   for i = 1, select('#', ...) do words[i] = tostring(words[i]) end
   put(table.concat(words, '\t'), '\n')
end
for _, name in ipairs {'package', 'debug', 'dofile', 'loadfile', 'module', 'newproxy', 'getfenv', 'setfenv',
                       'paths', 'sys', 'gcinfo'} do
   _G[name] = nil
end
string.dump = nil
for name in pairs(loaded) do
   if name == 'io' or name == 'os' or name == 'package' or name == 'debug' or name == '_G' or name == 'paths'
      or name == 'sys' then
      loaded[name] = nil
   end
end
function torch.save() error('a sandbox cannot read or write files', 2) end
torch.load, torch.saveobj, torch.loadobj = torch.save, torch.save, torch.save

-- the metatables of Python's objects contain functions of lupa; those of classes and tables belong to the script
local getmt = getmetatable
function getmetatable(object)
   if type(object) == 'userdata' and typename(object) == nil then return nil end
   return getmt(object)
end
