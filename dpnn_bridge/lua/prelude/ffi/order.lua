-- Sorting and order statistics with Torch7's quicksort and quickselect, which determine the order of equal numbers
-- (dpnn_bridge/torch7/quicksort.py is the implementation in Python).
local bridge = ...
local ffi, native = bridge.ffi, bridge.native
local families, slices, shaped, loops = native.families, native.slices, native.shaped, native.loops
local floor = math.floor

local MAX_COUNT, MAX_SLICE = 4194304, 65536  -- largest number of elements of a tensor, and of a slice
local x, at, stack, capacity = nil, nil, nil, 0  -- elements of a slice, their positions, and the stack of subarrays to sort
local function ensure_capacity(n)
   if n <= capacity then return end
   capacity = math.max(n, 4096)
   x, at, stack = ffi.new('double[?]', capacity), ffi.new('int32_t[?]', capacity), ffi.new('int32_t[?]', 2 * capacity)
end

-- Each algorithm is inlined into one function over all slices, with loops that make one decision per iteration: LuaJIT compiles such
-- loops, but would interpret a called function that contains loops.
local SWAP = 'x[A], x[B], at[A], at[B] = x[B], x[A], at[B], at[A]'
local function swap(a, b) return (SWAP:gsub('%f[%w]([AB])%f[%W]', {A = a, B = b})) end

-- partition left .. right around the median of three: afterwards the left part ends before j, and the right part begins at i
local PARTITION = table.concat({
   'local middle = rshift(left + right, 1)',
   swap('middle', 'left + 1'),
   'if x[left + 1] > x[right] then ' .. swap('left + 1', 'right') .. ' end',
   'if x[left] > x[right] then ' .. swap('left', 'right') .. ' end',
   'if x[left + 1] > x[left] then ' .. swap('left + 1', 'left') .. ' end',
   [[
   local pivot, up = x[left], 1
   i, j = left + 2, right
   while true do
      if up == 1 then  -- a number: the type of a boolean changes with its value
         if x[i] < pivot then i = i + 1 else up, j = 0, j - 1 end
      elseif x[j] > pivot then
         j = j - 1
      elseif j < i then
         break
      else]],
   swap('i', 'j'),
   [[
         i, up = i + 1, 1
      end
   end]],
   swap('left', 'j'),
}, '\n')

-- sort the first n elements; subarrays of up to ten elements are left to a final insertion sort
local SORT = [[
   do
      local pending = 0
      if n > 11 then stack[0], stack[1], pending = 0, n - 1, 1 end
      while pending > 0 do
         pending = pending - 1
         local left, right, i, j = stack[2 * pending], stack[2 * pending + 1]
         PARTITION
         if j - left > 10 then
            stack[2 * pending], stack[2 * pending + 1] = left, j - 1
            pending = pending + 1
         end
         if right - i + 1 > 10 then
            stack[2 * pending], stack[2 * pending + 1] = i, right
            pending = pending + 1
         end
      end
      local i, j, value, place = n - 1, n, x[n - 1], at[n - 1]
      while n > 0 do
         if j < n and x[j] < value then
            x[j - 1], at[j - 1] = x[j], at[j]
            j = j + 1
         else
            x[j - 1], at[j - 1] = value, place
            i = i - 1
            if i < 0 then break end
            j, value, place = i + 1, x[i], at[i]
         end
      end
   end
]]
-- move the k-th smallest element (from 0) to its position
local CHOOSE = [[
   do
      local left, right, i, j = 0, n - 1
      while left < right do
         if right == left + 1 then
            if x[left] > x[right] then SWAP end
            break
         end
         PARTITION
         if j <= k then left = i end
         if j >= k then right = j - 1 end
      end
   end
]]
SORT = SORT:gsub('PARTITION', PARTITION)
CHOOSE = CHOOSE:gsub('PARTITION', PARTITION):gsub('SWAP', swap('left', 'right'))

