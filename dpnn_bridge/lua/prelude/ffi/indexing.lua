-- index, indexCopy, indexAdd, indexFill, gather, scatter, maskedFill, maskedCopy, maskedSelect, nonzero and t[mask] without calling
-- Python. Other cases, and errors, are left to Python.
local bridge = ...
local ffi, native, metatables = bridge.ffi, bridge.native, bridge.metatables
local loops, fits = native.loops, native.fits
local slices, resize, resize_as, same_sizes, fresh = native.slices, native.resize, native.resize_as, native.same_sizes, native.fresh
local type, select, floor, disjoint = type, select, math.floor, native.disjoint

local bits = {}  -- element type -> pointer to integers of the same size, with which elements are copied as bits
for ty, c_type in pairs(native.c_types) do bits[ty] = ffi.typeof('int' .. 8 * c_type.size .. '_t *') end

-- Loop over slices: x contains m positions of slices; p and q have outer x (number of slices) x inner elements. STEP uses the k-th
-- slice and the chosen slice. If inner is 1, the loops are exchanged.
local BY_SLICE = [[
return function(outer, m, inner, x, ix, step, p, ip, po, pl, pi, q, iq, qo, ql, qi, v)
   if inner == 1 then outer, inner, po, pi, qo, qi = 1, outer, pi, po, qi, qo end
   for k = 0, m - 1 do
      local chosen = tonumber(x[ix + k * step]) - 1
      for o = 0, outer - 1 do
         for i = 0, inner - 1 do STEP end
      end
   end
end
]]
-- Loop over elements: x contains a position in c for each of the outer x m x inner elements of a.
local BY_ELEMENT = [[
return function(outer, m, inner, x, ix, xo, xl, xi, a, ia, ao, al, ai, c, ic, co, cl, ci, v)
   if inner == 1 then  -- exchange the loops, so that the inner loop is not of length 1 and has the smaller stride
      if xl <= xo then inner, m, xi, ai, ci = m, 1, xl, al, 0 else inner, outer, xi, ai, ci = outer, 1, xo, ao, co end
   end
   for o = 0, outer - 1 do
      for k = 0, m - 1 do
         local jx, ja, jc = ix + o * xo + k * xl, ia + o * ao + k * al, ic + o * co
         for i = 1, inner do
            local chosen = jc + (tonumber(x[jx]) - 1) * cl
            STEP
            jx, ja, jc = jx + xi, ja + ai, jc + ci
         end
      end
   end
end
]]
-- Loop over elements and a mask x of 0 and 1, without branches that the CPU could mispredict. Copies end at q[last].
local BY_MASK = [[
return function(rows, columns, x, ix, xr, xc, p, ip, pr, pc, q, iq, last, v)
   local zero = v * 0  -- has the type of the elements
   for i = 1, rows do
      local jx, jp = ix, ip
      for j = 1, columns do
         STEP
         jx, jp = jx + xc, jp + pc
      end
      ix, ip = ix + xr, ip + pr
   end
end
]]
local function moved_by_mask(value)
   return ('local keep = zero + x[jx] - 1 p[jp] = bor(band(p[jp], keep), band(VALUE, bnot(keep)))'):gsub('VALUE', value)
