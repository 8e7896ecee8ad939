-- Element-wise methods and functions of torch on small tensors. What a call means is decided as dispatch.py does.
local bridge, py = ...
local native, metatables = bridge.native, bridge.metatables
local states, read, wrap = native.states, native.read, native.wrap
local resize_as, new_like, loops = native.resize_as, native.new_like, native.loops
local pointwise, reduce, FEW = loops.pointwise, loops.reduce, loops.FEW
local type, select = type, select
local ffi = bridge.ffi

local cell = ffi.new('float[1]')
-- a number as the element type has it; nothing where Python must decide
local function number_of(ty, x)
   if ty == 'Double' then return x end
   if ty ~= 'Float' then return native.fits(ty, x) and x or nil end
   cell[0] = x
   return cell[0]
end
native.number_of = number_of

-- result = expression(first, ...): the result takes the shape of the first; false where Python must decide
local function apply(name, object, R, X, Y, Z, v, w)
   local count = X.count
   -- Torch7 copies the first to the result before it reads these
   if Z and R ~= X and (R.block == Y.block or R.block == Z.block) then return false end
   if count == 0 or count > FEW or (Y and Y.count ~= count) or (Z and Z.count ~= count) then return false end
   if R ~= X and not resize_as(object, R, X) then return false end
   if v then
      v = number_of(X.ty, v)
      if not v then return false end
   end
   if w then
      w = number_of(X.ty, w)
      if not w then return false end
   end
   return pointwise(name, R, X, Y, Z, v, w)
end

-- each gives an expression and what it works on: name, X, Y, Z, v, w; `a` ... are what follows the result, as states or numbers
local function scaled(plain, by)
   return function(n, R, a, b, c)
      if n == 1 then
         if type(a) == 'number' then return plain, R, nil, nil, a end
         return 'c' .. plain, R, a
      elseif n == 2 then
         if type(a) == 'number' then
            if type(b) ~= 'number' and a ~= 0 then return by, R, b, nil, a end
         elseif type(b) == 'number' then
            return plain, a, nil, nil, b
         else
            return 'c' .. plain, a, b
         end
      elseif n == 3 and type(a) ~= 'number' and type(b) == 'number' and b ~= 0 and type(c) ~= 'number' then
         return by, a, c, nil, b
      end
   end
end
local function with_number(name)
   return function(n, R, a, b)
      if n == 1 and type(a) == 'number' then return name, R, nil, nil, a end
      if n == 2 and type(a) ~= 'number' and type(b) == 'number' then return name, a, nil, nil, b end
   end
end
local function with_tensor(name)
   return function(n, R, a, b)
      if n == 1 and type(a) ~= 'number' then return name, R, a end
      if n == 2 and type(a) ~= 'number' and type(b) ~= 'number' then return name, a, b end
   end
end
local function extremum(name)
   return function(n, R, a, b)
      if n == 1 then
         if type(a) == 'number' then return name .. '_number', R, nil, nil, a end
         return name, R, a
      elseif n == 2 and type(a) ~= 'number' then
         if type(b) == 'number' then return name .. '_number', a, nil, nil, b end
         return name, a, b
      end
   end
end
local function with_two(name)
   return function(n, R, a, b, c, d)
      if n == 2 and type(a) ~= 'number' and type(b) ~= 'number' then return name, R, a, b, 1 end
      if n == 3 and type(b) ~= 'number' and type(c) ~= 'number' then
         if type(a) == 'number' then return name, R, b, c, a end
         return name, a, b, c, 1
      end
      if n == 4 and type(a) ~= 'number' and type(b) == 'number' and type(c) ~= 'number' and type(d) ~= 'number' then
         return name, a, c, d, b
      end
   end
end
local function of_one(name)
   return function(n, R, a)
      if n == 0 then return name, R end
      if n == 1 and type(a) ~= 'number' then return name, a end
   end
