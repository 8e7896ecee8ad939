-- Sorting and order statistics of small tensors: Torch7's quicksort and quickselect, which decide how equal numbers and
-- NaN are left (dpnn_bridge/torch7/quicksort.py has them for Python).
local bridge, py = ...
local ffi, native, metatables = bridge.ffi, bridge.native, bridge.metatables
local state, fresh, slices, resize, loops = native.state, native.fresh, native.slices, native.resize, native.loops
local type, select, floor, rshift = type, select, math.floor, bit.rshift

local MOST = loops.FEW
local SMALL = 10  -- subfiles up to so many elements are left to one insertion sort
local x, at = ffi.new('double[?]', MOST), ffi.new('int32_t[?]', MOST)  -- the numbers of one slice and their positions
local waiting = ffi.new('int32_t[?]', 2 * MOST)

local function swap(a, b)
   x[a], x[b] = x[b], x[a]
   at[a], at[b] = at[b], at[a]
end

-- split around the median of three; where the halves begin (right) and end (left)
local function partition(left, right)
   swap(rshift(left + right, 1), left + 1)
   if x[left + 1] > x[right] then swap(left + 1, right) end
   if x[left] > x[right] then swap(left, right) end
   if x[left + 1] > x[left] then swap(left + 1, left) end
   local i, j, pivot = left + 1, right, x[left]
   while true do
      i = i + 1
      while x[i] < pivot do i = i + 1 end
      j = j - 1
      while x[j] > pivot do j = j - 1 end
      if j < i then break end
      swap(i, j)
   end
   swap(left, j)
   return i, j
end

local function insertion_sort(n)
   for i = n - 2, 0, -1 do
      if x[i] > x[i + 1] then
         local value, place, j = x[i], at[i], i + 1
         repeat
            x[j - 1], at[j - 1] = x[j], at[j]
            j = j + 1
         until not (j < n and x[j] < value)
         x[j - 1], at[j - 1] = value, place
      end
   end
end

local function sort(n)
   local count = 0
   local function later(left, right)
      if right - left + 1 > SMALL then
         waiting[2 * count], waiting[2 * count + 1] = left, right
         count = count + 1
      end
   end
   if n - 1 > SMALL then later(0, n - 1) end
   while count > 0 do
      count = count - 1
      local left, right = waiting[2 * count], waiting[2 * count + 1]
      local i, j = partition(left, right)
      later(left, j - 1)
      later(i, right)
   end
   insertion_sort(n)
end

-- the k-th smallest (from 0) comes to its place
local function choose(n, k)
   local left, right = 0, n - 1
   while left < right do
      if right == left + 1 then
         if x[left] > x[right] then swap(left, right) end
         return
      end
      local i, j = partition(left, right)
      if j <= k then left = i end
      if j >= k then right = j - 1 end
   end
end

-- values and positions first .. first + count - 1 of each slice of S along d, after work(n) on it
local function arrange(S, d, first, count, work, descending, object, R, index, I)
   if type(d) ~= 'number' or floor(d) ~= d or d < 1 or d > S.n or S.n > 4 or S.count == 0 or S.count > MOST then return nil end
   local outer, n, inner, so, sl, si = slices(S, d)
   if not outer then return nil end
   if not R then object, R = fresh(S.ty) end
   if not I then index, I = fresh('Long') end
   if R.block and R.block == S.block then return nil end
   local a, b, c, e = S[1], S[3], S[5], S[7]
   if d == 1 then a = count elseif d == 2 then b = count elseif d == 3 then c = count else e = count end
   if not resize(object, R, S.n, a, b, c, e) or not resize(index, I, S.n, a, b, c, e) or not (R.dense and I.dense) then return nil end
   local get, p, q, sign = native.get[S.ty], R.block.data, I.block.data, descending and -1 or 1
   for o = 0, outer - 1 do
      for i = 0, inner - 1 do
         local from = S.offset + o * so + i * si
         for k = 0, n - 1 do
            x[k], at[k] = sign * get(S, from + k * sl), k
            if x[k] ~= x[k] then return nil end
         end
         work(n)
         local to = o * count * inner + i
         for k = 0, count - 1 do
            p[R.offset + to + k * inner], q[I.offset + to + k * inner] = sign * x[first + k], at[first + k] + 1
         end
      end
   end
   return object, index
end

-- what is left of the arguments after results: f(S, object, R, index, I, rest ...)
local function with_results(f)
   return function(ty, n, a, b, c, ...)
      local A, B, C = state(a, ty), state(b), state(c)
      if A and B and C and B.ty == 'Long' and C.ty == ty and B ~= A then return f(C, a, A, b, B, n - 3, ...) end
      if A and not B then return f(A, nil, nil, nil, nil, n - 1, b, c, ...) end
   end
end

local calls = {
   sort = with_results(function(S, object, R, index, I, n, d, descending)
      if n == 1 and type(d) == 'boolean' then d, descending = S.n, d end
      if n == 0 or d == nil then d = S.n end
      if n > 2 or (descending ~= nil and type(descending) ~= 'boolean') then return nil end
      return arrange(S, d, 0, S[2 * d - 1] or 0, sort, descending, object, R, index, I)
   end),
   kthvalue = with_results(function(S, object, R, index, I, n, k, d)
      d = d or S.n
      local size = type(d) == 'number' and S[2 * d - 1]
      if n < 1 or n > 2 or type(k) ~= 'number' or floor(k) ~= k or not size or k < 1 or k > size then return nil end
      return arrange(S, d, k - 1, 1, function(m) choose(m, k - 1) end, false, object, R, index, I)
   end),
   median = with_results(function(S, object, R, index, I, n, d)
      d = d or S.n
      local size = type(d) == 'number' and S[2 * d - 1]
      if n > 1 or not size then return nil end
      local k = floor((size + 1) / 2) - 1
      return arrange(S, d, k, 1, function(m) choose(m, k) end, false, object, R, index, I)
   end),
}

for name, call in pairs(calls) do
   for _, ty in ipairs {'Byte', 'Char', 'Short', 'Int', 'Long', 'Float', 'Double'} do
      local mt = metatables['torch.' .. ty .. 'Tensor']
      local slow = mt[name]
      mt[name] = function(...)
         local values, places = call(ty, select('#', ...), ...)
         if values then return values, places end
         return slow(...)
      end
   end
   local slow = torch[name]
   torch[name] = function(...)
      local S = state((...))
      if S and native.get[S.ty] then
         local values, places = call(S.ty, select('#', ...), ...)
         if values then return values, places end
      end
      return slow(...)
   end
end
