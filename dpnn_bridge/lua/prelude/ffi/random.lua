-- Random numbers without calling Python: Torch7's Mersenne twister and its distributions, on the state of Python's default generator
-- in memory, so that Lua and Python draw from one stream (dpnn_bridge/torch7/random.py). Other generators are used by Python only.
local bridge, py = ...
local ffi, native, metatables = bridge.ffi, bridge.native, bridge.metatables
local states, storages, read, loops = native.states, native.storages, native.read, native.loops
local type, select, floor, pi, sqrt = type, select, math.floor, math.pi, math.sqrt
local bxor, band, lshift, rshift = bit.bxor, bit.band, bit.lshift, bit.rshift
local C = ffi.C

ffi.cdef [[
double sin(double x); double cos(double x); double tan(double x);
typedef struct {
   uint64_t initial_seed; int32_t left, seeded, next, next_high, words[1248];
   double x, y, rho; int32_t valid, unused; int64_t turn;
} dpnn_bridge_generator;
]]
local g = ffi.cast('dpnn_bridge_generator *', py.generator_memory)
local words = g.words  -- of 64 bits each; the upper half is 0

-- Mersenne twister ---------------------------------------------------------------------------------------------------
local function mixed(high, low, lag)
   local y = rshift(bxor(band(words[2 * high], -0x80000000), band(words[2 * low], 0x7FFFFFFF)), 1)
   words[2 * high] = bxor(words[2 * lag], y, band(words[2 * low], 1) * 0x9908B0DF)
end

-- the next block of 624 words
local function twist()
   for i = 0, 226 do mixed(i, i + 1, i + 397) end
   for i = 227, 622 do mixed(i, i + 1, i - 227) end
   mixed(623, 0, 396)
   g.next, g.turn = 0, g.turn + 1
end

-- the next number of 32 bits
local function word()
   local left = g.left - 1
   if left == 0 then
      twist()
      left = 624
   end
   local at = g.next
   g.left, g.next = left, at + 1
   local y = words[2 * at]
   y = bxor(y, rshift(y, 11))
   y = bxor(y, band(lshift(y, 7), 0x9D2C5680))
   y = bxor(y, band(lshift(y, 15), 0xEFC60000))
   y = bxor(y, rshift(y, 18))
   return rshift(y, 1) * 2 + band(y, 1)
end

-- distributions with up to two arguments -----------------------------------------------------------------------------
local function unit() return word() * (1 / 4294967296) end
native.unit = unit
local function uniform(a, b) return unit() * (b - a) + a end
local function normal(mean, deviation)
   if g.valid ~= 0 then
      g.valid = 0
      return g.rho * C.sin(2 * pi * g.x) * deviation + mean
   end
   local x = unit()
   local y = unit()
   local rho = sqrt(-2 * C.log(1 - y))
   g.x, g.y, g.rho, g.valid = x, y, rho, 1
   return rho * C.cos(2 * pi * x) * deviation + mean
end
local function between(low, high) return word() % (high + 1 - low) + low end

local MODULI = {Double = 2^53 + 1, Float = 2^24 + 1, Long = 2^63, Int = 2^31, Short = 2^15, Char = 2^7, Byte = 2^8}
local limits = {Byte = 255, Char = 127, Short = 32767, Int = 2^31 - 1, Long = 2^53, Float = 2^53, Double = 2^53}

-- name -> function that draws a number, smallest number of arguments, defaults of both arguments, whether the arguments are valid (ty is
-- the element type of a tensor to fill, nil for a single number)
local draws = {
   uniform = {uniform, 0, 0, 1, function() return true end},
   normal = {normal, 0, 0, 1, function(mean, deviation) return deviation > 0 end},
   cauchy = {function(median, sigma) return median + sigma * C.tan(pi * (unit() - 0.5)) end, 0, 0, 1, function() return true end},
   logNormal = {function(mean, deviation) return C.exp(normal(mean, deviation)) end, 0, 1, 2,
                function(mean, deviation) return deviation > 0 end},
   exponential = {function(rate) return -1 / rate * C.log(1 - unit()) end, 1, nil, nil, function() return true end},
   geometric = {function(p) return floor(C.log(1 - unit()) / C.log(p)) + 1 end, 1, nil, nil,
                function(p, _, ty) return p > 0 and p < 1 and (ty == nil or ty == 'Double' or ty == 'Float' or p < 0.8) end},
   bernoulli = {function(p) return unit() <= p and 1 or 0 end, 0, 0.5, nil, function(p) return p >= 0 and p <= 1 end},
}
local REAL = {uniform = true, normal = true, cauchy = true, logNormal = true, exponential = true}