end
local POWERS = {[1] = 'copy', [2] = 'square', [3] = 'cube', [0.5] = 'sqrt', [-0.5] = 'rsqrt', [-1] = 'cinv'}
local function power(n, R, a, b)
   if n == 1 and type(a) == 'number' then return POWERS[a] or 'power', R, nil, nil, a end
   if n == 2 and type(a) ~= 'number' and type(b) == 'number' then return POWERS[b] or 'power', a, nil, nil, b end
end
local function clamp(n, R, a, b, c)
   if n == 2 and type(a) == 'number' and type(b) == 'number' then return 'clamp', R, nil, nil, a, b end
   if n == 3 and type(a) ~= 'number' and type(b) == 'number' and type(c) == 'number' then return 'clamp', a, nil, nil, b, c end
end

local rules = {
   add = scaled('add', 'cadd_scaled'), csub = scaled('sub', 'csub_scaled'), mul = with_number 'mul', div = with_number 'div',
   cmul = with_tensor 'cmul', cdiv = with_tensor 'cdiv', cmax = extremum 'cmax', cmin = extremum 'cmin',
   addcmul = with_two 'addcmul', addcdiv = with_two 'addcdiv', pow = power, clamp = clamp,
}
for _, name in ipairs {
   'abs', 'neg', 'sqrt', 'rsqrt', 'cinv', 'floor', 'ceil', 'sign', 'exp', 'log', 'log1p', 'tanh', 'sigmoid',
} do rules[name] = of_one(name) end

-- a state for a tensor of the type, a number for itself, false for anything else
local function operand(ty, x)
   if type(x) == 'number' then return x end
   local S = states[x] or read(x)
   return S and S.ty == ty and S.block and S or false
end

local function run(rule, ty, object, R, n, a, b, c, d)
   if n > 0 then a = operand(ty, a) if not a then return false end end
   if n > 1 then b = operand(ty, b) if not b then return false end end
   if n > 2 then c = operand(ty, c) if not c then return false end end
   if n > 3 then d = operand(ty, d) if not d then return false end end
   local name, X, Y, Z, v, w = rule(n, R, a, b, c, d)
   if not name then return false end
   return X.block and apply(name, object, R, X, Y, Z, v, w)
end

-- the elements of a tensor as a new tensor, by an expression
local function fresh(name, X, Y, Z, v, w)
   if X.count > FEW then return nil end
   local object, R = new_like(X)
   if object and apply(name, object, R, X, Y, Z, v, w) then return object end
end

-- of integers, what LuaJIT's numbers hold exactly
local exact = {}
for _, name in ipairs {'add', 'csub', 'mul', 'cmul', 'cmax', 'cmin', 'clamp'} do exact[name] = rules[name] end
for _, ty in ipairs {'Float', 'Double', 'Byte', 'Char', 'Short', 'Long'} do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   for name, rule in pairs((ty == 'Float' or ty == 'Double') and rules or exact) do
      local slow = mt[name]
      mt[name] = function(self, ...)
         local n, a, b, c, d = select('#', ...), ...
         local R = states[self] or read(self)
         if R and R.ty == ty and n <= 4 and run(rule, ty, self, R, n, a, b, c, d) then return self end
         return slow(self, ...)
      end
   end
end

for _, ty in ipairs {'Float', 'Double'} do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local function reducer(name, finish)
      local slow = mt[name]
      mt[name] = function(self, ...)
         local S = states[self] or read(self)
         if S and S.ty == ty and S.count > 0 and S.count <= FEW and select('#', ...) == 0 then
            local value = finish(S)
            if value then return value end
         end
         return slow(self, ...)
      end
   end
   reducer('sum', function(S) return reduce('sum', S) end)
   reducer('mean', function(S) local total = reduce('sum', S) return total and total / S.count end)
   reducer('max', function(S) return reduce('max', S) end)
   reducer('min', function(S) return reduce('min', S) end)
   reducer('norm', function(S) local total = reduce('squares', S) return total and math.sqrt(total) end)

   -- operators
   local function operator(key, by_tensor, by_number, reversed)
      local slow = mt[key]
      mt[key] = function(a, b)
         local X = type(a) == 'userdata' and operand(ty, a)
         local object
         if X then
            if type(b) == 'number' then
               if by_number then object = fresh(by_number, X, nil, nil, b) end
            elseif by_tensor then
               local Y = operand(ty, b)
               if Y and Y.count == X.count then object = fresh(by_tensor, X, Y) end
            end
         elseif reversed and type(a) == 'number' then
            local Y = operand(ty, b)
            if Y then object = fresh(reversed, Y, nil, nil, a) end
         end
         if object then return object end
         return slow(a, b)
      end
   end
   operator('__add__', 'cadd', 'add', 'add')
   operator('__sub__', 'csub', 'sub', 'reversed_sub')
   operator('__mul__', nil, 'mul', 'mul')
   operator('__div__', nil, 'div')
   local negative = mt.__unm__
   mt.__unm__ = function(a, ...)
      local X = operand(ty, a)
      return X and fresh('mul', X, nil, nil, -1) or negative(a, ...)
   end
