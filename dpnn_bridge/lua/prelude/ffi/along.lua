-- Reductions of small tensors: along one dimension, with the order and the rounding of TH, and the torch functions that
-- reduce to a number.
local bridge, py = ...
local native, metatables = bridge.native, bridge.metatables
local states, read, state, fresh, loops = native.states, native.read, native.state, native.fresh, native.loops
local type, select, pairs, floor = type, select, pairs, math.floor

local FEW = loops.FEW

-- dimensions from first to last as one: how many elements, and the step between them; nothing where it is not equal
local function joined(S, first, last)
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

-- a tensor as slices along dimension d: how many in front and behind (outer, inner), the size, and the three strides;
-- nothing where the dimensions of one side do not lie at equal steps
local function slices(S, d)
   local outer, outer_step = joined(S, 1, d - 1)
   local inner, inner_step = joined(S, d + 1, S.n)
   if not outer or not inner then return nil end
   return outer, S[2 * d - 1], inner, outer_step, S[2 * d], inner_step
end
native.slices = slices

local ALONG = [[
local pow = pow
return function(outer, n, inner, so, sl, si, q, iq, p, ip, t, it, v)
   for o = 0, outer - 1 do
      for i = 0, inner - 1 do
         local j = iq + o * so + i * si
         local total, place = START, 0
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
-- start, step, finish. TH sums in double along adjacent elements, else in the type of the elements
local reductions = {
   sum = {'0', 'total = total + x', 'total'},
   sum_apart = {'0', 'total = R(total + x)', 'total'},
   mean = {'0', 'total = total + x', 'R(total) / n'},
   mean_apart = {'0', 'total = R(total + x)', 'total / n'},
   norm = {'0', 'total = total + pow(abs(x), v)', 'pow(R(total), R(1 / v))'},
   max = {'at(q, j)', 'if not (x <= total) and total == total then total, place = x, k - 1 end', 'total', true},
   min = {'at(q, j)', 'if not (x >= total) and total == total then total, place = x, k - 1 end', 'total', true},
}
local kernel = loops.kernels(function(name)
   local rule = reductions[name]
   return (ALONG:gsub('START', rule[1]):gsub('STEP', rule[2]):gsub('FINISH', rule[3])
      :gsub('PLACE', rule[4] and 't[it] = place + 1' or ''))
end, ' along a dimension')

-- whether a tensor could take the sizes of S, but 1 in dimension d, contiguous
local function shaped(object, R, S, d)
   local n = S.n
   if n > 4 then return false end
   return native.resize(object, R, n, d == 1 and 1 or S[1], d == 2 and 1 or S[3], d == 3 and 1 or S[5], d == 4 and 1 or S[7])
      and R.dense
end
-- result (and places) of a reduction; nothing where Python must
local function along(name, S, d, object, R, index, I, v)
   if type(d) ~= 'number' or floor(d) ~= d or d < 1 or d > S.n or S.count == 0 or S.count > FEW then return nil end
   local outer, n, inner, so, sl, si = slices(S, d)
   if not outer then return nil end
   if not R then object, R = fresh(S.ty) end
   local places = reductions[name][4]
   if places and not I then index, I = fresh('Long') end
   if R.block and R.block == S.block or not shaped(object, R, S, d) or (places and not shaped(index, I, S, d)) then return nil end
   if sl ~= 1 and reductions[name .. '_apart'] then name = name .. '_apart' end
   local p = R.block.data
   kernel(S.ty, name)(outer, n, inner, so, sl, si, S.block.data, S.offset, p, R.offset, places and I.block.data or p,
                      places and I.offset or 0, v)
   return object, index
end

-- (t, d) | (result, t, d)
local function plain(name)
   return function(ty, n, a, b, c)
      if n == 2 then
         local S = state(a, ty)
         return S and along(name, S, b)
      elseif n == 3 then
         local R, S = state(a, ty), state(b, ty)
         return R and S and along(name, S, c, a, R)
      end
   end
end
-- (t, d) | (result, t, d) | (result, places, t, d)
local function with_places(name)
   return function(ty, n, a, b, c, d)
      if n == 2 then
         local S = state(a, ty)
         if S then return along(name, S, b) end
      elseif n == 3 then
         local R, S = state(a, ty), state(b, ty)
         if R and S then return along(name, S, c, a, R) end
      elseif n == 4 then
         local R, I, S = state(a, ty), state(b, 'Long'), state(c, ty)
         if R and I and S and I ~= R then return along(name, S, d, a, R, b, I) end
      end
   end
end
local calls = {
   sum = plain 'sum', mean = plain 'mean', max = with_places 'max', min = with_places 'min',
   -- (t, p, d) | (result, t, p, d)
   norm = function(ty, n, a, b, c, d)
      if n == 3 and type(b) == 'number' and b > 0 then
         local S = state(a, ty)
         return S and along('norm', S, c, nil, nil, nil, nil, b)
      elseif n == 4 and type(c) == 'number' and c > 0 then
         local R, S = state(a, ty), state(b, ty)
         return R and S and along('norm', S, d, a, R, nil, nil, c)
      end
   end,
}

for name, call in pairs(calls) do
   for _, ty in pairs {'Float', 'Double'} do
      local mt = metatables['torch.' .. ty .. 'Tensor']
      local slow = mt[name]
      mt[name] = function(...)
         local n = select('#', ...)
         if n > 1 then
            local result, places = call(ty, n, ...)
            if places then return result, places end
            if result then return result end
         end
         return slow(...)
      end
   end
   local slow = torch[name]
   torch[name] = function(...)
      local n, first = select('#', ...), ...
      local S = type(first) == 'userdata' and (states[first] or read(first))
      if S and (S.ty == 'Double' or S.ty == 'Float') and S.count > 0 and S.count <= FEW then
         if n == 1 then return metatables['torch.' .. S.ty .. 'Tensor'][name](first) end
         local result, places = call(S.ty, n, ...)
         if places then return result, places end
         if result then return result end
      end
      return slow(...)
   end
end
