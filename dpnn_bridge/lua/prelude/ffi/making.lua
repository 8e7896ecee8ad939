-- Loop families that create small tensors: triangles, diagonals, sequences, cross products, distances, and the pivoted Cholesky
-- factorization.
local bridge = ...
local ffi, native = bridge.ffi, bridge.native
local families, loops, resize, resize_as, slices, zero = native.families, native.loops, native.resize, native.resize_as, native.slices, native.zero
local floor, min, max = math.floor, math.min, math.max
local FEW = loops.FEW

local is_small, in_other_memory = loops.is_small, native.in_other_memory
local is_integer = native.is_integer

local BAND = [[
return function(rows, columns, p, ip, a, b, q, iq, c, d, low, high)
   for i = 0, rows - 1 do
      local to, from = ip + i * a, iq + i * c
      local first, last = min(columns, max(0, i + low)), max(-1, min(columns - 1, i + high))
      for j = 0, first - 1 do p[to + j * b] = 0 end
      for j = first, last do p[to + j * b] = at(q, from + j * d) end
      for j = max(first, last + 1), columns - 1 do p[to + j * b] = 0 end
   end
end
]]
-- the same for rows of adjacent elements
local function band_of_rows(rows, columns, p, a, q, c, low, high, size)
   for i = 0, rows - 1 do
      local first, last = min(columns, max(0, i + low)), max(-1, min(columns - 1, i + high))
      local to, from, after = p + i * a, q + i * c, max(first, last + 1)
      if first > 0 then ffi.fill(to, first * size) end
      if to ~= from and last >= first then ffi.copy(to + first, from + first, (last + 1 - first) * size) end
      if columns > after then ffi.fill(to + after, (columns - after) * size) end
   end
end
-- tril, triu
function families.band(plan, which)
   local run, size, unlimited = loops.compile(plan.ty, BAND, plan.name), native.c_types[plan.ty].size, 2 ^ 31
   return function(R, S, k)
      if S.n ~= 2 or S.count == 0 or not is_integer(k) or not (R == S or in_other_memory(R, S)) or not resize_as(R, S) then return nil end
      local low, high = -unlimited, k
      if which == 'upper' then low, high = k, unlimited end
      local rows, columns, a, b, c, d = S[1], S[3], R[2], R[4], S[2], S[4]
      if a == 1 and c == 1 then rows, columns, a, b, c, d, low, high = columns, rows, b, a, d, c, -high, -low end
      if b == 1 and d == 1 then
         band_of_rows(rows, columns, R.block.data + R.offset, a, S.block.data + S.offset, c, low, high, size)
      elseif is_small(S) then
         run(rows, columns, R.block.data, R.offset, a, b, S.block.data, S.offset, c, d, low, high)
      else
         return nil
      end
      return true
   end
end

local MOVE = [[
return function(n, p, ip, a, q, iq, c) for i = 0, n - 1 do p[ip + i * a] = at(q, iq + i * c) end end
]]
function families.diag(plan)
   local move = loops.compile(plan.ty, MOVE, plan.name)
   return function(R, S, k)
      if S.count == 0 or not is_integer(k) or not in_other_memory(R, S) then return nil end
      local down, right = max(-k, 0), max(k, 0)
      if S.n == 1 then
         local n = S[1] + down + right
         if not resize(R, 2, n, n) or not zero(R) then return nil end
         move(S[1], R.block.data, R.offset + down * R[2] + right * R[4], R[2] + R[4], S.block.data, S.offset, S[2])
         return true
      end
      local n = S.n == 2 and min(S[1] - down, S[3] - right) or 0
      if n < 1 or not resize(R, 1, n) then return nil end
      move(n, R.block.data, R.offset, R[2], S.block.data, S.offset + down * S[2] + right * S[4], S[2] + S[4])
      return true
   end
end

function families.eye()
   return function(R, rows, columns)
      if columns <= 0 then columns = rows end
      if not is_integer(rows) or not is_integer(columns) or rows < 1 or not resize(R, 2, rows, columns) or not zero(R) then return nil end
      local data, step = R.block.data, R[2] + R[4]
      for i = 0, min(rows, columns) - 1 do data[R.offset + i * step] = 1 end
      return true
   end
end

