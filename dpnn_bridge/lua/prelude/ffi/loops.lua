-- Loops over the elements of small tensors, which LuaJIT compiles: one per operation and element type, created when it is first
-- used. They visit the elements in logical order, as TH does. Large tensors are computed by PyTorch.
local bridge = ...
local ffi, native = bridge.ffi, bridge.native
local vectors, packed = native.vectors, native.packed
local C, float, int, format = ffi.C, ffi.typeof 'float', ffi.typeof 'int32_t', string.format
local ceil, floor = math.ceil, math.floor
local loops = {}
native.loops = loops

--- Numbers of elements. Up to FEW, loops that call C's functions are used: they are as fast as a call to Python, and return the bits
--- of C's functions. Loops without such calls are used up to MANY. Above LONG, PyTorch's vector code is faster than a slow loop.
loops.FEW, loops.MANY, loops.LONG = 4096, 32768, 2048
function loops.is_small(S) return S.count > 0 and S.count <= loops.FEW end

-- functions of C's library, in double and in float
local C_NAMES = {
   'exp', 'log', 'log1p', 'pow', 'fmod', 'atan2', 'sin', 'cos', 'tan', 'asin', 'acos', 'atan', 'sinh', 'cosh', 'tanh', 'round', 'trunc',
}
for _, name in ipairs(C_NAMES) do
   local arguments = (name == 'pow' or name == 'fmod' or name == 'atan2') and '(T x, T y);' or '(T x);'
   for suffix, ty in pairs {[''] = 'double', f = 'float'} do ffi.cdef((ty .. ' ' .. name .. suffix .. arguments:gsub('T', ty))) end
end

-- rows, columns and their strides, if the elements of a state can be visited by two nested loops; nil for other states and for those
-- without elements, which may have no memory
local function two_levels(S)
   if S.count == 0 then return end
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

-- the strides of S if its elements can be visited as rows x columns; nil otherwise
local function strides_in(S, rows, columns)
   if S.dense then
      if rows * columns == S.count then return columns, 1 end
      return
   end
   local r, c, a, b = two_levels(S)
   if r == rows and c == columns then return a, b end
end

-- rows, columns, and the strides of each state, for loops over several states of equally many elements; nil if that is impossible
function loops.layout(A, B, D, E)
   local first = not A.dense and A or (B and not B.dense and B) or (D and not D.dense and D) or (E and not E.dense and E) or A
   local rows, columns = two_levels(first)
   if not rows then return end
   local a, b = strides_in(A, rows, columns)
   local c, d, e, f, g, h = 0, 0, 0, 0, 0, 0
   if not a then return end
   if B then
      c, d = strides_in(B, rows, columns)
      if not c then return end
   end
   if D then
      e, f = strides_in(D, rows, columns)
      if not e then return end
   end
   if E then
      g, h = strides_in(E, rows, columns)
      if not g then return end
   end
   return rows, columns, a, b, c, d, e, f, g, h
end

-- Macros in the source of a loop, which are expanded for the element type; LuaJIT would compile functions before the loop, which
-- would then call them for each element. at(p, i) is an element, see elements.lua; R(x) rounds to the element type; U(x) is the
-- unsigned value of an integer.
local MACROS = {
   Double = {at = native.at.Double}, Float = {at = native.at.Float, R = 'tonumber(cast(float, X))'},
   Char = {U = 'band(X, 0xFF)'}, Short = {U = 'band(X, 0xFFFF)'}, Int = {at = '(P[I] + 0LL)', U = 'tobit(X)'},
}
local function expand_macros(source, ty, without_nan)
   local short = MACROS[ty] or {}
   local at = not without_nan and short.at or 'P[I]'
   source = source:gsub('%f[%w_]at(%b())', function(arguments)
      local p, i = arguments:match('^%((.-), (.*)%)$')
      return (at:gsub('[PI]', {P = p, I = i}))
   end)
   return (source:gsub('%f[%w_]([RU])(%b())', function(name, x)
      return ((short[name] or '(X)'):gsub('X', function() return expand_macros(x:sub(2, -2), ty, without_nan) end))
   end))
end

