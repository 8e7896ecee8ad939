-- Brackets without calling Python: t[i], t[{...}], storage[i].
local bridge = ...
local native, metatables = bridge.native, bridge.metatables
local states, storages, read, read_storage, wrap = native.states, native.storages, native.read, native.read_storage, native.wrap
local narrowed, selected = native.narrowed, native.selected
local rawget, type, tonumber, floor = rawget, type, tonumber, math.floor

-- range of the integers that are stored without Python's conversion; floating types store any number
local limits = {Byte = {0, 255}, Char = {-128, 127}, Short = {-32768, 32767}, Int = {-2^31, 2^31 - 1}, Long = {-2^31, 2^31 - 1}}
native.limits = {Float = {}, Double = {}}
for ty, limit in pairs(limits) do native.limits[ty] = limit end
function native.fits(ty, value)
   local limit = limits[ty]
   return type(value) == 'number' and (not limit or value >= limit[1] and value <= limit[2] and floor(value) == value)
end

-- Source of the element I of the memory P. LuaJIT reads a NaN with certain bits, which other programs and PyTorch's vector code
-- write, as a value of another type (nil or a pointer), so every such NaN becomes LuaJIT's own NaN.
local ffi = bridge.ffi
native.words = ffi.typeof('const int32_t *')
native.at = {
   Double = '(band(cast(words, P + (I))[1], 0x7FFFFFFF) > 0x7FF80000 and 0 / 0 or P[I])',
   Float = '(band(cast(words, P + (I))[0], 0x7FFFFFFF) > 0x7FC00000 and 0 / 0 or P[I])',
}
local function real(ty)
   local source = 'local cast, words, band = ... return function(S, I) local P = S.block.data return ' .. native.at[ty] .. ' end'
   return bridge.load(source, '=element')(ffi.cast, native.words, bit.band)
end
local reals = {Float = real('Float'), Double = real('Double')}

for ty in pairs(native.c_types) do
   if ty ~= 'Half' then
      local limit = limits[ty]
      local low, high = limit and limit[1], limit and limit[2]
      native.get[ty] = ty == 'Long' and function(S, index) return tonumber(S.block.data[index]) end
         or reals[ty] or function(S, index) return S.block.data[index] end
      native.put[ty] = limit and function(S, index, value)
         if not (value >= low and value <= high and floor(value) == value) then return false end
         S.block.data[index] = value
         return true
      end or function(S, index, value) S.block.data[index] = value; return true end
   end
end

-- apply an index t[{...}]: returns the view, or nil and the index in the storage of a single element; nothing if Python must do it
local function apply_index(S, spec)
   local d, V = 1, S
   for i = 1, #spec do
      local entry = spec[i]
      if d > V.n then return nil end
      local size = V[2 * d - 1]
      if type(entry) == 'number' then
         if entry < 0 then entry = entry + size + 1 end
         if entry < 1 or entry > size or floor(entry) ~= entry then return nil end
         if V.n == 1 then
            if i < #spec then return nil end
            return nil, V.offset + (entry - 1) * V[2]
         end
         V = selected(V, d, entry - 1)
      elseif type(entry) == 'table' then
         local first, last = entry[1], entry[2]
         if (first ~= nil and type(first) ~= 'number') or (last ~= nil and type(last) ~= 'number') then return nil end
         if first == nil then first, last = 1, last or size else last = last or first end
         if first < 0 then first = first + size + 1 end
         if last < 0 then last = last + size + 1 end
         if first < 1 or last > size or last < first or floor(first) ~= first or floor(last) ~= last then return nil end
         V = narrowed(V, d, first - 1, last - first + 1)
         d = d + 1
      else
         return nil
      end
   end
   return V
end

for ty in pairs(native.c_types) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local get, put = native.get[ty], native.put[ty]
   local generic_index, generic_newindex, slow_index, slow_newindex = mt.__index, mt.__newindex, mt.__index__, mt.__newindex__
   local fill, copy

   local function number(self, key)
      local S = states[self] or read(self)
      if not (S and S.n > 0 and get) then return nil end
      local size = S[1]
      if key < 0 then key = key + size + 1 end
      if key < 1 or key > size or floor(key) ~= key then return nil end
      if S.n == 1 then return get(S, S.offset + (key - 1) * S[2]) end
      return wrap(selected(S, 1, key - 1))
   end

   mt.__index__ = function(self, key)
      local value
      if type(key) == 'number' then
         value = number(self, key)
      elseif type(key) == 'table' then
         local S = states[self] or read(self)
         if S and get and #key > 0 then
            local V, index = apply_index(S, key)
            if index then value = get(S, index) elseif V and V ~= S then value = wrap(V) end
         end
      end
      if value ~= nil then return value, true end
      return slow_index(self, key)
   end

   mt.__index = function(self, key)
      if type(key) == 'string' then
         local value = rawget(mt, key)
         if value ~= nil then return value end
      elseif type(key) == 'number' then
         local value = number(self, key)
         if value ~= nil then return value end
      end
      return generic_index(self, key)
   end

   local function store(self, S, V, index, value)
      if index then
         return type(value) == 'number' and put(S, index, value)
      end
      local object = wrap(V)
      if type(value) == 'number' then mt.fill(object, value) return true end
      local T = states[value] or read(value)
      if T and T.count == V.count then mt.copy(object, value) return true end
      return false
   end

   mt.__newindex__ = function(self, key, value)
      local S = put and (states[self] or read(self))
      if S and S.n > 0 then
         if type(key) == 'number' then
            local size = S[1]
            local at = key < 0 and key + size + 1 or key
            if at >= 1 and at <= size and floor(at) == at then
               if S.n == 1 then
                  if type(value) == 'number' and put(S, S.offset + (at - 1) * S[2], value) then return true end
               elseif store(self, S, selected(S, 1, at - 1), nil, value) then
                  return true
               end
            end
         elseif type(key) == 'table' and #key > 0 then
            local V, index = apply_index(S, key)
            if (V or index) and store(self, S, V, index, value) then return true end
         end
      end
      return slow_newindex(self, key, value)
   end

   mt.__newindex = function(self, key, value)
      if type(key) == 'number' and type(value) == 'number' and put then
         local S = states[self] or read(self)
         if S and S.n == 1 and key >= 1 and key <= S[1] and floor(key) == key
            and put(S, S.offset + (key - 1) * S[2], value) then
            return
         end
      end
      return generic_newindex(self, key, value)
   end

   local storage = metatables['torch.' .. ty .. 'Storage']
   local get_slow, put_slow = storage.__index__, storage.__newindex__
   storage.__index__ = function(self, key)
      if type(key) == 'number' and get then
         local block = storages[self] or read_storage(self, ty)
         if block and block.ty == ty and key >= 1 and key <= block.size and floor(key) == key then
            return get({block = block}, key - 1), true
         end
      end
      return get_slow(self, key)
   end
   storage.__newindex__ = function(self, key, value)
      if type(key) == 'number' and type(value) == 'number' and put then
         local block = storages[self] or read_storage(self, ty)
         if block and block.ty == ty and key >= 1 and key <= block.size and floor(key) == key
            and put({block = block}, key - 1, value) then
            return true
         end
      end
      return put_slow(self, key, value)
   end
end
