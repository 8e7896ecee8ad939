-- torch.multinomial and the alias method, with the random numbers of random.lua.
local bridge = ...
local ffi, native, metatables = bridge.ffi, bridge.native, bridge.metatables
local states, read, loops, unit = native.states, native.read, native.loops, native.unit
local type, select, floor = type, select, math.floor

-- multinomial --------------------------------------------------------------------------------------------------------
local scratch = ffi.new('double[?]', 64)
local capacity = 64

-- write the cumulative probabilities of a row to scratch; false if their sum is not positive
local function cumulate(get, P, index, step, n)
   local total = 0
   for i = 0, n - 1 do
      total = total + get(P, index + i * step)
      scratch[i] = total
   end
   if not (total > 0) then return false end
   for i = 0, n - 1 do scratch[i] = scratch[i] / total end
   return true
end

local function draw_row(n, count, replace, to, index, step)
   for k = 0, count - 1 do
      local u = unit()
      scratch[n - 1] = 1
      local low, high = 0, n
      while high > low do
         local middle = low + floor((high - low) / 2)
         if scratch[middle] < u then low = middle + 1 else high = middle end
      end
      to[index + k * step] = low + 1
      if not replace then
         local probability = scratch[low] - (low > 0 and scratch[low - 1] or 0)
         for i = low, n - 1 do scratch[i] = scratch[i] - probability end
         for i = 0, n - 1 do scratch[i] = scratch[i] / (1 - probability) end
      end
   end
end

-- fill a LongTensor with draws; false if Python must do it
local function multinomial(object, P, count, replace)
   local I = states[object] or read(object)
   if not (I and I.ty == 'Long' and P and P.block and (P.ty == 'Float' or P.ty == 'Double') and (P.n == 1 or P.n == 2))
      or type(count) ~= 'number' or floor(count) ~= count or count < 1 or (replace ~= nil and type(replace) ~= 'boolean') then
      return false
   end
   local rows, n, down, step = 1, P[1], 0, P[2]
   if P.n == 1 and (step ~= 1 or I.n == 1 and I[2] ~= 1) then return false end  -- Torch7 reads adjacent elements
   if P.n == 2 then rows, n, down, step = P[1], P[3], P[2], P[4] end
   if not replace and count > n then return false end
   if n > capacity then scratch, capacity = ffi.new('double[?]', n), n end
   local get = native.get[P.ty]
   for i = 0, rows - 1 do
      if not cumulate(get, P, P.offset + i * down, step, n) then return false end
   end
   local resize = metatables['torch.LongTensor'].resize
   if P.n == 1 then resize(object, count) else resize(object, rows, count) end
   for i = 0, rows - 1 do
      cumulate(get, P, P.offset + i * down, step, n)
      draw_row(n, count, replace, I.block.data, I.offset + (P.n == 2 and i * I[2] or 0), I[2 * I.n])
   end
   return true
end

local function probabilities(x, ty)
   local P = type(x) == 'userdata' and (states[x] or read(x))
   return P and (not ty or P.ty == ty) and P or nil
end
for _, ty in ipairs {'Float', 'Double'} do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local slow = mt.multinomial
   mt.multinomial = function(self, ...)
      local p, count, replace = ...
      if select('#', ...) <= 3 and multinomial(self, probabilities(p, ty), count, replace) then return self end
      return slow(self, ...)
   end
end
local slow = torch.multinomial
function torch.multinomial(...)
   local p, count, replace = ...
   if select('#', ...) <= 3 and type(count) == 'number' then
      local result = metatables['torch.LongTensor'].new()
      if multinomial(result, probabilities(p), count, replace) then return result end
   end
   return slow(...)
end

-- the alias method (ops/sampling.py) ---------------------------------------------------------------------------------
local ALIAS = [[
return function(n, q, j, p, ip, step, stack)
   local small, large, most = 0, n, 0
   for i = 0, n - 1 do
      q[i], j[i] = at(p, ip + i * step) * n, 0
      if q[i] < 1 then stack[small], small = i, small + 1 else large, stack[large - 1] = large - 1, i end
   end
   while small > 0 and large < n do  -- the top of the stack of large elements is at `large`
      local a, b = stack[small - 1], stack[large]
      j[a] = b
      q[b] = q[b] - (1 - q[a])
      if q[b] < 1 then stack[small - 1], large = b, large + 1 else small = small - 1 end
   end
   for i = 0, n - 1 do
      if not (q[i] > 0) then return false end
      most = max(most, q[i])
   end
   for i = 0, n - 1 do
      if most > 1 then q[i] = q[i] / most end
      if j[i] <= 0 then q[i] = 1 end
      j[i] = j[i] + 1
   end
   return true
end
]]
function native.families.alias_setup(plan)
   plan.fresh, plan.fresh_types = 2, {'Long', plan.ty}
   local setup = loops.compile(plan.ty, ALIAS, plan.name)
   return function(J, Q, P)
      local n = P.count
      if P.n ~= 1 or not native.resize(J, 1, n) or not native.resize(Q, 1, n) then return nil end
      return setup(n, Q.block.data, J.block.data, P.block.data, P.offset, P[2], ffi.new('int32_t[?]', n)) or nil
   end
end
function native.families.alias_draw()
   return function(R, J, Q, generator)
      if generator or R.n ~= 1 or J.n ~= 1 or Q.n ~= 1 or J[2] ~= 1 or Q[1] < J[1] then return nil end
      local n, r, j, q, first, step, from, to = J[1], R.block.data, J.block.data, Q.block.data, J.offset, Q[2], Q.offset, R.offset
      for i = first, first + n - 1 do j[i] = j[i] - 1 end
      for i = 0, R[1] - 1 do
         local k = floor(unit() * n)
         r[to + i * R[2]] = unit() <= q[from + k * step] and k + 1 or j[first + k]
      end
      return R.object
   end
end
