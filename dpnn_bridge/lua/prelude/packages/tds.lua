-- tds: hashes, vectors and counters. In Torch7 their memory is outside Lua; here each object has a Lua table. They have the same format
-- in files as Torch7's tds.
local bridge = ...
tds = {}
local contents, sizes = setmetatable({}, {__mode = 'k'}), setmetatable({}, {__mode = 'k'})

local function class(name, fill)
   local mt
   local function new(...)
      local object = bridge.setmetatable(newproxy(false), mt)
      contents[object], sizes[object] = {}, 0
      fill(object, ...)
      return object
   end
   mt = torch.newmetatable('tds.' .. name, nil, new, nil, function() return new() end)
   mt.__version = 0
   return mt
end

-- convert nested tables to hashes and vectors
local function has_only_numbers(values)
   for key in pairs(values) do
      if type(key) ~= 'number' then return false end
   end
   return true
end
local function converted(value)
   if type(value) ~= 'table' or torch.typename(value) then return value end
   return has_only_numbers(value) and tds.Vec(value) or tds.Hash(value)
end

-- the elements as lines of text, at most 20; a value of several lines is indented
local function elements_text(object, name, label)
   local lines, count = {name .. '[' .. #object .. ']{'}, 0
   for key, value in pairs(object) do
      if count == 20 then break end
      local front = label(key)
      local text = tostring(value):gsub('\n([^\n])', '\n' .. (' '):rep(#front) .. '%1')
      lines[#lines + 1] = front .. text
      count = count + 1
   end
   if count == 20 then lines[#lines + 1] = '...' end
   lines[#lines + 1] = '}'
   return table.concat(lines, '\n')
end

-- Hash ----------------------------------------------------------------------------------------------------------
local hash = class('Hash', function(self, ...)
   local n, values = select('#', ...), ...
   if n > 0 and not (n == 1 and type(values) == 'table') then error('lua table or nothing expected', 4) end
   for key, value in pairs(values or {}) do contents[self][converted(key)] = converted(value) end
end)
function hash:__index__(key)  -- every string is a key, because a hash has no methods
   if key == nil then error('hash index is nil', 3) end
   return contents[self][key], true
end
function hash:__newindex__(key, value)
   if key == nil then error('hash index is nil', 3) end
   contents[self][key] = converted(value)
   return true
end
function hash:__len__()
   local count = 0
   for _ in next, contents[self] do count = count + 1 end
   return count
end
function hash:__pairs() return next, contents[self], nil end
function hash:__tostring__()
   local width, count = 0, 0
   local printable = {string = true, number = true, boolean = true}
   local function name(key) return printable[type(key)] and tostring(key) or torch.type(key) end
   for key in pairs(self) do
      width, count = math.max(width, #name(key)), count + 1
      if count == 20 then break end
   end
   return elements_text(self, 'tds.Hash', function(key) return name(key) .. (' '):rep(width - #name(key)) .. ' : ' end)
end
function hash.write(self, file)
   file:writeLong(#self)
   for key, value in pairs(self) do
      file:writeObject(key)
      file:writeObject(value)
   end
end
function hash.read(self, file)
   for _ = 1, file:readLong() do
      local key = file:readObject()
      contents[self][key] = file:readObject()
   end
end
torch.metatype('tds_hash', {__factory = hash.__factory})  -- the name until October 2015

-- Vec: its size counts elements that are nil; positions are truncated to integers ---------------------------------
local function check_position(key)
   if type(key) ~= 'number' or key <= 0 then error('positive number expected as key', 4) end
   return math.max(1, math.floor(key))
end
local function put(self, key, value)
   key = check_position(key)
   contents[self][key] = converted(value)
   sizes[self] = math.max(sizes[self], key)
end
local vec = class('Vec', function(self, ...)
   local first = ...
   local values = type(first) == 'table' and not torch.typename(first) and select('#', ...) == 1 and first or {...}
   if not has_only_numbers(values) then error('lua table with number keys expected', 4) end
   for key, value in pairs(values) do put(self, key, value) end
end)
local methods = {}
function vec:__index__(key)
   if type(key) == 'number' then return contents[self][check_position(key)], true end
   return methods[key] or error('invalid key (number) or method name', 3), true
end
function vec:__newindex__(key, value)
   put(self, key, value)
   return true
end
function vec:__len__() return sizes[self] end
function methods:insert(...)
   local n, key, value = select('#', ...), ...
   if n == 1 then key, value = sizes[self] + 1, key elseif n ~= 2 then error('[key] value expected', 2) end
   local list = contents[self]
   key = check_position(key)
   for i = sizes[self], key, -1 do list[i + 1] = list[i] end
   sizes[self] = sizes[self] + 1
   put(self, key, value)
end
function methods:remove(key)
   local list, size = contents[self], sizes[self]
   key = check_position(key or size)
   if key > size then return end
   for i = key, size do list[i] = list[i + 1] end
   sizes[self] = size - 1
end
function methods:resize(size)
   if type(size) ~= 'number' or size < 0 then error('size must be a positive number', 2) end
   size = math.floor(size)
   for i = sizes[self], size + 1, -1 do contents[self][i] = nil end
   sizes[self] = size
end
function methods:concat(separator, first, last)
   local texts = {}
   for i = first or 1, last or #self do texts[#texts + 1] = tostring(self[i]) end
   return table.concat(texts, separator)
end
function methods:concatstorage(...) return torch.CharStorage():string(self:concat(...)) end
function methods:sort(before)
   if type(before) ~= 'function' then error('compare function must be a lua or C function', 2) end
   local list, boxes = contents[self], {}
   for i = 1, sizes[self] do boxes[i] = {list[i]} end  -- an element may be nil
   table.sort(boxes, function(a, b) return before(a[1], b[1]) end)
   for i, box in ipairs(boxes) do list[i] = box[1] end
end
function vec:__ipairs()
   local i = 0
   return function()
      i = i + 1
      if i <= sizes[self] then return i, contents[self][i] end
   end
end
vec.__pairs = vec.__ipairs
function vec:__tostring__() return elements_text(self, 'tds.Vec', function(key) return ('%5d : '):format(key) end) end
function vec.write(self, file)
   file:writeLong(#self)
   for _, value in ipairs(self) do file:writeObject(value) end
end
function vec.read(self, file)
   for i = 1, file:readLong() do put(self, i, file:readObject()) end
end
torch.metatype('tds_vec', {__factory = vec.__factory})

-- AtomicCounter -------------------------------------------------------------------------------------------------
local counter = torch.class('tds.AtomicCounter')
counter.__version = 0
function counter:__init() self.value = 0 end
function counter:inc() self.value = self.value + 1; return self.value - 1 end
function counter:get()
   if bridge.wait_for_others then bridge.wait_for_others() end
   return self.value
end
function counter:set(value)
   if type(value) ~= 'number' then error("bad argument #1 to 'set' (cannot convert '" .. type(value) .. "' to 'int64_t')", 2) end
   self.value = value < 0 and math.ceil(value) or math.floor(value)
end
function counter:__tostring__() return 'tds.AtomicCounter=' .. self.value end
function counter:write(file) file:writeLong(self.value) end
function counter:read(file) self.value = file:readLong() end

tds.hash, tds.vec, tds.atomic_counter = tds.Hash, tds.Vec, tds.AtomicCounter

-- pairs and ipairs of Lua 5.1 ignore metatables
if #bridge.setmetatable(newproxy(false), {__len = function() return 1 end}) == 1 then
   for name, key in pairs {pairs = '__pairs', ipairs = '__ipairs'} do
      local original = _G[name]
      _G[name] = function(object)
         if type(object) == 'userdata' then
            local mt = bridge.getmetatable(object)
            if mt and mt[key] then return mt[key](object) end
         end
         return original(object)
      end
   end
end
return tds