-- zeros, ones: the arguments are the number of sizes, and up to four sizes
function families.constant(plan, value)
   return function(R, n, a, b, c, d)
      local count = a and a > 0 and a * (b or 1) * (c or 1) * (d or 1)
      if not count or n > 4 or not is_integer(a) or b and not (b > 0 and is_integer(b)) or c and not (c > 0 and is_integer(c))
         or d and not (d > 0 and is_integer(d)) or not resize(R, n, a, b, c, d) then
         return nil
      end
      return bridge.metatables['torch.' .. R.ty .. 'Tensor'].fill(R.object, tonumber(value))
   end
end

local SEQUENCE = [[
return function(rows, columns, p, ip, a, b, first, step, last)
   local k = 0
   for i = 0, rows - 1 do
      for j = 0, columns - 1 do
         p[ip + i * a + j * b] = EXPRESSION
         k = k + 1
      end
   end
end
]]
-- a sequence of numbers by an expression of k; a result with as many elements keeps its shape
local function sequence(plan, expression)
   local run = loops.compile(plan.ty, loops.substitute(SEQUENCE, {EXPRESSION = expression}), plan.name)
   return function(R, count, first, step, last)
      if not (count >= 1 and count <= FEW) or R.count ~= count and not resize(R, 1, count) then return nil end
      local rows, columns, a, b = loops.layout(R)
      if not rows then return nil end
      run(rows, columns, R.block.data, R.offset, a, b, first, step, last)
      return true
   end
end
function families.range(plan)
   local fill, real = sequence(plan, 'k * step + first'), plan.ty == 'Float' or plan.ty == 'Double'
   local function fits(x) return real or is_integer(x) and x > -2 ^ 31 and x < 2 ^ 31 end
   return function(R, first, last, step)
      if not (fits(first) and fits(last) and fits(step)) then return nil end
      if step == 0 or (step > 0) ~= (last >= first) and first ~= last then return nil end
      return fill(R, floor((last - first) / step + 1), first, step)
   end
end
-- points at equal distances
local function points(fill, plan)
   return function(R, first, last, count)
      if not is_integer(count) or count < 2 then return nil end
      first, last = native.number_of(plan.ty, first), native.number_of(plan.ty, last)
      return fill(R, count, first, last - first, count - 1)
   end
end
function families.linspace(plan)
   return points(sequence(plan, 'first + R(R(k * R(step)) / R(last))'), plan)
end
function families.logspace(plan)
   return points(sequence(plan, 'pow(10, R(first + R(R(k * R(step)) / R(last))))'), plan)
end

function families.reshape()
   return function(R, S, n, a, b, c, d)
      if not is_small(S) or not in_other_memory(R, S) or n > 4 then return nil end
      local count = a * (b or 1) * (c or 1) * (d or 1)
      if count ~= S.count or a < 1 or not is_integer(a) or b and not (b > 0 and is_integer(b)) or c and not (c > 0 and is_integer(c))
         or d and not (d > 0 and is_integer(d)) or not resize(R, n, a, b, c, d) then
         return nil
      end
      return R.dense and loops.pointwise('copy', R, S) or nil
   end
end

local CROSS = [[
return function(outer, inner, p, ip, po, pl, pi, q, iq, qo, ql, qi, r, ir, ro, rl, ri)
   for o = 0, outer - 1 do
      for i = 0, inner - 1 do
         local k, m, n = ip + o * po + i * pi, iq + o * qo + i * qi, ir + o * ro + i * ri
         local a, b, c, d, e, f = at(q, m), at(q, m + ql), at(q, m + 2 * ql), at(r, n), at(r, n + rl), at(r, n + 2 * rl)
         p[k], p[k + pl], p[k + 2 * pl] = R(b * f) - R(c * e), R(c * d) - R(a * f), R(a * e) - R(b * d)
      end
   end
end
]]
function families.cross(plan)
   local run = loops.compile(plan.ty, CROSS, plan.name)
   return function(R, A, B, d)
      if A.n ~= B.n or not is_small(A) or not in_other_memory(R, A) or not in_other_memory(R, B) or d < 0 or not is_integer(d) or d > A.n then return nil end
      for k = 1, 2 * A.n, 2 do
         if A[k] ~= B[k] then return nil end
         if d == 0 and A[k] == 3 then d = (k + 1) / 2 end
      end
      if d == 0 or A[2 * d - 1] ~= 3 or not resize_as(R, A) then return nil end
      local outer, _, inner, ro, rl, ri = slices(R, d)
      local outer_a, _, inner_a, ao, al, ai = slices(A, d)
      local outer_b, _, inner_b, bo, bl, bi = slices(B, d)
      if not outer or outer_a ~= outer or outer_b ~= outer or inner_a ~= inner or inner_b ~= inner then return nil end
      run(outer, inner, R.block.data, R.offset, ro, rl, ri, A.block.data, A.offset, ao, al, ai, B.block.data, B.offset, bo, bl, bi)
      return true
   end