local FILL = [[
local draw = ...
return function(rows, columns, p, a, b, ip, v, w)
   for i = 1, rows do
      local jp = ip
      for j = 1, columns do
         p[jp] = draw(v, w)
         jp = jp + b
      end
      ip = ip + a
   end
end
]]
-- a function that fills a state with draws, with a loop of its own, so that LuaJIT compiles the loop for this distribution
local function filler(name, draw)
   local loop
   return function(S, v, w)
      local rows, columns, a, b = loops.layout(S)
      if not rows then return false end
      if not loop then loop = bridge.load(FILL, '=draws of ' .. name)(draw) end
      loop(rows, columns, S.block.data, a, b, S.offset, v, w)
      return true
   end
end

local function filled(object, ty)
   local S = states[object] or read(object)
   return S and S.ty == ty and S.block and S.count > 0 and S
end
-- whether the arguments are up to two numbers
local function numbers(n, a, b)
   return n == 0 or (n <= 2 and type(a) == 'number' and (n == 1 or type(b) == 'number'))
end

-- the functions of torch return numbers of the default tensor type; only Double and Float have the distributions of real numbers
local default_type = bridge.default_type
local function drawn_as_real()
   local ty = default_type()
   return ty == 'Double' or ty == 'Float'
end

-- the method that a function of torch calls if its first argument x is a tensor
local function method_of_tensor(x, name)
   local S = type(x) == 'userdata' and native.state(x)
   return S and metatables['torch.' .. S.ty .. 'Tensor'][name]
end

for name, rule in pairs(draws) do
   local draw, least, first, second, is_valid = unpack(rule, 1, 5)
   local most = (name == 'bernoulli' or least == 1) and 1 or 2
   for ty in pairs(limits) do
      local mt = metatables['torch.' .. ty .. 'Tensor']
      local slow = mt[name]
      if slow and (ty == 'Float' or ty == 'Double' or not REAL[name]) then
         local fill = filler(name, draw)
         mt[name] = function(self, ...)
            local n, v, w = select('#', ...), ...
            if n >= least and n <= most and numbers(n, v, w) then
               local S = filled(self, ty)
               v, w = v or first, w or second
               if v and REAL[name] then v, w = native.number_of(ty, v), w and native.number_of(ty, w) end  -- as Torch7 does
               if S and is_valid(v, w, ty) and fill(S, v, w) then return self end
            end
            return slow(self, ...)
         end
      end
   end
   local slow = torch[name]
   torch[name] = function(...)
      local n, v, w = select('#', ...), ...
      local method = method_of_tensor(v, name)
      if method then return method(...) end
      if n >= least and n <= most and numbers(n, v, w) and limits[default_type()] and (not REAL[name] or drawn_as_real()) then
         v, w = v or first, w or second
         if is_valid(v, w) then return draw(v, w) end
      end
      return slow(...)
   end
end

-- low and high of random(high) and random(low, high); nil if Python must check them
local function bounds(n, a, b)
   local low, high = 1, a
   if n == 2 then low, high = a, b end
   if type(low) == 'number' and type(high) == 'number' and floor(low) == low and floor(high) == high and low <= high
      and low >= -2^52 and high <= 2^52 then
      return low, high
   end
end
for ty, limit in pairs(limits) do
   local mt, modulus = metatables['torch.' .. ty .. 'Tensor'], MODULI[ty]
   local slow = mt.random
   local fill, fill_any = filler('random', between), filler('random', function() return word() % modulus end)
   mt.random = function(self, ...)
      local n, a, b = select('#', ...), ...
      local S = n <= 2 and filled(self, ty)
      if S then
         if n == 0 then
            if fill_any(S) then return self end
         else
            local low, high = bounds(n, a, b)
            if low and low >= 0 and high <= limit and fill(S, low, high) then return self end
         end
      end
      return slow(self, ...)
   end