end

-- torch.f(...) with a fresh result
local TWO_SOURCES = {add = true, csub = true, cmul = true, cdiv = true}
local functions = {
   'add', 'csub', 'mul', 'div', 'cmul', 'cdiv', 'pow', 'clamp', 'abs', 'sqrt', 'rsqrt', 'exp', 'log', 'log1p', 'tanh',
   'sigmoid', 'floor', 'ceil',
}
-- whether arguments leave the result out
local function fresh_result(name, n, a, b, c)
   if n == 1 then return true end
   if n == 2 then return type(b) == 'number' or TWO_SOURCES[name] end
   return n == 3 and type(b) == 'number' and (type(c) == 'number') == (name == 'clamp')
end
for _, name in ipairs(functions) do
   local slow, rule = torch[name], rules[name]
   torch[name] = function(...)
      local n, a, b, c, d = select('#', ...), ...
      local X = n <= 4 and n >= 1 and type(a) == 'userdata' and (states[a] or read(a))
      if X and (X.ty == 'Double' or X.ty == 'Float') and X.count > 0 and X.count <= FEW and fresh_result(name, n, a, b, c) then
         local object, R = new_like(X)
         if object and run(rule, X.ty, object, R, n, ...) then return object end
      end
      return slow(...)
   end
end

-- fill, zero, copy: of all types
for ty, kind in pairs(native.kinds) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local put = native.put[ty]
   local fill, zero, copy, clone = mt.fill, mt.zero, mt.copy, mt.clone
   if put then
      mt.fill = function(self, value, ...)
         local S = states[self] or read(self)
         if S and S.ty == ty and S.count > 0 and S.count <= FEW and type(value) == 'number' and select('#', ...) == 0 and put(S, S.offset, value)
            and pointwise('fill', S, S, nil, nil, value) then
            return self
         end
         return fill(self, value, ...)
      end
   end
   mt.zero = function(self, ...)
      local S = states[self] or read(self)
      if S and S.ty == ty and S.count > 0 and S.dense and S.count <= FEW then
         ffi.fill(S.block.data + S.offset, S.count * kind.size)
         return self
      end
      return zero(self, ...)
   end
   mt.copy = function(self, source, ...)
      local S, T = states[self] or read(self), states[source] or read(source)
      if S and T and S.ty == ty and S.count == T.count and S.count > 0 and S.count <= FEW then
         if T.ty == ty then
            if S.dense and T.dense then
               if S.block ~= T.block then
                  ffi.copy(S.block.data + S.offset, T.block.data + T.offset, S.count * kind.size)
                  return self
               end
            elseif S.block ~= T.block and ty ~= 'Half' and pointwise('copy', S, T) then
               return self
            end
         elseif (ty == 'Double' or ty == 'Float') and T.ty ~= 'Half' and T.ty ~= 'Long' and pointwise('copy', S, T) then
            return self
         end
      end
      return copy(self, source, ...)
   end
   mt.clone = function(self, ...)
      local S = states[self] or read(self)
      if S and S.ty == ty and S.n > 0 and S.count <= FEW then
         local object = new_like(S)
         if object then return mt.copy(object, self) end
      end
      return clone(self, ...)
   end
end