end

-- four sums at a time, which do not depend on each other
local DISTANCES = [[
return function(rows, columns, n, p, ip, pr, pc, q, iq, qr, qc, r, ir, rr, rc, gain)
   for i = 0, rows - 1 do
      for j = 0, columns - 1, 4 do
         local from, a, b, c, d = iq + i * qr, ZERO, ZERO, ZERO, ZERO
         local ra = ir + j * rr
         local rb, rd = j + 1 < columns and ra + rr or ra, j + 3 < columns and ra + 3 * rr or ra
         local re = j + 2 < columns and ra + 2 * rr or ra
         for k = 1, n do
            local x = at(q, from)
            local e, f, g, h = R(x - at(r, ra)), R(x - at(r, rb)), R(x - at(r, re)), R(x - at(r, rd))
            a, b, c, d = R(a + R(e * e)), R(b + R(f * f)), R(c + R(g * g)), R(d + R(h * h))
            from, ra, rb, re, rd = from + qc, ra + rc, rb + rc, re + rc, rd + rc
         end
         local to = ip + i * pr + j * pc
         p[to] = gain * a
         if j + 1 < columns then p[to + pc] = gain * b end
         if j + 2 < columns then p[to + 2 * pc] = gain * c end
         if j + 3 < columns then p[to + 3 * pc] = gain * d end
      end
   end
end
]]
-- distances of integers, |x|^2 + |y|^2 - 2 x y, with a matrix product of doubles, if all results are exact
local BY_PRODUCT = [[
return function(rows, columns, n, p, ip, pr, pc, x, y, xy, norms, gain)
   for i = 0, columns - 1 do
      local total = 0
      for k = i * n, i * n + n - 1 do total = total + y[k] * y[k] end
      norms[i] = total
   end
   for i = 0, rows - 1 do
      local own, to, from = 0, ip + i * pr, i * columns
      for k = i * n, i * n + n - 1 do own = own + x[k] * x[k] end
      for j = 0, columns - 1 do
         p[to] = gain * cast('int64_t', own + norms[j] - 2 * xy[from + j])
         to = to + pc
      end
   end
end
]]
local function largest(S)
   local low, high = native.vectors.limits(S)
   return low and max(-low, high) or math.huge
end
local function match_by_product(run, R, A, B, gain)
   if (largest(A) + largest(B)) ^ 2 * A[3] > 2 ^ 53 then return nil end
   local mt = bridge.metatables['torch.' .. A.ty .. 'Tensor']
   local x, y = mt.double(A.object):contiguous(), mt.double(B.object):contiguous()
   local xy = x * y:t()
   local X, Y, P = native.state(x), native.state(y), native.state(xy)
   run(A[1], B[1], A[3], R.block.data, R.offset, R[2], R[4], X.block.data + X.offset, Y.block.data + Y.offset, P.block.data + P.offset, ffi.new('double[?]', B[1]), gain)
   return true
