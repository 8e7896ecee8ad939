-- Runs first: what the rest of the prelude needs from Lua itself is put aside, then a sandbox loses the rest.
local bridge, py = ...

local setmetatable_of_any = debug.setmetatable
bridge.getmetatable = debug.getmetatable
function bridge.setmetatable(object, mt)
   setmetatable_of_any(object, mt)
   return object
end
bridge.debug = debug
local collect = collectgarbage
function bridge.collect()
   collect()
   collect()  -- the first run finalizes, the second frees
end
bridge.sethook = debug.sethook
bridge.open = not py.sandbox and io.open or nil

local ok, ffi = pcall(require, 'ffi')
bridge.ffi = ok and not py.sandbox and ffi or nil
if not ok then
   -- enough for Lua files that only look at the generator through ffi, as nn.RReLU does
   package.preload.ffi = function()
      local function refuse() error('ffi needs LuaJIT, this is ' .. _VERSION, 2) end
      return {
         cdef = function() end, load = refuse, cast = refuse, new = refuse,
         typeof = function() return function(object) return {[0] = object} end end,
      }
   end
end

-- a number for each table, function, thread
local addresses, count = setmetatable({}, {__mode = 'k'}), 0
function bridge.address(object)
   if type(object) == 'string' then return #object > 0 and tonumber('1' .. object:byte(1)) or 1 end
   if not addresses[object] then
      count = count + 1
      addresses[object] = 16 * count
   end
   return addresses[object]
end

-- compiled code is not checked by Lua and can do anything: refuse it everywhere
local BYTECODE = '\27'
local function checked(original)
   return original and function(chunk, ...)
      if type(chunk) == 'string' and chunk:sub(1, 1) == BYTECODE then return nil, 'Lua bytecode is not loaded' end
      if type(chunk) == 'function' then
         local parts = {}
         while true do
            local part = chunk()
            if part == nil or part == '' then break end
            parts[#parts + 1] = part
         end
         return (loadstring or load)(table.concat(parts), ...)
      end
      return original(chunk, ...)
   end
end
bridge.load = loadstring or load
loadstring = checked(loadstring)
load = checked(load)