-- run WORK on each slice, then store `count` values and positions from `first` on; false if an element is infinite, NaN, or not exact
-- as a double
local SLICES = [[
return function(outer, inner, so, si, sl, size, data, from, p, ip, t, it, x, at, stack, sign, first, count, k)
   for o = 0, outer - 1 do
      for i = 0, inner - 1 do
         local start, sum, n, first = from + o * so + i * si, 0, size, first
         for j = 0, n - 1 do
            local value = sign * tonumber(at(data, start + j * sl))
            CHECK
            x[j], at[j] = value, j
            sum = sum + (value - value)
         end
         if sum ~= 0 then return false end
         WORK
         local to, place = ip + o * count * inner + i, it + o * count * inner + i
         for j = first, first + count - 1 do
            p[to], t[place] = sign * x[j], at[j] + 1
            to, place = to + inner, place + inner
         end
      end
   end
   return true
end
]]
local function sorter(plan, work)
   local parts = {WORK = work, CHECK = plan.ty == 'Long' and 'if value >= 2 ^ 53 or value <= -2 ^ 53 then return false end' or ''}
   local run = loops.compile(plan.ty, loops.substitute(SLICES, parts), plan.name)
   return function(R, I, S, d, sign, first, count, k)
      if not native.is_dimension(S, d, MAX_COUNT) then return nil end
      local outer, n, inner, so, sl, si = slices(S, d)
      if not outer or n > MAX_SLICE or R.block and R.block == S.block or I.block and I.block == S.block or not shaped(R, S, d, count)
         or not shaped(I, S, d, count) then
         return nil
      end
      ensure_capacity(n)
      return run(outer, inner, so, si, sl, n, S.block.data, S.offset, R.block.data, R.offset, I.block.data, I.offset, x, at, stack, sign,
                 first, count, k) or nil
   end
end

function families.sort(plan)
   local run_sorter = sorter(plan, SORT)
   return function(R, I, S, d, descending) return run_sorter(R, I, S, d, descending and -1 or 1, 0, S[2 * d - 1] or 0) end
end

local function at_rank(R, I, S, d, k, run_sorter)
   local size = S[2 * d - 1]
   if floor(k) ~= k or not size or k < 1 or k > size then return nil end
   return run_sorter(R, I, S, d, 1, k - 1, 1, k - 1)
end
function families.kthvalue(plan)
   local run_sorter = sorter(plan, CHOOSE)
   return function(R, I, S, k, d) return at_rank(R, I, S, d, k, run_sorter) end
end
function families.median(plan)
   local run_sorter = sorter(plan, CHOOSE)
   return function(R, I, S, d) return at_rank(R, I, S, d, floor(((S[2 * d - 1] or 0) + 1) / 2), run_sorter) end
end

-- the end of the longest run of equal elements, of the first one if there are several
local LONGEST_RUN = SORT .. [[
   local best, length = 1, 1
   first = 0
   for j = 1, n - 1 do
      if x[j] == x[j - 1] then length = length + 1 else length = 1 end
      if length > best then best, first = length, j end
   end
]]
function families.mode(plan)
   local run_sorter = sorter(plan, LONGEST_RUN)
   return function(R, I, S, d) return run_sorter(R, I, S, d, 1, 0, 1) end
end

-- the k greatest or smallest elements; unordered results are in the order of quickselect
local GREATEST = 'do local k = n - k - 1 if k >= 0 then ' .. CHOOSE .. ' end end first = n - k'
local SMALLEST = 'do local k = k - 1 ' .. CHOOSE .. ' end'
local SORTED_GREATEST = GREATEST .. [[
   for i = 0, k - 1 do x[i], at[i] = -x[n - k + i], at[n - k + i] end
   do local n = k ]] .. SORT .. [[ end
   for i = 0, k - 1 do x[i] = -x[i] end
   first = 0
]]
local SORTED_SMALLEST = SMALLEST .. ' do local n = k - 1 ' .. SORT .. ' end'  -- the k-th smallest is in its position already
function families.topk(plan)
   local greatest, smallest = sorter(plan, GREATEST), sorter(plan, SMALLEST)
   local sorted_greatest, sorted_smallest = sorter(plan, SORTED_GREATEST), sorter(plan, SORTED_SMALLEST)
   return function(R, I, S, k, d, largest, ordered)
      local size = S[2 * d - 1]
      if floor(k) ~= k or not size or k < 1 or k > size then return nil end
      local run_sorter = largest and (ordered and sorted_greatest or greatest) or ordered and sorted_smallest or smallest
      return run_sorter(R, I, S, d, 1, 0, k, k)
   end
end