end
function families.match(plan)
   local zero = (plan.ty == 'Int' or plan.ty == 'Long') and '0LL' or '0'  -- of the type of the sum, otherwise LuaJIT does not compile the loop
   local run = loops.compile(plan.ty, loops.substitute(DISTANCES, {ZERO = zero}), plan.name)
   local is_integer_type = plan.ty ~= 'Float' and plan.ty ~= 'Double'
   local by_product = is_integer_type and loops.compile(plan.ty, BY_PRODUCT, plan.name)
   return function(R, A, B, gain)
      gain = native.number_of(plan.ty, gain)
      if not gain or A.n ~= 2 or B.n ~= 2 or A[3] ~= B[3] or A.count == 0 or B.count == 0 or not in_other_memory(R, A)
         or not in_other_memory(R, B) or not resize(R, 2, A[1], B[1]) then
         return nil
      end
      if is_integer_type and A[1] * B.count > 32768 and match_by_product(by_product, R, A, B, gain) then return true end
      run(A[1], B[1], A[3], R.block.data, R.offset, R[2], R[4], A.block.data, A.offset, A[2], A[4], B.block.data, B.offset, B[2], B[4], gain)
      return true
   end
end

-- Cholesky factor l of a matrix a with pivoting: rows and columns are exchanged so that the greatest remainder comes first
local function swap_rows(x, n, i, k) for j = 0, n - 1 do x[k * n + j], x[i * n + j] = x[i * n + j], x[k * n + j] end end
local function factorize(n, a, l, rest, column, pivots, limit, round)
   local sizes, numbers, letter = ffi.new('int[4]', 0, 0, n, 1), ffi.new('double[2]', 1, 0), ffi.new('char[2]', 't')
   for k = 0, n - 1 do
      local best = k
      for i = k + 1, n - 1 do if rest[i] > rest[best] then best = i end end
      if not (rest[best] > limit) then return false end
      if best ~= k then
         rest[k], rest[best], pivots[k], pivots[best] = rest[best], rest[k], pivots[best], pivots[k]
         swap_rows(a, n, best, k)
         swap_rows(l, n, best, k)
         for i = 0, n - 1 do a[i * n + k], a[i * n + best] = a[i * n + best], a[i * n + k] end
      end
      local root = round(math.sqrt(rest[k]))
      l[k * n + k] = root
      sizes[0], sizes[1] = k, n - k - 1
      if k > 0 and k < n - 1 then  -- the sum over the previous columns
         native.blas.dgemv_(letter, sizes, sizes + 1, numbers, l + (k + 1) * n, sizes + 2, l + k * n, sizes + 3, numbers + 1, column, sizes + 3)
      end
      for i = k + 1, n - 1 do
         local value = round(round(a[i * n + k] - round(k > 0 and column[i - k - 1] or 0)) / root)
         l[i * n + k] = value
         rest[i] = rest[i] - round(value * value)
      end
   end
   return true
end
local function identity(x) return x end
function families.pstrf(plan)
   if not native.blas then return nil end
   local round = plan.ty == 'Float' and function(x) return tonumber(ffi.cast('float', x)) end or identity
   local capacity, matrix, lower, rest, column = 0, nil, nil, nil, nil
   plan.fresh, plan.fresh_types = 2, {plan.ty, 'Int'}
   local get = native.get[plan.ty]
   return function(R, P, A, uplo, limit)
      local n = A[1]
      if A.n ~= 2 or n ~= A[3] or not resize(P, 1, n) or not resize(R, 2, n, n) then return nil end
      if n > capacity then
         capacity, matrix, lower = n, ffi.new('double[?]', n * n), ffi.new('double[?]', n * n)
         rest, column = ffi.new('double[?]', n), ffi.new('double[?]', n)
      end
      local greatest, p, down, right = 0, P.block.data, A[2], A[4]
      if uplo == 'U' then down, right = right, down end  -- so that the triangle that is read is the lower one
      for i = 0, n - 1 do
         for j = 0, n - 1 do
            matrix[i * n + j], lower[i * n + j] = get(A, A.offset + i * down + j * right), 0
         end
         rest[i], p[P.offset + i] = matrix[i * (n + 1)], i + 1
         greatest = max(greatest, rest[i])
      end
      if limit < 0 then limit = n * (plan.ty == 'Float' and 2 ^ -23 or 2 ^ -52) * greatest end
      if not factorize(n, matrix, lower, rest, column, p + P.offset, limit, round) then return nil end
      R[2], R[4] = 1, n  -- column-major
      native.view_changed(native.measure(R))
      local data = R.block.data
      for i = 0, n - 1 do
         for j = 0, n - 1 do
            data[R.offset + i * R[2] + j * R[4]] = uplo == 'U' and lower[j * n + i] or lower[i * n + j]
         end
      end
      return true
   end
end
