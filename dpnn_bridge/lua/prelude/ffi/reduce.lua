-- Loop families that reduce small tensors to a number or along one dimension, with the order and the rounding of TH.
local bridge = ...
local native = bridge.native
local families, loops, vectors, resize = native.families, native.loops, native.vectors, native.resize
local type, floor, sqrt = type, math.floor, math.sqrt
local FEW, MAX_ALONG = loops.FEW, 16384  -- up to MAX_ALONG elements, a loop along a dimension is as fast as a call to Python

-- to a number ----------------------------------------------------------------------------------------------------------
-- for up to `most` elements; for more, PyTorch is faster
function families.reduce_all(plan, start, step, finish, most)
   local loop = loops.compile(plan.ty, loops.reduction(start, step, finish), plan.name)
   most = tonumber(most) or FEW
   local function reduce(X, Y, v)
      if X.count == 0 or X.count > most or Y and Y.count ~= X.count then return nil end
      return loops.run_reduction(loop, X, Y, v)
   end
   if plan.slots[2] and plan.slots[2].kind == 'tensor' then return reduce end
   return function(X, v) return reduce(X, nil, v) end
end

function families.spread(plan, finish)
   local sum = families.reduce_all(plan, '0', 'total = total + x', 'total / n')
   local squares = families.reduce_all({ty = plan.ty, name = plan.name, slots = {}}, '0', 'local t = x - v total = total + t * t', 'total')
   return function(X, biased)
      local mean = sum(X)
      local total = mean and squares(X, mean)
      if not total then return nil end
      total = total / (X.count - (biased and 0 or 1))
      return finish == 'root' and sqrt(total) or total
   end
end

function families.numel() return function(S) return S.count end end
function families.trace(plan)
   local is_long = plan.ty == 'Long'  -- sums in 64-bit integers
   local get = is_long and function(S, index) return S.block.data[index] end or native.get[plan.ty]
   return function(S)
      if S.n ~= 2 or not S.block then return nil end
      local total, index, step = is_long and 0LL or 0, S.offset, S[2] + S[4]
      for _ = 1, S[1] < S[3] and S[1] or S[3] do
         total = total + get(S, index)
         index = index + step
      end
      return tonumber(total)
   end
end
function families.equal(plan)
   local unequal = families.reduce_all(plan, '0', 'if x ~= y then return 1 end', 'total')
   return function(X, Y)
      if not native.same_sizes(X, Y) then return false end
      local found = unequal(X, Y)
      return found and found == 0
   end
end

-- along a dimension ----------------------------------------------------------------------------------------------------
-- merge the dimensions first .. last into one: returns its size and stride; nil if that is impossible
local function merged(S, first, last)
   local count, step = 1, 0
   for k = last, first, -1 do
      local size, own = S[2 * k - 1], S[2 * k]
      if size ~= 1 then
         if count == 1 then step = own elseif own ~= count * step then return nil end
         count = count * size
      end
   end
   return count, step
end

-- a tensor as outer x size x inner elements, where `size` is dimension d: outer, size, inner, and their strides; nil if the dimensions
-- before or after d cannot be merged into one
local function slices(S, d)
   local outer, outer_step = merged(S, 1, d - 1)
   local inner, inner_step = merged(S, d + 1, S.n)
   if not outer or not inner then return nil end
   return outer, S[2 * d - 1], inner, outer_step, S[2 * d], inner_step
end
native.slices = slices

function native.is_dimension(S, d, most)
   return type(d) == 'number' and floor(d) == d and d >= 1 and d <= S.n and S.count > 0 and S.count <= (most or S.count)
end

-- resize R to the sizes of S, with `size` in dimension d; false if R is not contiguous then, or Python must resize it
function native.shaped(R, S, d, size)
   local n = S.n
   if n > 4 then return false end
   return resize(R, n, d == 1 and size or S[1], d == 2 and size or S[3], d == 3 and size or S[5], d == 4 and size or S[7])
      and R.dense
end

local ALONG = [[
return function(outer, n, inner, so, sl, si, q, iq, p, ip, t, it, v)
   for o = 0, outer - 1 do
      for i = 0, inner - 1 do
         local j = iq + o * so + i * si
         local total, other, position = START, 0, 1
         for k = 1, n do
            local x = at(q, j)
            STEP
            j = j + sl
         end
         p[ip] = FINISH
         PLACE
         ip, it = ip + 1, it + 1
      end
   end
end
]]
local function along_loop(plan, start, step, finish, has_positions)
   local source = loops.substitute(ALONG, {START = start, STEP = step, FINISH = finish, PLACE = has_positions and 't[it] = position' or ''})
   return loops.compile(plan.ty, source, plan.name .. ' along a dimension')
