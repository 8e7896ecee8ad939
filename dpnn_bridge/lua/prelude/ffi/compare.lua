-- Comparisons of small tensors with numbers and tensors, and conversions between element types.
local bridge, py = ...
local native, metatables = bridge.native, bridge.metatables
local state, fresh, resize_as = native.state, native.fresh, native.resize_as
local loops, number_of = native.loops, native.number_of
local pointwise, FEW = loops.pointwise, loops.FEW
local type, select, ipairs = type, select, ipairs

-- result = name of X and b, a number or a tensor of its type; false where Python must
local function compare(name, object, R, X, b)
   if X.count == 0 or X.count > FEW or X.ty == 'Half' or R.block == X.block then return false end
   local Y, v
   if type(b) == 'number' then
      v = number_of(X.ty, b)
      if not v then return false end
      name = name .. '_number'
   else
      Y = state(b, X.ty)
      if not Y or Y.count ~= X.count or R.block == Y.block then return false end
   end
   return resize_as(object, R, X) and pointwise(name, R, X, Y, nil, v)
end

-- (t, x): a new ByteTensor | (result, t, x)
local function call(name, ty, n, a, b, c)
   if n == 2 then
      local X = state(a, ty)
      if not X then return nil end
      local object, R = fresh('Byte')
      return compare(name, object, R, X, b) and object
   elseif n == 3 then
      local R, X = state(a), state(b, ty)
      return R and X and (R.ty == 'Byte' or R.ty == X.ty) and compare(name, a, R, X, c) and a
   end
end

local COMPARED = {'Byte', 'Char', 'Short', 'Int', 'Long', 'Float', 'Double'}
for _, name in ipairs {'lt', 'gt', 'le', 'ge', 'eq', 'ne'} do
   for _, ty in ipairs(COMPARED) do
      local mt = metatables['torch.' .. ty .. 'Tensor']
      local slow = mt[name]
      mt[name] = function(...)
         local found = call(name, ty, select('#', ...), ...)
         if found then return found end
         return slow(...)
      end
   end
   local slow = torch[name]
   torch[name] = function(...)
      local first = ...
      local S = state(first)
      local found = S and call(name, S.ty, select('#', ...), ...)
      if found then return found end
      return slow(...)
   end
end

-- t:long(), t:double(), t:type('torch.LongTensor') ... where C's conversion is exact
local limits = {Byte = {0, 255}, Char = {-128, 127}, Short = {-32768, 32767}, Int = {-2^31, 2^31 - 1}, Long = {-2^53, 2^53}}
local from_long = {Float = {-2^24, 2^24}}  -- others are rounded twice on the way
loops.expressions.number = 'tonumber(x)'
local function converted(S, ty)
   if S.count == 0 or S.count > FEW or S.n > 4 then return nil end
   local limit = limits[ty] or (S.ty == 'Long' and from_long[ty])
   if limit then
      local low, high = loops.reduce('min', S), loops.reduce('max', S)
      if not low or not (low >= limit[1] and high <= limit[2]) then return nil end
   end
   local object, R = fresh(ty)
   return resize_as(object, R, S) and pointwise(S.ty == 'Long' and 'number' or 'copy', R, S) and object
end
local method = {Byte = 'byte', Char = 'char', Short = 'short', Int = 'int', Long = 'long', Float = 'float', Double = 'double'}
for _, from in ipairs(COMPARED) do
   local mt = metatables['torch.' .. from .. 'Tensor']
   for _, ty in ipairs(COMPARED) do
      local slow = mt[method[ty]]
      if ty ~= from and slow then
         mt[method[ty]] = function(self, ...)
            local S = state(self, from)
            local found = S and converted(S, ty)
            if found then return found end
            return slow(self, ...)
         end
      elseif slow then
         mt[method[ty]] = function(self, ...)
            if state(self, from) then return self end
            return slow(self, ...)
         end
      end
   end
   local slow = mt.type
   mt.type = function(self, name, ...)
      if name == nil and select('#', ...) == 0 then
         if state(self, from) then return 'torch.' .. from .. 'Tensor' end
      elseif type(name) == 'string' then
         local ty = name:match('^torch%.(%a+)Tensor$')
         local S = ty and state(self, from)
         if S and S.ty == ty then return self end
         local object = S and method[ty] and converted(S, ty)
         if object then return object end
      end
      return slow(self, name, ...)
   end
end
