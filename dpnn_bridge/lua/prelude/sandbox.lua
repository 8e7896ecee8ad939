-- Runs last: takes Python's table from Lua, and in a sandbox everything that reaches outside.
local bridge, py = ...

python = nil
package.loaded.python = nil
if not py.sandbox then return end

-- instruction limit: a hook that raises, again in every coroutine
local sethook = bridge.debug.sethook
local function stop() error('the instruction limit of the sandbox is used up', 2) end
local STEP = 1000
local left
local function count()
   left = left - STEP
   if left <= 0 then
      sethook(stop, '', 1)  -- from here every instruction raises, so that pcall cannot go on for long
      stop()
   end
end
function bridge.start_counting(n)
   left = n
   sethook(count, '', STEP)
end
bridge.stop_counting = sethook  -- the C function: a Lua one would be stopped by the hook itself
local create, resume = coroutine.create, coroutine.resume
function coroutine.create(f)
   local thread = create(f)
   sethook(thread, count, '', STEP)
   return thread
end
function coroutine.wrap(f)
   local thread = coroutine.create(f)
   return function(...)
      local function finish(ok, ...)
         if not ok then error((...), 2) end
         return ...
      end
      return finish(resume(thread, ...))
   end
end

-- require finds what is loaded already and what the caller's lua_path holds, by our searchers alone
local loaded, preload = package.loaded, package.preload
local find, load_text = py.find_module, loadstring
local read = py.read_text
function require(name)
   if loaded[name] ~= nil then return loaded[name] end
   local loader = preload[name]
   if not loader then
      local path = find(name)
      if path then loader = assert(load_text(read(path), '@' .. path)) else loader = bridge.packages[name] end
   end
   if not loader then error("module '" .. tostring(name) .. "' not found: the sandbox has what lua_path names", 2) end
   loaded[name] = true
   local value = loader(name)
   if value ~= nil then loaded[name] = value end
   return loaded[name]
end

os = {clock = os.clock, time = os.time, date = os.date, difftime = os.difftime}
io = {write = function(...) for _, v in ipairs {...} do py.write(tostring(v)) end end, flush = function() end}
io.stdout, io.stderr = {write = function(_, ...) io.write(...) end}, {write = function(_, ...) io.write(...) end}
for _, name in ipairs {'package', 'debug', 'dofile', 'loadfile', 'module', 'newproxy', 'getfenv', 'setfenv',
                       'include', 'ffi', 'jit', 'paths', 'sys'} do
   _G[name] = nil
end
string.dump = nil
for name in pairs(loaded) do
   if name == 'io' or name == 'os' or name == 'package' or name == 'debug' or name == 'ffi' or name == 'jit' or name == '_G' then
      loaded[name] = nil
   end
end
function torch.save() error('the sandbox has no files', 2) end
torch.load, torch.saveobj, torch.loadobj = torch.save, torch.save, torch.save
