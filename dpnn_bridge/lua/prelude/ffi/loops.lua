-- Loops over the elements of small tensors, compiled by LuaJIT: one for each operation and element type, made when it is
-- first used. They visit the logical elements in order, as TH does. Large tensors go to PyTorch.
local bridge, py = ...
local ffi, native = bridge.ffi, bridge.native
local states, read = native.states, native.read
local C = ffi.C
local loops = {}
native.loops = loops

--- elements up to which a loop of Lua does the work: as fast as a call to Python, and with the bits of C's functions
loops.FEW = 4096

ffi.cdef [[
double exp(double x); double log(double x); double log1p(double x); double tanh(double x); double pow(double x, double y);
float expf(float x); float logf(float x); float log1pf(float x); float tanhf(float x); float powf(float x, float y);
]]

-- rows, columns, and the two strides of a state with at most two levels; nothing for others
local function spans(S)
   if S.dense then return 1, S.count, 0, 1 end
   local n = S.n
   if n == 1 then return 1, S[1], 0, S[2] end
   if n == 2 then return S[1], S[3], S[2], S[4] end
   if n == 3 then
      if S[2] == S[3] * S[4] then return S[1] * S[3], S[5], S[4], S[6] end
      if S[4] == S[5] * S[6] then return S[1], S[3] * S[5], S[2], S[6] end
      if S[1] == 1 then return S[3], S[5], S[4], S[6] end
      if S[3] == 1 then return S[1], S[5], S[2], S[6] end
      if S[5] == 1 then return S[1], S[3], S[2], S[4] end
   end
end

-- strides of S in an arrangement of rows and columns
local function within(S, rows, columns)
   if S.dense then
      if rows * columns == S.count then return columns, 1 end
      return
   end
   local r, c, a, b = spans(S)
   if r == rows and c == columns then return a, b end
end

-- a common arrangement of states with equally many elements: rows, columns, strides of each; nothing if there is none
function loops.layout(A, B, D, E)
   local first = not A.dense and A or (B and not B.dense and B) or (D and not D.dense and D) or (E and not E.dense and E) or A
   local rows, columns = spans(first)
   if not rows then return end
   local a, b = within(A, rows, columns)
   local c, d, e, f, g, h = 0, 0, 0, 0, 0, 0
   if not a then return end
   if B then
      c, d = within(B, rows, columns)
      if not c then return end
   end
   if D then
      e, f = within(D, rows, columns)
      if not e then return end
   end
   if E then
      g, h = within(E, rows, columns)
      if not g then return end
   end
   return rows, columns, a, b, c, d, e, f, g, h
end

-- What the source of a kernel says in short. at(p, i) is an element, see elements.lua; R(x) rounds to the element type. Both are written out: a function of their own would be compiled before the loop is,
-- which then leaves for it at each element.
local SHORT = {
   Double = {at = native.at.Double, R = '(X)'},
   Float = {at = native.at.Float, R = 'tonumber(cast(float, X))'},
}
local WHOLE = {at = 'P[I]', R = '(X)'}
local FUNCTIONS = {Double = 'C.exp, C.log, C.log1p, C.tanh, C.pow', Float = 'C.expf, C.logf, C.log1pf, C.tanhf, C.powf'}
local float = ffi.typeof('float')

local function written_out(source, short)
   return (source:gsub('%f[%w_]at(%b())', function(arguments)
      local p, i = arguments:match('^%((.-), (.*)%)$')
      return (short.at:gsub('[PI]', {P = p, I = i}))
   end):gsub('%f[%w_]R(%b())', function(x)
      return (short.R:gsub('X', function() return written_out(x:sub(2, -2), short) end))
   end))
end

-- Lua source as a function, with what the element type brings
function loops.compile(ty, source, name)
   local prelude = 'local C, cast, words, band, float = ...\nlocal exp, log, log1p, tanh, pow = ' .. (FUNCTIONS[ty] or FUNCTIONS.Double)
      .. '\nlocal sqrt, abs, floor, ceil = math.sqrt, math.abs, math.floor, math.ceil\n'
   return assert(bridge.load(prelude .. written_out(source, SHORT[ty] or WHOLE), '=' .. name))(C, ffi.cast, native.words, bit.band, float)
end

-- kernels of an element type and a name, each made of source(name) when it is first used
function loops.kernels(source, label)
   local compiled = {}
   return function(ty, name)
      local of = compiled[ty]
      if not of then of = {} compiled[ty] = of end
      local f = of[name]
      if not f then
         f = loops.compile(ty, source(name), name .. (label or ''))
         of[name] = f
      end
      return f
   end
end

