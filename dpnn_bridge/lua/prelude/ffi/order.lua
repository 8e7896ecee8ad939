-- Sorting and order statistics of small tensors: Torch7's quicksort and quickselect, which decide how equal numbers and
-- NaN are left (dpnn_bridge/torch7/quicksort.py has them for Python).
local bridge, py = ...
local ffi, native = bridge.ffi, bridge.native
local families, slices, shaped, loops = native.families, native.slices, native.shaped, native.loops
local floor, rshift = math.floor, bit.rshift

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
   if n - 1 > SMALL then
      waiting[0], waiting[1], count = 0, n - 1, 1
   end
   while count > 0 do
      count = count - 1
      local left, right = waiting[2 * count], waiting[2 * count + 1]
      local i, j = partition(left, right)
      if j - left > SMALL then
         waiting[2 * count], waiting[2 * count + 1] = left, j - 1
         count = count + 1
      end
      if right - i + 1 > SMALL then
         waiting[2 * count], waiting[2 * count + 1] = i, right
         count = count + 1
      end
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

local LOAD = [[
return function(x, places, q, from, step, n, sign)
   local sum = 0
   for k = 0, n - 1 do
      local value = sign * tonumber(at(q, from + k * step))
      x[k], places[k] = value, k
      sum = sum + (value - value)
   end
   return sum == 0
end
]]

-- values and positions first .. first + count - 1 of each slice of S along d, after work(n, k) on it; nothing where an element is
-- infinite or NaN
local function arranger(plan)
   local load = loops.compile(plan.ty, LOAD, plan.name)
   return function(R, I, S, d, first, count, work, sign, k)
      if not native.is_dimension(S, d) then return nil end
      local outer, n, inner, so, sl, si = slices(S, d)
      if not outer or R.block and R.block == S.block or not shaped(R, S, d, count) or not shaped(I, S, d, count) then return nil end
      local p, q, data = R.block.data, I.block.data, S.block.data
      for o = 0, outer - 1 do
         for i = 0, inner - 1 do
            if not load(x, at, data, S.offset + o * so + i * si, sl, n, sign) then return nil end
            local from = work(n, k) or first
            local to = o * count * inner + i
            for j = 0, count - 1 do
               p[R.offset + to + j * inner], q[I.offset + to + j * inner] = sign * x[from + j], at[from + j] + 1
            end
         end
      end
      return true
   end
end

function families.sort(plan)
   local arrange = arranger(plan)
   return function(R, I, S, d, descending) return arrange(R, I, S, d, 0, S[2 * d - 1] or 0, sort, descending and -1 or 1) end
end

local function at_rank(R, I, S, d, k, arrange)
   local size = S[2 * d - 1]
   if floor(k) ~= k or not size or k < 1 or k > size then return nil end
   return arrange(R, I, S, d, k - 1, 1, choose, 1, k - 1)
end
function families.kthvalue(plan)
   local arrange = arranger(plan)
   return function(R, I, S, k, d) return at_rank(R, I, S, d, k, arrange) end
end
function families.median(plan)
   local arrange = arranger(plan)
   return function(R, I, S, d) return at_rank(R, I, S, d, floor(((S[2 * d - 1] or 0) + 1) / 2), arrange) end
end

-- the end of the longest run of equal numbers, the first of them
local function longest_run(n)
   sort(n)
   local best, last, length = 0, 0, 0
   for k = 0, n - 1 do
      length = k > 0 and x[k] == x[k - 1] and length + 1 or 1
      if length > best then best, last = length, k end
   end
   return last
end
function families.mode(plan)
   local arrange = arranger(plan)
   return function(R, I, S, d) return arrange(R, I, S, d, 0, 1, longest_run, 1) end
end

-- the k greatest or smallest; what is not ordered stays as quickselect left it
function families.topk(plan)
   local arrange = arranger(plan)
   local function choose_greatest(n, k) if n > k then choose(n, n - k - 1) end end
   local function choose_smallest(n, k) choose(n, k - 1) end
   local function sort_greatest(n, k)
      choose_greatest(n, k)
      for i = 0, k - 1 do x[i], at[i] = -x[n - k + i], at[n - k + i] end
      sort(k)
      for i = 0, k - 1 do x[i] = -x[i] end
      return 0
   end
   local function sort_smallest(n, k)
      choose(n, k - 1)
      sort(k - 1)  -- the k-th smallest is at its place
   end
   return function(R, I, S, k, d, greatest, ordered)
      local size = S[2 * d - 1]
      if floor(k) ~= k or not size or k < 1 or k > size then return nil end
      if greatest then return arrange(R, I, S, d, size - k, k, ordered and sort_greatest or choose_greatest, 1, k) end
      return arrange(R, I, S, d, 0, k, ordered and sort_smallest or choose_smallest, 1, k)
   end
end
