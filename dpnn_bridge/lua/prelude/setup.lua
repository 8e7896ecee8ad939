-- Runs first: saves functions of Lua that the prelude needs, because a sandbox removes them later.
local bridge, py = ...

local set_any_metatable = debug.setmetatable
bridge.getmetatable = debug.getmetatable
function bridge.setmetatable(object, mt)
   set_any_metatable(object, mt)
   return object
end
bridge.keep_alive_with = debug.setfenv  -- keep_alive_with(userdata, table) keeps the table alive as long as the userdata
bridge.debug = debug
bridge.dump = not py.sandbox and string.dump or nil  -- a sandbox cannot write functions, because that would expose upvalues of the bridge
local collect = collectgarbage
function bridge.collect()
   collect()
   collect()  -- the first run calls finalizers, the second frees memory
   return collect('count')  -- kilobytes that Lua itself uses
end
-- lupa keeps the Python objects in Lua in a weak table with slots from luaL_ref, and mixes them up in two ways. Between the moment when
-- Lua clears weak tables and the finalizers of the objects, an object that Lua gets again has two userdata, and the finalizer of the
-- first one releases the second one. Without free slots, luaL_ref takes the slot of a collected object, which its finalizer frees.
local references, RESERVE, last = debug.getregistry().LUPA_PYTHON_REFERENCES_TABLE or {}, 2 ^ 14, 0
for slot in pairs(references) do last = math.max(last, slot) end
local witness, boundary, collecting, pcall = setmetatable({}, {__mode = 'v'}), last, false, pcall
function bridge.reserve()  -- called before Lua gets an object
   if not witness[1] and not collecting then  -- weak tables have been cleared: run the finalizers, which may call this function
      collecting = true
      local ok, ended
      repeat ok, ended = pcall(collect, 'step', 2 ^ 20) until ended
      collecting = false
      if not ok then error(ended, 0) end  -- the error of a finalizer
      witness[1] = {}
   end
   if references[boundary] ~= boundary + 1 then  -- lupa has used all slots up to the boundary, RESERVE are left
      local first = last + 1
      boundary, last = last + RESERVE, last + 2 * RESERVE
      for i = first, last do references[i] = i + 1 end
      references[last], references[0] = references[0] or 0, first
   end
end
bridge.reserve()
function bridge.locked(f)  -- no other Python thread runs Lua until f returns
   bridge.reserve()
   f()
end
bridge.open = not py.sandbox and io.open or nil

local ok, ffi = pcall(require, 'ffi')
bridge.ffi = ok and not py.sandbox and ffi or nil
if bridge.ffi then jit.opt.start('maxtrace=8000', 'maxmcode=65536') end  -- at its limits LuaJIT discards all compiled traces
function bridge.refresh() end  -- replaced by ffi/state.lua
if not ok then
   -- enough for Lua files that use ffi only for the generator, such as nn.RReLU
   package.preload.ffi = function()
      local function unsupported() error('ffi needs LuaJIT, this is ' .. _VERSION, 2) end
      return {
         cdef = function() end, load = unsupported, cast = unsupported, new = unsupported,
         typeof = function() return function(object) return {[0] = object} end end,
      }
   end
end

-- When a coroutine calls Python and Python calls Lua, lupa clears the stack of the function that the main thread is calling. For
-- coroutine.resume, that would break the coroutine. Therefore the main thread calls coroutine.resume from another coroutine.
local resume, running, wrap, yield = coroutine.resume, coroutine.running, coroutine.wrap, coroutine.yield
local function carry(...) return carry(yield(resume(...))) end
local idle
local function ended(carrier, ...)
   idle = carrier
   return ...
end
function coroutine.resume(thread, ...)
   local current, is_main = running()
   if current and not is_main or type(thread) ~= 'thread' then return resume(thread, ...) end
   local carrier = idle or wrap(carry)
   idle = nil
   return ended(carrier, carrier(thread, ...))
end

-- a unique number for each table, function and thread
local addresses, count = setmetatable({}, {__mode = 'k'}), 0
function bridge.address(object)
   if type(object) == 'string' then return #object > 0 and tonumber('1' .. object:byte(1)) or 1 end
   if not addresses[object] then
      count = count + 1
      addresses[object] = 16 * count
   end
   return addresses[object]
end

-- Lua does not verify bytecode, which can therefore do anything: never load it
local BYTECODE = 27
local type, byte, concat, error = type, string.byte, table.concat, error  -- a script may replace the global ones
local load_text = loadstring or load
local function checked(chunk, ...)
   if type(chunk) == 'function' then
      local parts = {}
      while true do
         local part = chunk()
         if part == nil or part == '' then break end
         if type(part) ~= 'string' then error('reader function must return a string', 2) end
         parts[#parts + 1] = part
      end
      chunk = concat(parts)
   end
   if type(chunk) == 'number' then chunk = chunk .. '' end
   if type(chunk) ~= 'string' then error("bad argument #1 to 'load' (string or function expected, got " .. type(chunk) .. ')', 2) end
   if byte(chunk, 1) == BYTECODE then return nil, 'Lua bytecode is not loaded' end
   return load_text(chunk, ...)
end
bridge.load = load_text
loadstring = loadstring and checked
load = checked
