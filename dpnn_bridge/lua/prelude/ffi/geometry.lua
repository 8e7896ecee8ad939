-- The geometry of tensors in Lua: states of views, resizing, and new tensors. Methods are in views.lua.
local bridge = ...
local native = bridge.native
local type, floor = type, math.floor
local wrap, measure, view_changed, new_block, ensure_capacity = native.wrap, native.measure, native.view_changed, native.new_block, native.ensure_capacity

-- whether x is an integer in the range of C's long
function native.is_integer(x) return type(x) == 'number' and floor(x) == x and x >= -2 ^ 63 and x < 2 ^ 63 end

-- a copy of the state S with another offset and number of dimensions, in which the caller then changes sizes and strides;
-- is_same: the geometry does not change
local function view(S, offset, n, is_same)
   local V = {
      S[1], S[2], S[3], S[4], S[5], S[6], S[7], S[8],
      ty = S.ty, block = S.block, offset = offset, n = n, count = 0, dense = true, handle = false, current = false, object = false,
   }
   for k = 9, 2 * n do V[k] = S[k] end
   if is_same then V.count, V.dense = S.count, S.dense end
   return V
end
native.view = view

local function narrowed(S, d, first, count)
   local V = view(S, S.offset + first * S[2 * d], S.n)
   V[2 * d - 1] = count
   return measure(V)
end

local function selected(S, d, at)
   local n = S.n - 1
   local V = view(S, S.offset + at * S[2 * d], n)
   for k = 2 * d - 1, 2 * n do V[k] = S[k + 2] end
   return measure(V)
end
native.narrowed, native.selected = narrowed, selected

-- a new contiguous state of the first n of the sizes a, b, c, d, at the beginning of a block
local function contiguous_state(ty, block, n, a, b, c, d)
   if n == 1 then
      return {a, 1, ty = ty, block = block, offset = 0, n = n, count = a, dense = true, handle = false, current = false, object = false}
   elseif n == 2 then
      return {a, b, b, 1, ty = ty, block = block, offset = 0, n = n, count = a * b, dense = true, handle = false, current = false, object = false}
   end
   local S = {a, b * c, b, c, c, 1, ty = ty, block = block, offset = 0, n = n, count = a * b * c, dense = true, handle = false, current = false, object = false}
   if n == 4 then
      S[2], S[4], S[6], S[7], S[8], S.count = b * c * d, c * d, d, d, 1, a * b * c * d
   end
   return S
end

-- set the first n of the sizes a, b, c, d, contiguous
local function shape(S, n, a, b, c, d)
   S.n = n
   local step = 1
   if n == 4 then S[7], S[8], step = d, step, step * d end
   if n >= 3 then S[5], S[6], step = c, step, step * c end
   if n >= 2 then S[3], S[4], step = b, step, step * b end
   S[1], S[2] = a, step
   S.count, S.dense = step * a, true
end

local MAX_COUNT = 2 ^ 26  -- more elements are resized in Python, which raises an error if there is not enough memory
-- resize to n <= 4 positive sizes as Torch7 does; false if Python must do it
local function resize(S, n, a, b, c, d)
   if n == S.n and S[1] == a and (n < 2 or S[3] == b) and (n < 3 or S[5] == c) and (n < 4 or S[7] == d) then return true end
   local count = a * (n > 1 and b or 1) * (n > 2 and c or 1) * (n > 3 and d or 1)
   if count > MAX_COUNT then return false end
   ensure_capacity(S, count)
   shape(S, n, a, b, c, d)
   view_changed(S)
   return true
end

local function same_sizes(S, T)
   if T.n ~= S.n then return false end
   for k = 1, 2 * T.n, 2 do if S[k] ~= T[k] then return false end end
   return true
end

-- resize to the sizes of another state
local function resize_as(S, T)
   if T.n >= 1 and T.n <= 4 then return resize(S, T.n, T[1], T[3], T[5], T[7]) end
   return same_sizes(S, T)
end
native.shape, native.resize, native.resize_as, native.same_sizes = shape, resize, resize_as, same_sizes

-- a new contiguous tensor of n <= 4 positive sizes; nil if Python must create it
local function new_tensor(ty, n, a, b, c, d)
   local block = new_block(ty, a * (n > 1 and b or 1) * (n > 2 and c or 1) * (n > 3 and d or 1))
   if not block then return nil end
   local R = contiguous_state(ty, block, n, a, b, c, d)
   return wrap(R), R
end
native.new_tensor = new_tensor

-- a new contiguous tensor with the sizes of a state; nil if Python must create it
local function new_like(S)
   local n = S.n
   if n >= 1 and n <= 4 then return new_tensor(S.ty, n, S[1], S[3], S[5], S[7]) end
   local block = n > 0 and new_block(S.ty, S.count)
   if not block then return nil end
   local R = view(S, 0, n)
   R.block = block
   local step = 1
   for k = 2 * n - 1, 1, -2 do
      R[k + 1] = step
      step = step * S[k]
   end
   R.count = step
   return wrap(R), R
end
native.new_like = new_like

-- a new tensor without elements
function native.fresh(ty)
   local R = {ty = ty, block = false, offset = 0, n = 0, count = 0, dense = true, handle = false, current = false, object = false}
   return wrap(R), R
end

-- whether the elements of S fill memory without gaps, for any order of the dimensions
local function packed(S)
   if S.dense then return true end
   local expected, n = 1, S.n
   for _ = 1, n do
      for k = 1, n do
         if S[2 * k] == expected and S[2 * k - 1] > 1 then
            expected = expected * S[2 * k - 1]
            break
         end
      end
   end
   return expected == S.count
end
native.packed = packed

-- whether no two elements of S share memory: the stride of each dimension exceeds the extent of those with smaller strides
function native.disjoint(S)
   if S.dense then return true end
   for k = 1, 2 * S.n, 2 do
      local step, extent = S[k + 1], 0
      if S[k] > 1 then
         for j = 1, 2 * S.n, 2 do
            if j ~= k and S[j] > 1 and S[j + 1] <= step then extent = extent + (S[j] - 1) * S[j + 1] end
         end
         if step <= extent then return false end
      end
   end
   return true
end

-- whether writing the result R cannot change S
function native.in_other_memory(R, S) return not R.block or R.block ~= S.block end

-- whether two states have equal sizes and strides; they may be in different memory
local function same_geometry(A, B)
   if A.n ~= B.n then return false end
   for k = 1, 2 * A.n do if A[k] ~= B[k] then return false end end
   return true
end
native.same_geometry = same_geometry
