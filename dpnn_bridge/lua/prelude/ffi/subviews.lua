-- The methods sub, unfold, permute, squeeze, isSize, isSetTo and elementSize without calling Python.
local bridge = ...
local native, metatables = bridge.native, bridge.metatables
local states, read, wrap, view, measure, storages = native.states, native.read, native.wrap, native.view, native.measure, native.storages
local select, floor = select, math.floor

local is_integer = native.is_integer
local methods = {}

-- restrict dimension d of V to first .. last; positions <= 0 count from the end. False if Python must do it
local function restrict(V, d, first, last)
   if d > V.n or not is_integer(first) or not is_integer(last) then return false end
   local size = V[2 * d - 1]
   if first <= 0 then first = first + size + 1 end
   if last <= 0 then last = last + size + 1 end
   if first < 1 or last > size or last < first then return false end
   V.offset = V.offset + (first - 1) * V[2 * d]
   V[2 * d - 1] = last - first + 1
   return true
end
function methods.sub(self, S, slow, ...)
   local n, a, b, c, d = select('#', ...), ...
   if n == 2 or n == 4 then
      local V = view(S, S.offset, S.n)
      if restrict(V, 1, a, b) and (n == 2 or restrict(V, 2, c, d)) then return wrap(measure(V)) end
   end
   return slow(self, ...)
end

function methods.unfold(self, S, slow, d, size, step, ...)
   local n = S.n
   if is_integer(d) and is_integer(size) and is_integer(step) and d >= 1 and d <= n and size >= 1 and size <= S[2 * d - 1] and step >= 1 then
      local V = view(S, S.offset, n + 1)
      V[2 * n + 1], V[2 * n + 2] = size, S[2 * d]
      V[2 * d - 1], V[2 * d] = floor((S[2 * d - 1] - size) / step) + 1, step * S[2 * d]
      return wrap(measure(V))
   end
   return slow(self, d, size, step, ...)
end

function methods.permute(self, S, slow, ...)
   local n, a, b, c, d = select('#', ...), ...
   if n == S.n and n >= 2 and n <= 4 and not (a == 1 and b == 2 and (n < 3 or c == 3)) then
      local V, seen = view(S, S.offset, n), 0
      for k = 1, n do
         local from = k == 1 and a or k == 2 and b or k == 3 and c or d
         if not is_integer(from) or from < 1 or from > n then return slow(self, ...) end
         V[2 * k - 1], V[2 * k] = S[2 * from - 1], S[2 * from]
         seen = seen + 10 ^ from
      end
      if seen == (10 ^ (n + 1) - 10) / 9 then return wrap(measure(V)) end  -- each dimension once
   end
   return slow(self, ...)
end

function methods.isSize(self, S, slow, sizes, ...)
   local block = storages[sizes]
   if not block or block.ty ~= 'Long' then return slow(self, sizes, ...) end
   if block.size ~= S.n then return false end
   for k = 1, S.n do if block.data[k - 1] ~= S[2 * k - 1] then return false end end
   return true
end
function methods.isSetTo(self, S, slow, other, ...)
   local T = states[other] or read(other)
   if not T or T.ty ~= S.ty then return slow(self, other, ...) end
   return S.block and S.block == T.block and S.offset == T.offset and native.same_geometry(S, T)
end
function methods.elementSize(_, S) return native.c_types[S.ty].size end

for ty in pairs(native.c_types) do native.install(metatables['torch.' .. ty .. 'Tensor'], ty, methods) end

-- squeeze: remove all dimensions of size 1, or one of them; Python squeezes tensors of one element, which may become a number
function native.families.squeeze()
   return function(R, S, d)
      if S.count < 2 or not S.block or R == S or d and (not is_integer(d) or d < 1 or d > S.n or S.n < 2) then return nil end
      local V, n = view(S, S.offset, S.n), 0
      for k = 1, S.n do
         if S[2 * k - 1] ~= 1 or d and d ~= k then
            n = n + 1
            V[2 * n - 1], V[2 * n] = S[2 * k - 1], S[2 * k]
         end
      end
      V.n = n
      return native.become(R, measure(V)) and true
   end
end
