-- Copies of tensors, conversions between element types, and operators, without calling Python.
local bridge = ...
local ffi, native, metatables = bridge.ffi, bridge.native, bridge.metatables
local states, read, state, fresh, new_like = native.states, native.read, native.state, native.fresh, native.new_like
local resize_as, loops = native.resize_as, native.loops
local pointwise, FEW, LONG = loops.pointwise, loops.FEW, loops.LONG
local packed, vectors = native.packed, native.vectors
local type, select, ipairs = type, select, ipairs

local WIDE = {Int = true, Long = true}  -- in loops, their elements are 64-bit integers, which must be converted to numbers

-- range of the integers that each type represents exactly
local limits = {Byte = {0, 255}, Char = {-128, 127}, Short = {-32768, 32767}, Int = {-2^31, 2^31 - 1}, Long = {-2^53, 2^53}}
local from_long = {Float = {-2^24, 2^24}}  -- other numbers would be rounded twice
-- range in which the conversion to type ty is exact; nil if it is exact for all numbers of type `from`
local function range_of(ty, from)
   local limit, own = limits[ty] or from == 'Long' and from_long[ty], limits[from]
   return not (limit and own and own[1] >= limit[1] and own[2] <= limit[2]) and limit or nil
end
-- R = X of another type; false if the conversion is not exact, or Python must do it
local function convert(R, X)
   if R.ty == 'Half' or X.ty == 'Half' then return false end
   local limit = range_of(R.ty, X.ty)
   if limit then
      local low, high = loops.limits(X)
      if not (low and low >= limit[1] and high <= limit[2]) then return false end
   end
   return X.count > LONG and vectors.copy(R, X) or X.count <= FEW and pointwise(WIDE[X.ty] and 'number' or 'copy', R, X)
end

-- set all elements of S to 0; nil if Python must do it
function native.zero(S)
   if packed(S) then
      ffi.fill(S.block.data + S.offset, S.count * native.c_types[S.ty].size)
      return true
   end
   return S.count <= FEW and S.ty ~= 'Half' and pointwise('zero', S, S) or nil
end

-- zero, copy, clone of all types
for ty, c_type in pairs(native.c_types) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local zero, copy, clone = mt.zero, mt.copy, mt.clone
   mt.zero = function(self, ...)
      local S = states[self] or read(self)
      return S and S.ty == ty and S.count > 0 and select('#', ...) == 0 and native.zero(S) and self or zero(self, ...)
   end
   mt.copy = function(self, source, ...)
      local S, T = states[self] or read(self), states[source] or read(source)
      if S and T and S.ty == ty and S.count == T.count and S.count > 0 and S.block ~= T.block then
         if T.ty == ty then
            if S.dense and T.dense or packed(S) and native.same_geometry(S, T) then
               ffi.copy(S.block.data + S.offset, T.block.data + T.offset, S.count * c_type.size)
               return self
            elseif ty ~= 'Half' and (S.count > LONG and vectors.copy(S, T) or S.count <= FEW and pointwise('copy', S, T)) then
               return self
            end
         elseif convert(S, T) then
            return self
         end
      end
      return copy(self, source, ...)
   end
   mt.clone = function(self, ...)
      local S = states[self] or read(self)
      if S and S.ty == ty and S.n > 0 and S.count > 0 then
         local object = new_like(S)
         if object then return mt.copy(object, self) end
      end
      return clone(self, ...)
   end
end

-- t:long(), t:double(), t:type('torch.LongTensor') ...
local TYPES = {'Byte', 'Char', 'Short', 'Int', 'Long', 'Float', 'Double'}
local function converted(S, ty)
   local object, R = fresh(ty)
   return S.count > 0 and S.n <= 4 and resize_as(R, S) and convert(R, S) and object
end
local method = {Byte = 'byte', Char = 'char', Short = 'short', Int = 'int', Long = 'long', Float = 'float', Double = 'double'}
for _, from in ipairs(TYPES) do
   local mt = metatables['torch.' .. from .. 'Tensor']
   for _, ty in ipairs(TYPES) do
      local slow = mt[method[ty]]
      if ty ~= from and slow then
         mt[method[ty]] = function(self, ...)
            local S = state(self, from)
            local object = S and converted(S, ty)
            if object then return object end
            return slow(self, ...)
         end
      elseif slow then
         mt[method[ty]] = function(self, ...)
            if state(self, from) then return self end
            return slow(self, ...)
         end
      end
   end
   local type_as = mt.typeAs
   mt.typeAs = function(self, other, ...)
      local T = type(other) == 'userdata' and (states[other] or read(other))
      if T then return mt.type(self, 'torch.' .. T.ty .. 'Tensor') end
      return type_as(self, other, ...)
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

-- operators: call the method of a new tensor ---------------------------------------------------------------------------
for _, ty in ipairs(TYPES) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local real = ty == 'Float' or ty == 'Double'
   local function operator(key, by_tensor, by_number, reversed)
      local slow = mt[key]
      local function fits(x) return type(x) == 'number' and native.number_of(ty, x) end
      mt[key] = function(a, b)
         local X, Y = state(a, ty), state(b, ty)
         if X and Y then
            if by_tensor and X.count > 0 and X.count == Y.count then return mt[by_tensor]((fresh(ty)), a, b) end
         elseif X and X.count > 0 then
            if fits(b) and (real or b ~= 0) then return mt[by_number]((fresh(ty)), a, b) end
         elseif reversed and Y and Y.count > 0 and fits(a) then
            return mt[reversed]((fresh(ty)), b, a)
         end
         return slow(a, b)
      end
   end
   operator('__add__', 'add', 'add', 'add')
   operator('__sub__', 'csub', 'csub')
   operator('__mul__', nil, 'mul', 'mul')
   operator('__div__', nil, 'div')
   operator('__mod__', nil, 'remainder')
   local negative, one = mt.__unm__, ty == 'Byte' and 255 or -1
   mt.__unm__ = function(a, ...)
      local X = state(a, ty)
      return X and X.count > 0 and mt.mul((fresh(ty)), a, one) or negative(a, ...)
   end
end