end
-- TH accumulates adjacent elements in double, and other elements in the element type (step_apart and finish_apart). Sums of integers
-- do not depend on the order and may be computed as a matrix product (step_apart == 'product').
function families.reduce_along(plan, start, step, finish, step_apart, finish_apart)
   local is_product = step_apart == 'product'
   if is_product then step_apart = nil end
   local has_positions = plan.slots[2].kind == 'result'
   local run = along_loop(plan, start, step, finish, has_positions)
   local apart = step_apart and along_loop(plan, start, step_apart, finish_apart or finish) or run
   local function reduce(R, I, S, d, v)
      if not native.is_dimension(S, d, MAX_ALONG) then return nil end
      local outer, n, inner, so, sl, si = slices(S, d)
      if not outer or R.block and R.block == S.block or not native.shaped(R, S, d, 1) or I and not native.shaped(I, S, d, 1) then return nil end
      local p = R.block.data
      if is_product and S.count > loops.LONG and (outer == 1 or inner == 1) then
         local m, step = outer, so
         if outer == 1 then m, step = inner, si end
         if vectors.sums(S.ty, m, n, p + R.offset, S.block.data + S.offset, step, sl) then return true end
      end
      local f = sl == 1 and run or apart
      f(outer, n, inner, so, sl, si, S.block.data, S.offset, p, R.offset, I and I.block.data or p, I and I.offset or 0, v)
      return true
   end
   if has_positions then return reduce end
   if plan.slots[3].token == 'i' then return function(R, S, d, v) return reduce(R, nil, S, d, v) end end
   return function(R, S, v, d) return v > 0 and reduce(R, nil, S, d, v) or nil end
end

local SCAN = [[
return function(outer, n, inner, so, sl, si, q, iq, po, pl, pi, p, ip)
   for o = 0, outer - 1 do
      for i = 0, inner - 1 do
         local j, to, total = iq + o * so + i * si, ip + o * po + i * pi, START
         for k = 1, n do
            local x = at(q, j)
            STEP
            p[to] = total
            j, to = j + sl, to + pl
         end
      end
   end
end
]]
function families.scan(plan, start, step)
   local run = loops.compile(plan.ty, loops.substitute(SCAN, {START = start, STEP = step}), plan.name)
   return function(R, S, d)
      if not native.is_dimension(S, d) or R.block and R.block == S.block or not native.resize_as(R, S) then return nil end
      local outer, n, inner, so, sl, si = slices(S, d)
      local outer_r, _, inner_r, po, pl, pi = slices(R, d)
      if not outer or outer_r ~= outer or inner_r ~= inner then return nil end
      run(outer, n, inner, so, sl, si, S.block.data, S.offset, po, pl, pi, R.block.data, R.offset)
      return true
   end
end

local RENORM = [[
return function(outer, n, inner, so, sl, si, q, iq, po, pl, pi, p, ip, power, limit)
   if inner == 1 then outer, inner, so, si, po, pi = 1, outer, si, so, pi, po end  -- exchange the loops if inner is 1
   for k = 0, n - 1 do
      local from, to, total = iq + k * sl, ip + k * pl, 0
      for o = 0, outer - 1 do
         for i = 0, inner - 1 do
            local x = abs(at(q, from + o * so + i * si))
            total = R(total + (power == 1 and x or power == 2 and x * x or pow(x, power)))
         end
      end
      local norm = R(C.pow(total, R(1 / power)))
      local scale = norm > limit and R(limit / (norm + 1e-7)) or 1
      for o = 0, outer - 1 do
         for i = 0, inner - 1 do p[to + o * po + i * pi] = at(q, from + o * so + i * si) * scale end
      end
   end
end
]]
function families.renorm(plan)
   local run = loops.compile(plan.ty, RENORM, plan.name)
   return function(R, S, power, d, limit)
      if not native.is_dimension(S, d) or S.n < 2 or not (power > 0) or (R ~= S and R.block and R.block == S.block) or not native.resize_as(R, S) then return nil end
      local outer, n, inner, so, sl, si = slices(S, d)
      local outer_r, _, inner_r, po, pl, pi = slices(R, d)
      if not outer or outer_r ~= outer or inner_r ~= inner then return nil end
      power, limit = native.number_of(plan.ty, power), native.number_of(plan.ty, limit)
      run(outer, n, inner, so, sl, si, S.block.data, S.offset, po, pl, pi, R.block.data, R.offset, power, limit)
      return true
   end
end

local HISTOGRAM = [[
return function(rows, columns, q, iq, c, d, p, ip, bins, low, high)
   for k = 0, bins - 1 do p[ip + k] = 0 end
   for i = 1, rows do
      local j = iq
      for _ = 1, columns do
         local x = at(q, j)
         if x >= low and x <= high then
            local k = floor(R(R(R(x - low) / R(high - low)) * bins))
            if k >= bins then k = bins - 1 end
            p[ip + k] = at(p, ip + k) + 1
         end
         j = j + d
      end
      iq = iq + c
   end
end
]]
function families.histogram(plan, rows_apart)
   local run = loops.compile(plan.ty, HISTOGRAM, plan.name)
   return function(R, S, bins, low, high)
      if S.count == 0 or floor(bins) ~= bins or bins < 1 or R.block and R.block == S.block or rows_apart and S.n ~= 2 then return nil end
      local ty = plan.ty
      low, high = native.number_of(ty, low), native.number_of(ty, high)
      if low == high then
         low, high = loops.limits(S)
         if not low then return nil end
      end
      if low == high then low, high = native.number_of(ty, low - 1), native.number_of(ty, high + 1) end
      local width = native.number_of(ty, high - low)
      if not (width > 0 and width < math.huge) then return nil end
      local rows, columns, c, d = loops.layout(S)
      if not rows then return nil end
      if not rows_apart then
         if not resize(R, 1, bins) or not R.dense then return nil end
         run(rows, columns, S.block.data, S.offset, c, d, R.block.data, R.offset, bins, low, high)
         return true
      end
      rows, columns, c, d = S[1], S[3], S[2], S[4]
      if not resize(R, 2, rows, bins) or not R.dense then return nil end
      for i = 0, rows - 1 do
         run(1, columns, S.block.data, S.offset + i * c, 0, d, R.block.data, R.offset + i * bins, bins, low, high)
      end
      return true
   end
end