end
local KTH_P, CHOSEN_P = 'p[ip + o * po + k * pl + i * pi]', 'p[ip + o * po + chosen * pl + i * pi]'
local KTH_Q, CHOSEN_Q = 'q[iq + o * qo + k * ql + i * qi]', 'q[iq + o * qo + chosen * ql + i * qi]'
local sources = {
   index = {BY_SLICE, KTH_P .. ' = ' .. CHOSEN_Q}, indexCopy = {BY_SLICE, CHOSEN_P .. ' = ' .. KTH_Q},
   indexAdd = {BY_SLICE, [[
      local j = ip + o * po + chosen * pl + i * pi
      p[j] = at(p, j) + at(q, iq + o * qo + k * ql + i * qi)
   ]]},
   indexFill = {BY_SLICE, CHOSEN_P .. ' = v'},
   gather = {BY_ELEMENT, 'a[ja] = c[chosen]'}, scatter = {BY_ELEMENT, 'c[chosen] = a[ja]'}, scatterFill = {BY_ELEMENT, 'c[chosen] = v'},
   maskedFill = {BY_MASK, (moved_by_mask('v'))},
   maskedCopy = {BY_MASK, 'if iq <= last then ' .. moved_by_mask('q[iq]') .. ' iq = iq + x[jx] end'},
   maskedSelect = {BY_MASK, 'if iq <= last then q[iq] = p[jp] iq = iq + x[jx] end'},
}
local kernel = loops.kernels(function(name)
   local loop, step = sources[name][1], sources[name][2]
   return (loop:gsub('STEP', function() return step end))
end)

local function state(x, ty)
   local S = native.state(x, ty)
   return S and S.ty ~= 'Half' and S or nil
end
local function dimension(S, d)
   return type(d) == 'number' and floor(d) == d and d >= 1 and d <= S.n and S.count > 0
end
local function data(S) return ffi.cast(bits[S.ty], S.block.data) end
-- whether all elements of I are in 1 .. limit
local function in_range(I, limit)
   if I.count == 0 then return false end
   if I.count > loops.LONG then
      local low, high = native.vectors.limits(I)
      if low then return low >= 1 and high <= limit end
   end
   local outer, m, inner, so, sl, si = slices(I, 1)
   if not outer then return false end
   local x = I.block.data
   for k = 0, m - 1 do
      for i = 0, inner - 1 do
         local chosen = x[I.offset + k * sl + i * si]
         if chosen < 1 or chosen > limit then return false end
      end
   end
   return true
end
local function is_valid_index(I, limit) return I and I.n == 1 and in_range(I, limit) end
-- whether S has the sizes of T in all dimensions except d
local function matches_except(S, T, d)
   if S.n ~= T.n then return false end
   for k = 1, T.n do
      if k ~= d and S[2 * k - 1] ~= T[2 * k - 1] then return false end
   end
   return true
end

local function bytes(S) return native.c_types[S.ty].size end
local ROW, adders = 16, {Float = native.vectors.adder 'Float', Double = native.vectors.adder 'Double'}
-- BY_SLICE for slices whose inner elements, at least ROW, are adjacent: copies from the chosen slices, or to them
local function move_rows(outer, m, inner, x, ix, step, p, ip, po, pl, _, q, iq, qo, ql, _, size, to_chosen)
   for k = 0, m - 1 do
      local chosen = tonumber(x[ix + k * step]) - 1
      local to, from = p + (ip + (to_chosen and chosen or k) * pl), q + (iq + (to_chosen and k or chosen) * ql)
      for o = 0, outer - 1 do ffi.copy(to + o * po, from + o * qo, inner * size) end
   end
end
-- BY_SLICE of indexAdd for such slices
local function add_rows(outer, m, inner, x, ix, step, p, ip, po, pl, _, q, iq, qo, ql, _, add)
   for k = 0, m - 1 do
      local to, from = p + (ip + (tonumber(x[ix + k * step]) - 1) * pl), q + (iq + k * ql)
      for o = 0, outer - 1 do add(inner, to + o * po, from + o * qo, 1) end
   end
end

-- index ----------------------------------------------------------------------------------------------------------------
-- R = the slices of S along d at the positions in I
local function index(R, S, d, I)
   if not dimension(S, d) or S.n > 4 or not is_valid_index(I, S[2 * d - 1])
      or (R.block and (R.block == S.block or R.block == I.block)) then
      return false
   end
   local outer, _, inner, so, sl, si = slices(S, d)
   local m, a, b, c, e = I[1], S[1], S[3], S[5], S[7]
   if not outer then return false end
   if d == 1 then a = m elseif d == 2 then b = m elseif d == 3 then c = m else e = m end
   if not resize(R, S.n, a, b, c, e) or not R.dense then return false end
   local run = si == 1 and inner >= ROW and move_rows or kernel(S.ty, 'index')
   run(outer, m, inner, I.block.data, I.offset, I[2], data(R), R.offset, m * inner, inner, 1, data(S), S.offset, so, sl, si, bytes(S), false)
   return true