end
local random = torch.random
function torch.random(...)
   local n, a, b = select('#', ...), ...
   if limits[default_type()] then
      if n == 0 then return word() end
      local low, high = bounds(n, a, b)
      if n <= 2 and low then return between(low, high) end
   end
   return random(...)
end

-- bernoulli with a probability for each element
local EACH = [[
return function(unit, rows, columns, p, ip, a, b, q, iq, c, d)
   for i = 0, rows - 1 do
      for j = 0, columns - 1 do
         local x = at(q, iq + i * c + j * d)
         if not (x >= 0 and x <= 1) then return false end
      end
   end
   for i = 0, rows - 1 do
      for j = 0, columns - 1 do p[ip + i * a + j * b] = unit() <= at(q, iq + i * c + j * d) and 1 or 0 end
   end
   return true
end
]]
local each = loops.kernels(function() return EACH end, ' of each')
local function draw_each(S, Q)
   local rows, columns, a, b, c, d = loops.layout(S, Q)
   return rows and each(Q.ty, 'draws')(unit, rows, columns, S.block.data, S.offset, a, b, Q.block.data, Q.offset, c, d)
end
for ty in pairs(limits) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local slow = mt.bernoulli
   mt.bernoulli = function(self, ...)
      local probabilities = ...
      local Q = select('#', ...) == 1 and type(probabilities) == 'userdata' and (states[probabilities] or read(probabilities))
      local S = Q and (Q.ty == 'Float' or Q.ty == 'Double') and filled(self, ty)
      if S and Q.block and Q.count == S.count and draw_each(S, Q) then return self end
      return slow(self, ...)
   end
end

-- new tensors of random numbers --------------------------------------------------------------------------------------
for name, method in pairs {rand = 'uniform', randn = 'normal'} do
   for _, ty in ipairs {'Float', 'Double'} do
      local mt = metatables['torch.' .. ty .. 'Tensor']
      local slow = mt[name]
      mt[name] = function(self, ...)
         local n, first = select('#', ...), ...
         local sizes = n > 0
         for i = 1, n do sizes = sizes and type((select(i, ...))) == 'number' end
         if sizes or (n == 1 and storages[first] and storages[first].ty == 'Long') then return mt[method](mt.resize(self, ...)) end
         return slow(self, ...)
      end
   end
   local slow = torch[name]
   torch[name] = function(...)
      local drawn = method_of_tensor((...), name)
      if drawn then return drawn(...) end
      if select('#', ...) == 0 or not drawn_as_real() or type((...)) == 'userdata' and not storages[(...)] then return slow(...) end
      local mt = metatables['torch.' .. default_type() .. 'Tensor']
      return mt[name](mt.new(), ...)
   end
end

local function permute(data, first, step, n)
   for i = 0, n - 1 do data[first + i * step] = i + 1 end
   for i = 0, n - 2 do
      local a, b = first + i * step, first + (i + word() % (n - i)) * step
      data[a], data[b] = data[b], data[a]
   end
end
for ty in pairs(limits) do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local slow = mt.randperm
   mt.randperm = function(self, ...)
      local count, S = ..., states[self] or read(self)
      if S and S.ty == ty and select('#', ...) == 1 and type(count) == 'number' and floor(count) == count and count > 0 and count < 2 ^ 31 then
         mt.resize(self, count)
         permute(S.block.data, S.offset, S[2], count)
         return self
      end
      return slow(self, ...)
   end
end
local randperm = torch.randperm
function torch.randperm(...)
   local method = method_of_tensor((...), 'randperm')
   if method then return method(...) end
   local ty = default_type()
   if select('#', ...) == 1 and limits[ty] then
      local mt = metatables['torch.' .. ty .. 'Tensor']
      return mt.randperm(mt.new(), ...)
   end
   return randperm(...)
end