local POINTWISE = [[
return function(rows, columns, p, a, b, q, c, d, r, e, f, s, g, h, ip, iq, ir, is, v, w)
   for i = 1, rows do
      local jp, jq, jr, js = ip, iq, ir, is
      for j = 1, columns do
         local x, y, z = at(q, jq), at(r, jr), at(s, js)
         p[jp] = EXPRESSION
         jp, jq, jr, js = jp + b, jq + d, jr + f, js + h
      end
      ip, iq, ir, is = ip + a, iq + c, ir + e, is + g
   end
end
]]

local REDUCE = [[
return function(rows, columns, q, c, d, r, e, f, iq, ir, v)
   local total = START
   for i = 1, rows do
      local jq, jr = iq, ir
      for j = 1, columns do
         local x, y = at(q, jq), at(r, jr)
         STEP
         jq, jr = jq + d, jr + f
      end
      iq, ir = iq + c, ir + e
   end
   return total
end
]]

--- element-wise results from x, y, z (elements of the sources) and v, w (numbers); R rounds to the element type
local expressions = {
   add = 'x + v', sub = 'x - v', mul = 'x * v', div = 'x / v', cadd = 'x + y', csub = 'x - y',
   cadd_scaled = 'x + R(v * y)', csub_scaled = 'x - R(v * y)', cmul = 'x * y', cdiv = 'x / y',
   addcmul = 'x + R(R(v * y) * z)', addcdiv = 'x + R(R(v * y) / z)',
   clamp = 'x < v and v or (x > w and w or x)', cmax = 'x > y and x or y', cmin = 'x < y and x or y',
   cmax_number = 'x > v and x or v', cmin_number = 'x < v and x or v',
   copy = 'x', neg = '-x', abs = 'abs(x)', sqrt = 'sqrt(x)', rsqrt = '1 / R(sqrt(x))', cinv = '1 / x',
   square = 'x * x', cube = 'R(x * x) * x', floor = 'floor(x)', ceil = 'ceil(x)', reversed_sub = 'v - x',
   sign = 'x > 0 and 1 or (x < 0 and -1 or 0)',
   exp = 'exp(x)', log = 'log(x)', log1p = 'log1p(x)', power = 'pow(x, v)', tanh = 'tanh(x)', sigmoid = '1 / R(1 + exp(-x))',
   fill = 'v', lt = 'x < y and 1 or 0', gt = 'x > y and 1 or 0', le = 'x <= y and 1 or 0', ge = 'x >= y and 1 or 0',
   eq = 'x == y and 1 or 0', ne = 'x ~= y and 1 or 0', lt_number = 'x < v and 1 or 0', gt_number = 'x > v and 1 or 0',
   le_number = 'x <= v and 1 or 0', ge_number = 'x >= v and 1 or 0', eq_number = 'x == v and 1 or 0', ne_number = 'x ~= v and 1 or 0',
}
loops.expressions = expressions
local pointwise = loops.kernels(function(name)
   return (POINTWISE:gsub('EXPRESSION', function() return expressions[name] end))
end, ' of elements')

-- p = expression of x, y, z, for states of equally many elements; false where their arrangements do not meet
function loops.pointwise(name, P, X, Y, Z, v, w)
   local rows, columns, a, b, c, d, e, f, g, h = loops.layout(P, X, Y, Z)
   if not rows then return false end
   local q = X.block.data
   local r, ir, s, is = q, X.offset, q, X.offset
   if Y then r, ir = Y.block.data, Y.offset else e, f = c, d end
   if Z then s, is = Z.block.data, Z.offset else g, h = c, d end
   pointwise(X.ty, name)(rows, columns, P.block.data, a, b, q, c, d, r, e, f, s, g, h, P.offset, X.offset, ir, is, v or 0, w or 0)
   return true
end

local reductions = {
   sum = {'0', 'total = total + x'}, squares = {'0', 'total = total + x * x'}, products = {'0', 'total = total + x * y'},
   absolutes = {'0', 'total = total + abs(x)'}, prod = {'1', 'total = total * x'},
   max = {'at(q, iq)', 'if not (x <= total) and total == total then total = x end'},
   min = {'at(q, iq)', 'if not (x >= total) and total == total then total = x end'},
   squared_differences = {'0', 'local t = x - y total = total + t * t'},
}
local reduction = loops.kernels(function(name)
   local start, step = reductions[name][1], reductions[name][2]
   return (REDUCE:gsub('START', start):gsub('STEP', step))
end, ' of all elements')

-- a number from the elements of one state or two; nothing where their arrangements do not meet
function loops.reduce(name, X, Y, v)
   local rows, columns, c, d, e, f = loops.layout(X, Y)
   if not rows then return nil end
   local q = X.block.data
   local r, ir = q, X.offset
   if Y then r, ir = Y.block.data, Y.offset else e, f = c, d end
   return reduction(X.ty, name)(rows, columns, q, c, d, r, e, f, X.offset, ir, v or 0)
end