end

-- indexCopy, indexAdd: write the slices of S to the slices of T along d at the positions in I
local function write_slices(name, T, d, I, S)
   if not dimension(T, d) or not S or not is_valid_index(I, T[2 * d - 1]) or not matches_except(S, T, d) or S[2 * d - 1] ~= I[1]
      or S.block == T.block or I.block == T.block or not disjoint(T) then
      return false
   end
   local outer, _, inner, to, tl, ti = slices(T, d)
   local outer_s, m, inner_s, so, sl, si = slices(S, d)
   if not outer or outer_s ~= outer or inner_s ~= inner then return false end
   if inner == 1 then outer, inner, ti, si = 1, outer, to, so end
   local p, q, run, more = T.block.data, S.block.data, kernel(T.ty, name), nil
   local has_rows = ti == 1 and si == 1 and inner >= ROW
   if name == 'indexCopy' then
      p, q = data(T), data(S)
      if has_rows then run, more = move_rows, bytes(T) end
   elseif has_rows and adders[T.ty] then
      run, more = add_rows, adders[T.ty]
   end
   run(outer, m, inner, I.block.data, I.offset, I[2], p, T.offset, to, tl, ti, q, S.offset, so, sl, si, more, true)
   return true
end

local function index_fill(T, d, I, value)
   if not dimension(T, d) or not is_valid_index(I, T[2 * d - 1]) or I.block == T.block or not fits(T.ty, value)
      or not disjoint(T) then
      return false
   end
   local outer, _, inner, to, tl, ti = slices(T, d)
   if not outer then return false end
   local p = T.block.data
   kernel(T.ty, 'indexFill')(outer, I[1], inner, I.block.data, I.offset, I[2], p, T.offset, to, tl, ti, p, 0, 0, 0, 0, value)
   return true
end

-- gather, scatter: `name` moves elements between A, which has the sizes of I, and the positions of C that are in I
local function by_element(name, A, C, d, I, value)
   local R = name == 'gather' and A or C
   if not dimension(C, d) or not I or not matches_except(I, C, d) or not in_range(I, C[2 * d - 1]) or I.block == R.block
      or (A ~= C and A.block == C.block) or not disjoint(R) then
      return false
   end
   local outer, m, inner, xo, xl, xi = slices(I, d)
   local outer_a, _, inner_a, ao, al, ai = slices(A, d)
   local outer_c, _, inner_c, co, cl, ci = slices(C, d)
   if not outer or outer_a ~= outer or outer_c ~= outer or inner_a ~= inner or inner_c ~= inner then return false end
   local a, c = A.block.data, C.block.data
   if not value then a, c = data(A), data(C) end
   kernel(A.ty, name)(outer, m, inner, I.block.data, I.offset, xo, xl, xi, a, A.offset, ao, al, ai, c, C.offset, co, cl, ci, value)
   return true
end

-- masks ----------------------------------------------------------------------------------------------------------------
-- number of ones, and bitwise or, of n words with four mask elements each; up to 255 words are summed before their bytes are summed.
-- The words are signed, because LuaJIT converts unsigned words slowly
local function count_by_four(w, n)
   local count, odd = 0, 0
   for start = 0, n - 1, 255 do
      local sum = 0
      for k = start, math.min(start + 255, n) - 1 do
         sum, odd = bit.tobit(sum + w[k]), bit.bor(odd, w[k])
      end
      count = count + bit.band(sum, 0xFF) + bit.band(bit.rshift(sum, 8), 0xFF) + bit.band(bit.rshift(sum, 16), 0xFF) + bit.rshift(sum, 24)
   end
   return count, odd
