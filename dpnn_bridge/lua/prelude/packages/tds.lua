-- tds: hashes and vectors. In Torch7 they live outside of Lua's memory; here they are tables behind an object.
local bridge = ...
tds = {}
local contents = setmetatable({}, {__mode = 'k'})

local function new(name)
   local object = bridge.setmetatable(newproxy(false), torch.getmetatable(name))
   contents[object] = {}
   return object
end

-- nested tables become hashes and vectors
local function kept(value)
   if type(value) ~= 'table' or torch.typename(value) then return value end
   for key in pairs(value) do
      if type(key) ~= 'number' then return tds.Hash(value) end
   end
   return tds.Vec(value)
end

local hash = torch.newmetatable('tds.Hash', nil, function(values)
   local self = new('tds.Hash')
   for key, value in pairs(values or {}) do contents[self][key] = kept(value) end
   return self
end, nil, function() return new('tds.Hash') end)
function hash:__index__(key)
   local value = contents[self][key]
   if value ~= nil or type(key) ~= 'string' or rawget(hash, key) == nil then return value, true end
   return false
end
function hash:__newindex__(key, value)
   contents[self][key] = kept(value)
   return true
end
function hash:__len__()
   local count = 0
   for _ in next, contents[self] do count = count + 1 end
   return count
end
function hash:__pairs() return next, contents[self], nil end
function hash:__tostring__()
   local parts = {}
   for key, value in next, contents[self] do parts[#parts + 1] = tostring(key) .. ' : ' .. tostring(value) .. '\n' end
   return 'tds.Hash[' .. #self .. ']{\n' .. table.concat(parts) .. '}'
end
function hash:write(file) file:writeObject(contents[self]) end
function hash:read(file) contents[self] = file:readObject() end

local vec = torch.newmetatable('tds.Vec', nil, function(...)
   local self, first = new('tds.Vec'), ...
   local values = type(first) == 'table' and not torch.typename(first) and select('#', ...) == 1 and first or {...}
   for i, value in ipairs(values) do contents[self][i] = kept(value) end
   return self
end, nil, function() return new('tds.Vec') end)
function vec:__index__(key)
   if type(key) == 'number' then return contents[self][key], true end
   return false
end
function vec:__newindex__(key, value)
   contents[self][key] = kept(value)
   return true
end
function vec:__len__() return #contents[self] end
function vec:insert(...)
   local at, value = ...
   if select('#', ...) == 1 then at, value = #contents[self] + 1, at end
   table.insert(contents[self], at, kept(value))
end
function vec:remove(...) return table.remove(contents[self], ...) end
function vec:resize(count)
   for i = #contents[self], count + 1, -1 do contents[self][i] = nil end
end
function vec:concat(separator, first, last) return table.concat(contents[self], separator, first, last) end
function vec:sort(before) table.sort(contents[self], before) end
local function following(list, i)
   if list[i + 1] ~= nil then return i + 1, list[i + 1] end
end
function vec:__ipairs() return following, contents[self], 0 end
vec.__pairs = vec.__ipairs
function vec:__tostring__()
   local parts = {}
   for i, value in ipairs(contents[self]) do parts[i] = i .. ' : ' .. tostring(value) .. '\n' end
   return 'tds.Vec[' .. #self .. ']{\n' .. table.concat(parts) .. '}'
end
vec.write, vec.read = hash.write, hash.read

tds.hash, tds.vec = tds.Hash, tds.Vec

local counter = torch.class('tds.AtomicCounter')
function counter:__init(value) self.value = value or 0 end
function counter:inc() self.value = self.value + 1; return self.value - 1 end
function counter:get()
   if bridge.wait_for_others then bridge.wait_for_others() end
   return self.value
end
function counter:set(value) self.value = value end

-- Lua 5.1 asks no metatable in pairs
if #bridge.setmetatable(newproxy(false), {__len = function() return 1 end}) == 1 then
   for name, key in pairs {pairs = '__pairs', ipairs = '__ipairs'} do
      local plain = _G[name]
      _G[name] = function(object)
         if type(object) == 'userdata' then
            local mt = bridge.getmetatable(object)
            if mt and mt[key] then return mt[key](object) end
         end
         return plain(object)
      end
   end
end
return tds