local PRELUDE = [[
local C, cast, words, float, int = ...
local band, bor, bxor, bnot, lshift, rshift, tobit = bit.band, bit.bor, bit.bxor, bit.bnot, bit.lshift, bit.rshift, bit.tobit
local sqrt, abs, floor, ceil, min, max, tonumber = math.sqrt, math.abs, math.floor, math.ceil, math.min, math.max, tonumber
]]
local function contains_call(source, f) return source:find('%f[%w_.]' .. f .. '%(') end
local function contains_c_call(source)
   for _, f in ipairs(C_NAMES) do
      if contains_call(source, f) or source:find('C.' .. f, 1, true) then return true end
   end
end
-- compile Lua source for an element type; `without_nan`: no element is NaN
function loops.compile(ty, source, name, without_nan)
   local lines = {PRELUDE}
   for _, f in ipairs(C_NAMES) do
      if contains_call(source, f) then lines[#lines + 1] = format('local %s = C.%s%s\n', f, f, ty == 'Float' and 'f' or '') end
   end
   lines[#lines + 1] = expand_macros(source, ty, without_nan)
   return assert(bridge.load(table.concat(lines), '=' .. name))(C, ffi.cast, native.words, float, int)
end

-- replace words in capitals in Lua source
function loops.substitute(source, parts) return (source:gsub('%f[%w_]%u%u+%f[^%w_]', parts)) end

-- a function of an element type and a name that returns a kernel, compiled from source(name) when it is first used
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

-- a loop over adjacent elements, and a loop over rows of elements with strides
local POINTWISE = [[
return function(count, p, q, r, s, ip, iq, ir, is, v, w)
   for i = 0, count - 1 do
      NEXT
      p[ip + i] = EXPRESSION
   end
end, function(rows, columns, p, q, r, s, ip, iq, ir, is, v, w, a, b, c, d, e, f, g, h)
   for i = 1, rows do
      local jp, jq, jr, js = ip, iq, ir, is
      for j = 1, columns do
         ROWS
         p[jp] = EXPRESSION
         jp, jq, jr, js = jp + b, jq + d, jr + f, js + h
      end
      ip, iq, ir, is = ip + a, iq + c, ir + e, is + g
   end
end
]]
local OPERANDS = {x = 'q', y = 'r', z = 's'}

-- the two loops of an expression from element type `ty` to type `into`, compiled when they are first used
local compiled = {}
local function pointwise_loops(ty, into, expression, without_nan)
   local of = compiled[ty] or {}
   compiled[ty], of[into] = of, of[into] or {}
   local key = without_nan and 'finite ' .. expression or expression
   local pair = of[into][key]
   if not pair then
      local next, rows = {}, {}
      for _, operand in ipairs {'x', 'y', 'z'} do
         if expression:find('%f[%w_]' .. operand .. '%f[^%w_(]') then  -- read only elements that are used
            local p = OPERANDS[operand]
            next[#next + 1] = format('local %s = at(%s, i%s + i)', operand, p, p)
            rows[#rows + 1] = format('local %s = at(%s, j%s)', operand, p, p)
         end
      end
      local source = loops.substitute(POINTWISE, {NEXT = table.concat(next, ' '), ROWS = table.concat(rows, ' '), EXPRESSION = expression})
      pair = {loops.compile(ty, source, expression, without_nan)}
      of[into][key] = pair
   end
   return pair[1], pair[2]
end

-- Reduce the elements of one or two states to a number: START and FINISH are expressions, STEP is a statement; v is a number from the
-- arguments, n the number of elements.
local REDUCE = [[
return function(rows, columns, q, c, d, r, e, f, iq, ir, v, n)
   local total = START
   for i = 1, rows do
      local jq, jr = iq, ir
      for j = 1, columns do
         local x = at(q, jq)
         SECOND
         STEP
         jq, jr = jq + d, jr + f
      end
      iq, ir = iq + c, ir + e
   end
   return FINISH
end
]]
function loops.reduction(start, step, finish)
   local second = step:find '%f[%w_]y%f[^%w_]' and 'local y = at(r, jr)' or ''
   return loops.substitute(REDUCE, {START = start, STEP = step, FINISH = finish or 'total', SECOND = second})
end

-- run such a loop; nil if the states cannot be visited together
function loops.run_reduction(loop, X, Y, v)
   local rows, columns, c, d, e, f = loops.layout(X, Y)
   if not rows then return nil end
   local q = X.block.data
   local r, ir = q, X.offset
   if Y then r, ir = Y.block.data, Y.offset end
   return loop(rows, columns, q, c, d, r, e, f, X.offset, ir, v or 0, X.count)
end

--- Element-wise expressions of x, y, z (elements of the sources) and v, w (numbers), by name. Most expressions are declared in
--- ops/elementwise.py; those here are used by functions in Lua.
local expressions = {copy = 'x', zero = '0', number = 'tonumber(x)'}
loops.expressions = expressions

local function has_same_layout(P, X)
   return P == X or native.same_geometry(P, X) and (P.block ~= X.block or P.offset == X.offset)
end
-- whether all states fill memory without gaps in the same order of dimensions, such as transposed matrices; then the loop over
-- adjacent elements is used
local function are_packed(P, X, Y, Z)
   return packed(P) and has_same_layout(P, X) and (not Y or has_same_layout(P, Y)) and (not Z or has_same_layout(P, Z))
end

-- run one of the two loops of an expression on states of equally many elements; false if they cannot be visited together
local function run(dense, strided, P, X, Y, Z, v, w)
   local q = X.block.data
   local r, ir, s, is = q, X.offset, q, X.offset
   if Y then r, ir = Y.block.data, Y.offset end
   if Z then s, is = Z.block.data, Z.offset end
   if P.dense and X.dense and (not Y or Y.dense) and (not Z or Z.dense) or are_packed(P, X, Y, Z) then
      dense(X.count, P.block.data, q, r, s, P.offset, X.offset, ir, is, v, w)
      return true
   end
   local rows, columns, a, b, c, d, e, f, g, h = loops.layout(P, X, Y, Z)
   if not rows then return false end
   strided(rows, columns, P.block.data, q, r, s, P.offset, X.offset, ir, is, v, w, a, b, c, d, e, f, g, h)
   return true
end

-- P = expression of X, Y, Z by name
function loops.pointwise(name, P, X, Y, Z, v, w)
   local dense, strided = pointwise_loops(X.ty, P.ty, expressions[name])
   return run(dense, strided, P, X, Y, Z, v or 0, w or 0)
end

local reductions = {
   max = {'at(q, iq)', 'if not (x <= total) and total == total then total = x end'},
   min = {'at(q, iq)', 'if not (x >= total) and total == total then total = x end'},
   zeros = {'0', 'if x == 0 then total = total + 1 end'},
   squared_differences = {'0', 'local t = R(x - y) total = R(total + R(t * t))'},
}
local reduction = loops.kernels(function(name) return loops.reduction(unpack(reductions[name])) end, ' of all elements')

-- run a reduction by name
function loops.reduce(name, X, Y) return loops.run_reduction(reduction(X.ty, name), X, Y) end

-- the smallest and the largest element; NaN if there is a NaN, nil if it cannot be computed
function loops.limits(X)
   if X.count > loops.LONG then return vectors.limits(X) end
   return loops.reduce('min', X), loops.reduce('max', X)
end

-- families of dispatch.lua ---------------------------------------------------------------------------------------------
local cell = ffi.new('float[1]')
-- convert a number to the element type: round for Float, truncate for integers; nil if Python must convert it
local function number_of(ty, x)
   if ty == 'Double' then return x end
   if ty ~= 'Float' then
      x = x < 0 and ceil(x) or floor(x)
      return native.fits(ty, x) and x or nil
   end
   cell[0] = x
   return cell[0]
end
native.number_of = number_of

-- whether all elements are finite: adding 1 to the exponent of an infinity or NaN overflows into the sign bit
local FINITE = [[
return function(rows, columns, q, c, d, j)
   local w, found = cast(words, q), 0
   for i = 1, rows do
      for k = 0, columns - 1 do found = bor(found, band(w[HIGH * (j + k * d) + HIGH - 1], 0x7FFFFFFF) + ONE) end
      j = j + c
   end
   return found >= 0
end
]]
local REAL = {Float = {HIGH = '1', ONE = '0x800000'}, Double = {HIGH = '2', ONE = '0x100000'}}
local finite = {}
for ty, parts in pairs(REAL) do finite[ty] = loops.compile(ty, loops.substitute(FINITE, parts), 'finite') end
local function is_finite(S)
   if not finite[S.ty] then return true end
   if packed(S) then return finite[S.ty](1, S.count, S.block.data, 0, 1, S.offset) end
   local rows, columns, c, d = two_levels(S)
   return rows and finite[S.ty](rows, columns, S.block.data, c, d, S.offset)
end

-- R = expression(X, ...); R gets the shape of X. `of_finite` is an expression without branches, which the CPU could mispredict, for
-- elements and numbers that are all finite. `vector` is the name of a PyTorch function that returns the same bits,
-- `vector_of_finite` of a function that does so if all elements and numbers are finite.
function native.families.pointwise(plan, expression, of_finite, vector, vector_of_finite)
   local ty, into = plan.ty, plan.slots[1].ty
   if of_finite == '' then of_finite = nil end
   local dense, strided = pointwise_loops(ty, into, expression)
   local dense_finite, strided_finite
   if of_finite and ty ~= 'Long' and ty ~= 'Int' then dense_finite, strided_finite = pointwise_loops(ty, into, of_finite, true) end
   local max_count = contains_c_call(expression) and loops.FEW or loops.MANY
   local compute, compute_finite = vectors.of(vector, ty, into), vectors.of(vector_of_finite, ty, into)
   if not REAL[ty] then compute = compute or compute_finite end  -- all elements are finite
   local long = (compute or compute_finite) and loops.LONG or math.huge
   return function(R, X, Y, Z, v, w)
      X = X or R
      local count = X.count
      -- Torch7 copies X to R before it reads Y and Z
      if Z and R ~= X and (R.block == Y.block or R.block == Z.block) then return nil end
      if count == 0 or count > max_count and count <= long or (Y and Y.count ~= count) or (Z and Z.count ~= count) then return nil end
      if R ~= X and not native.resize_as(R, X) then return nil end
      if v then
         v = number_of(ty, v)
         if not v then return nil end
      end
      if w then
         w = number_of(ty, w)
         if not w then return nil end
      end
      if compute and count > long and compute(R, X, Y, v, w) then return true end
      if dense_finite and ((v or 0) + (w or 0)) * 0 == 0 and is_finite(X) and (not Y or is_finite(Y)) then
         if compute_finite and count > long and compute_finite(R, X, Y, v, w) then return true end
         if count <= max_count then return run(dense_finite, strided_finite, R, X, Y, Z, v, w) or nil end
      end
      return count <= max_count and run(dense, strided, R, X, Y, Z, v, w) or nil
   end
end

-- R = X + v * Y: for contiguous floats each element is rounded once. Python computes with v = 0, which BLAS ignores
function native.families.scaled(plan, expression, of_finite, vector)
   local add = native.families.pointwise(plan, expression, of_finite, vector)
   local fused = REAL[plan.ty] and vectors.of(vector, plan.ty, plan.ty)
   return function(R, X, Y, v)
      X = X or R
      if v == 0 then return nil end
      if fused and X.dense and Y.dense and X.count > 0 and X.count == Y.count and (R == X or native.resize_as(R, X)) and fused(R, X, Y, v) then
         return true
      end
      return add(R, X, Y, nil, v) or nil
   end
end

-- divisions of integers; Python computes with a divisor 0, which is an error
function native.families.divided(plan, divisor, expression)
   local divide = native.families.pointwise(plan, expression)
   return function(R, X, second, Z, v)
      if divisor == 'v' then
         v = number_of(plan.ty, second)
         return v and v ~= 0 and divide(R, X, nil, nil, v) or nil
      elseif divisor == 'z' then
         return loops.reduce('zeros', Z) == 0 and divide(R, X, second, Z, v) or nil
      end
      return loops.reduce('zeros', second) == 0 and divide(R, X, second) or nil
   end
end

-- exponents that TH computes without C's pow
local POWERS = {[1] = 'x', [2] = 'x * x', [3] = 'R(x * x) * x', [0.5] = 'sqrt(x)', [-0.5] = '1 / R(sqrt(x))', [-1] = '1 / x',
                [-2] = '1 / R(x * x)'}
function native.families.power(plan)
   local others, special = native.families.pointwise(plan, 'pow(x, v)'), {}
   for exponent, expression in pairs(POWERS) do special[exponent] = native.families.pointwise(plan, expression) end
   return function(R, X, exponent)
      exponent = number_of(plan.ty, exponent)
      return (special[exponent] or others)(R, X, nil, nil, exponent)
   end
end