end
-- number of ones in the mask M, rows, columns and the strides of S and M; nil if Python must do it
local function mask_layout(S, M)
   if not (S and M) or S.count == 0 or S.count ~= M.count or S.block == M.block then return nil end
   local rows, columns, sr, sc, mr, mc = loops.layout(S, M)
   if not rows then return nil end
   local x, count, odd, from, last = M.block.data, 0, 0, M.offset, 0
   if native.packed(M) then
      last = M.count - M.count % 4
      count, odd = count_by_four(ffi.cast(native.words, x + from), last / 4)
      for j = from + last, from + M.count - 1 do count, odd = count + x[j], bit.bor(odd, x[j]) end
   else
      for i = 0, rows - 1 do
         local j = from + i * mr
         for _ = 1, columns do
            count, odd = count + x[j], bit.bor(odd, x[j])
            j = j + mc
         end
      end
   end
   if bit.band(odd, 0xFEFEFEFE) ~= 0 then return nil end
   return count, rows, columns, sr, sc, mr, mc
end

local function masked_fill(S, M, value)
   if not fits(S.ty, value) then return false end
   local count, rows, columns, sr, sc, mr, mc = mask_layout(S, M)
   if not count then return false end
   local cell, p = ffi.new(native.c_types[S.ty].name .. '[1]', value), data(S)
   kernel(S.ty, 'maskedFill')(rows, columns, M.block.data, M.offset, mr, mc, p, S.offset, sr, sc, p, 0, 0, ffi.cast(bits[S.ty], cell)[0])
   return true
end

local function masked_copy(S, M, T)
   local count, rows, columns, sr, sc, mr, mc = mask_layout(S, M)
   if not count or not T or not T.block or T.count < count or T.block == S.block then return false end
   if not T.dense then
      local _, C = native.new_like(T)
      if not C or not loops.pointwise('copy', C, T) then return false end
      T = C
   end
   kernel(S.ty, 'maskedCopy')(rows, columns, M.block.data, M.offset, mr, mc, data(S), S.offset, sr, sc, data(T), T.offset,
                              T.offset + count - 1, data(T)[T.offset])
   return true
end

local function masked_select(R, S, M)
   local count, rows, columns, sr, sc, mr, mc = mask_layout(S, M)
   if not count or count == 0 or R.block and (R.block == S.block or R.block == M.block) then return false end
   if not resize(R, 1, count) or not R.dense then return false end
   kernel(S.ty, 'maskedSelect')(rows, columns, M.block.data, M.offset, mr, mc, data(S), S.offset, sr, sc, data(R), R.offset,
                                R.offset + count - 1, data(R)[R.offset])
   return true
end

-- methods --------------------------------------------------------------------------------------------------------------
for ty in pairs(native.c_types) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local function define(name, f)
      local slow = mt[name]
      if slow and ty ~= 'Half' then
         mt[name] = function(self, ...)
            local S = state(self, ty)
            local result = S and f(self, S, select('#', ...), ...)
            if result then return result end
            return slow(self, ...)
         end
      end
   end
   define('index', function(self, S, n, a, b, c)
      if n == 2 then
         local object, R = fresh(ty)
         return index(R, S, a, state(b, 'Long')) and object
      elseif n == 3 then
         local T = state(a, ty)
         return T and index(S, T, b, state(c, 'Long')) and c
      end
   end)
   for _, name in ipairs {'indexCopy', 'indexAdd'} do
      define(name, function(_, S, n, d, I, source) return n == 3 and write_slices(name, S, d, state(I, 'Long'), state(source, ty)) and source end)
   end
   define('indexFill', function(_, S, n, d, I, value) return n == 3 and index_fill(S, d, state(I, 'Long'), value) and value end)
   define('gather', function(self, S, n, a, b, c)
      if n == 2 then
         local I = state(b, 'Long')
         local object, R = fresh(ty)
         return I and I.n > 0 and resize_as(R, I) and by_element('gather', R, S, a, I) and object
      elseif n == 3 then
         local T, I = state(a, ty), state(c, 'Long')
         return T and I and S.n > 0 and same_sizes(S, I) and by_element('gather', S, T, b, I) and self
      end
   end)
   define('scatter', function(self, S, n, d, I, source)
      I = n == 3 and state(I, 'Long')
      if not I then return end
      if type(source) == 'number' then
         return fits(ty, source) and by_element('scatterFill', S, S, d, I, source) and self
      end
      local T = state(source, ty)
      return T and same_sizes(T, I) and by_element('scatter', T, S, d, I) and self
   end)
   define('maskedFill', function(_, S, n, M, value) return n == 2 and masked_fill(S, state(M, 'Byte'), value) and value end)
   define('maskedCopy', function(self, S, n, M, T) return n == 2 and masked_copy(S, state(M, 'Byte'), state(T, ty)) and self end)
   define('maskedSelect', function(self, S, n, a, b)
      if n == 1 then
         local object, R = fresh(ty)
         return masked_select(R, S, state(a, 'Byte')) and object
      elseif n == 2 then
         local T = state(a, ty)
         return T and masked_select(S, T, state(b, 'Byte')) and b
      end
   end)

   -- t[mask] and t[mask] = value
   local index_slow, newindex_slow = mt.__index__, mt.__newindex__
   mt.__index__ = function(self, key)
      local M = ty ~= 'Half' and state(key, 'Byte')
      local S = M and state(self, ty)
      if S then
         local object, R = fresh(ty)
         if masked_select(R, S, M) then return object, true end
      end
      return index_slow(self, key)
   end
   mt.__newindex__ = function(self, key, value)
      local M = ty ~= 'Half' and state(key, 'Byte')
      local S = M and state(self, ty)
      if S then
         if type(value) == 'number' then
            if masked_fill(S, M, value) then return true end
         else
            local T = state(value, ty)
            if T and masked_copy(S, M, T) then return true end
         end
      end
      return newindex_slow(self, key, value)
   end
end

-- nonzero: a row with the position of each element that is not 0
local NONZERO = [[
return function(sizes, steps, n, q, iq, p, ip)
   local count = 0
   for a = 1, sizes[1] do for b = 1, sizes[2] do for c = 1, sizes[3] do
      local j = iq + (a - 1) * steps[1] + (b - 1) * steps[2] + (c - 1) * steps[3]
      for d = 1, sizes[4] do
         if at(q, j) ~= 0 then
            if p then
               local to = ip + count * n
               if n > 3 then p[to + n - 4] = a end
               if n > 2 then p[to + n - 3] = b end
               if n > 1 then p[to + n - 2] = c end
               p[to + n - 1] = d
            end
            count = count + 1
         end
         j = j + steps[4]
      end
   end end end
   return count
end
]]
function native.families.nonzero(plan)
   local find = loops.compile(plan.ty, NONZERO, plan.name)
   return function(R, S)
      local n = S.n
      if S.count == 0 or S.count > loops.FEW or n > 4 or R.block == S.block then return nil end
      local sizes, steps = {1, 1, 1, 1}, {0, 0, 0, 0}
      for k = 1, n do sizes[4 - n + k], steps[4 - n + k] = S[2 * k - 1], S[2 * k] end
      local count = find(sizes, steps, n, S.block.data, S.offset)
      if count == 0 or not resize(R, 2, count, n) or not R.dense then return nil end
      find(sizes, steps, n, S.block.data, S.offset, R.block.data, R.offset)
      return true
   end
end

-- torch.gather calls the method of its first tensor
local gather = torch.gather
function torch.gather(self, ...)
   local S = native.state(self)
   if S and S.ty ~= 'Half' then return metatables['torch.' .. S.ty .. 'Tensor'].gather(self, ...) end
   return gather(self, ...)
end
