-- Loops over the elements of small tensors, compiled by LuaJIT: one for each operation and element type, made when it is
-- first used. They visit the logical elements in order, as TH does. Large tensors go to PyTorch.
local bridge, py = ...
local ffi, native = bridge.ffi, bridge.native
local states, read, vectors, packed = native.states, native.read, native.vectors, native.packed
local C, float, int, format = ffi.C, ffi.typeof 'float', ffi.typeof 'int32_t', string.format
local ceil, floor = math.ceil, math.floor
local loops = {}
native.loops = loops

--- elements up to which a loop of Lua does the work: as fast as a call to Python, and with the bits of C's functions. Without
--- such functions a loop is so up to MANY; from LONG on a call of PyTorch's vector code is faster than a slow loop.
loops.FEW, loops.MANY, loops.LONG = 4096, 32768, 2048

-- functions of C's library, in double and in float
local C_NAMES = {
   'exp', 'log', 'log1p', 'pow', 'fmod', 'atan2', 'sin', 'cos', 'tan', 'asin', 'acos', 'atan', 'sinh', 'cosh', 'tanh', 'round', 'trunc',
}
for _, name in ipairs(C_NAMES) do
   local arguments = (name == 'pow' or name == 'fmod' or name == 'atan2') and '(T x, T y);' or '(T x);'
   for suffix, ty in pairs {[''] = 'double', f = 'float'} do ffi.cdef((ty .. ' ' .. name .. suffix .. arguments:gsub('T', ty))) end
end

-- rows, columns, and the two strides of a state with at most two levels; nothing for others, and for one without elements,
-- which may have no memory
local function spans(S)
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

-- What the source of a loop says in short, written out for the element type: a function of its own would be compiled before
-- the loop is, which then leaves for it at each element. at(p, i) is an element, see elements.lua; R(x) rounds to the element
-- type; U(x) has the bits of an integer, without their sign.
local SHORT = {
   Double = {at = native.at.Double}, Float = {at = native.at.Float, R = 'tonumber(cast(float, X))'},
   Char = {U = 'band(X, 0xFF)'}, Short = {U = 'band(X, 0xFFFF)'}, Int = {at = '(P[I] + 0LL)', U = 'tobit(X)'},
}
local function written_out(source, ty, plain)
   local short = SHORT[ty] or {}
   local at = not plain and short.at or 'P[I]'
   source = source:gsub('%f[%w_]at(%b())', function(arguments)
      local p, i = arguments:match('^%((.-), (.*)%)$')
      return (at:gsub('[PI]', {P = p, I = i}))
   end)
   return (source:gsub('%f[%w_]([RU])(%b())', function(name, x)
      return ((short[name] or '(X)'):gsub('X', function() return written_out(x:sub(2, -2), ty, plain) end))
   end))
end

local PRELUDE = [[
local C, cast, words, float, int = ...
local band, bor, bxor, bnot, lshift, rshift, tobit = bit.band, bit.bor, bit.bxor, bit.bnot, bit.lshift, bit.rshift, bit.tobit
local sqrt, abs, floor, ceil, min, max, tonumber = math.sqrt, math.abs, math.floor, math.ceil, math.min, math.max, tonumber
]]
local function calls(source, f) return source:find('%f[%w_.]' .. f .. '%(') end
local function calls_c(source)
   for _, f in ipairs(C_NAMES) do
      if calls(source, f) or source:find('C.' .. f, 1, true) then return true end
   end
end
-- Lua source as a function, with what the element type brings; `plain`: no element is NaN
function loops.compile(ty, source, name, plain)
   local lines = {PRELUDE}
   for _, f in ipairs(C_NAMES) do
      if calls(source, f) then lines[#lines + 1] = format('local %s = C.%s%s\n', f, f, ty == 'Float' and 'f' or '') end
   end
   lines[#lines + 1] = written_out(source, ty, plain)
   return assert(bridge.load(table.concat(lines), '=' .. name))(C, ffi.cast, native.words, float, int)
end

-- Lua source with words in capitals replaced
function loops.written(source, parts) return (source:gsub('%f[%w_]%u%u+%f[^%w_]', parts)) end

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

-- one loop for elements that lie one after the other, and one for rows of them
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

-- the two loops of an expression over elements of a type, into those of another: made when they are first used
local compiled = {}
local function pointwise_loops(ty, into, expression, plain)
   local of = compiled[ty] or {}
   compiled[ty], of[into] = of, of[into] or {}
   local key = plain and 'finite ' .. expression or expression
   local found = of[into][key]
   if not found then
      local next, rows = {}, {}
      for _, operand in ipairs {'x', 'y', 'z'} do
         if expression:find('%f[%w_]' .. operand .. '%f[^%w_(]') then  -- an element that is not used is not read
            local p = OPERANDS[operand]
            next[#next + 1] = format('local %s = at(%s, i%s + i)', operand, p, p)
            rows[#rows + 1] = format('local %s = at(%s, j%s)', operand, p, p)
         end
      end
      local source = loops.written(POINTWISE, {NEXT = table.concat(next, ' '), ROWS = table.concat(rows, ' '), EXPRESSION = expression})
      found = {loops.compile(ty, source, expression, plain)}
      of[into][key] = found
   end
   return found[1], found[2]
end

-- a number from the elements of one state or two: start, step, and what becomes of the total; v is the number among the
-- arguments, n how many elements there are
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
   return loops.written(REDUCE, {START = start, STEP = step, FINISH = finish or 'total', SECOND = second})
end

-- run such a loop; nothing where the arrangements of the states do not meet
function loops.run_reduction(loop, X, Y, v)
   local rows, columns, c, d, e, f = loops.layout(X, Y)
   if not rows then return nil end
   local q = X.block.data
   local r, ir = q, X.offset
   if Y then r, ir = Y.block.data, Y.offset end
   return loop(rows, columns, q, c, d, r, e, f, X.offset, ir, v or 0, X.count)
end

--- Element-wise results from x, y, z (elements of the sources) and v, w (numbers). Most are declared beside PyTorch's, in
--- ops/elementwise.py; these have another way to their arguments.
local expressions = {copy = 'x', nought = '0', number = 'tonumber(x)'}
loops.expressions = expressions

local function follows(P, X)
   return P == X or native.same_geometry(P, X) and (P.block ~= X.block or P.offset == X.offset)
end
-- whether all fill memory without gaps in one order of dimensions, such as transposed matrices: their loop is that of dense ones
local function in_one_order(P, X, Y, Z)
   return packed(P) and follows(P, X) and (not Y or follows(P, Y)) and (not Z or follows(P, Z))
end

-- run the loops of an expression on states of equally many elements; false where their arrangements do not meet
local function run(dense, strided, P, X, Y, Z, v, w)
   local q = X.block.data
   local r, ir, s, is = q, X.offset, q, X.offset
   if Y then r, ir = Y.block.data, Y.offset end
   if Z then s, is = Z.block.data, Z.offset end
   if P.dense and X.dense and (not Y or Y.dense) and (not Z or Z.dense) or in_one_order(P, X, Y, Z) then
      dense(X.count, P.block.data, q, r, s, P.offset, X.offset, ir, is, v, w)
      return true
   end
   local rows, columns, a, b, c, d, e, f, g, h = loops.layout(P, X, Y, Z)
   if not rows then return false end
   strided(rows, columns, P.block.data, q, r, s, P.offset, X.offset, ir, is, v, w, a, b, c, d, e, f, g, h)
   return true
end

-- p = expression of x, y, z
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

-- a number from the elements of one state or two, by name
function loops.reduce(name, X, Y, v) return loops.run_reduction(reduction(X.ty, name), X, Y, v) end

-- the least and the greatest element; nothing, or NaN, where there is none
function loops.limits(X)
   if X.count > loops.LONG then return vectors.limits(X) end
   return loops.reduce('min', X), loops.reduce('max', X)
end

-- families of dispatch.lua ---------------------------------------------------------------------------------------------
local cell = ffi.new('float[1]')
-- a number as the element type has it, of integers without its fraction; nothing where Python must decide
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

-- whether all elements are finite: no exponent consists of ones, so that one more in it does not reach the sign
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
for ty, parts in pairs(REAL) do finite[ty] = loops.compile(ty, loops.written(FINITE, parts), 'finite') end
local function is_finite(S)
   if not finite[S.ty] then return true end
   if packed(S) then return finite[S.ty](1, S.count, S.block.data, 0, 1, S.offset) end
   local rows, columns, c, d = spans(S)
   return rows and finite[S.ty](rows, columns, S.block.data, c, d, S.offset)
end

-- result = expression(first, ...): the result takes the shape of the first. The second expression may be used where all
-- elements and numbers are finite: it has no branches, which a processor would guess wrong. `vector` names PyTorch's function
-- with the same bits, `vector_of_finite` one that has them where all are finite.
function native.families.pointwise(plan, expression, of_finite, vector, vector_of_finite)
   local ty, into = plan.ty, plan.slots[1].ty
   if of_finite == '' then of_finite = nil end
   local dense, strided = pointwise_loops(ty, into, expression)
   local dense_finite, strided_finite
   if of_finite and ty ~= 'Long' and ty ~= 'Int' then dense_finite, strided_finite = pointwise_loops(ty, into, of_finite, true) end
   local most = calls_c(expression) and loops.FEW or loops.MANY
   local compute, compute_finite = vectors.of(vector, ty, into), vectors.of(vector_of_finite, ty, into)
   if not REAL[ty] then compute = compute or compute_finite end  -- all elements are finite
   local long = (compute or compute_finite) and loops.LONG or math.huge
   return function(R, X, Y, Z, v, w)
      X = X or R
      local count = X.count
      -- Torch7 copies the first to the result before it reads these
      if Z and R ~= X and (R.block == Y.block or R.block == Z.block) then return nil end
      if count == 0 or count > most and count <= long or (Y and Y.count ~= count) or (Z and Z.count ~= count) then return nil end
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
         if count <= most then return run(dense_finite, strided_finite, R, X, Y, Z, v, w) or nil end
      end
      return count <= most and run(dense, strided, R, X, Y, Z, v, w) or nil
   end
end

-- the same for sums with a multiple, but for 0, of which a BLAS does nothing; of contiguous floats each is rounded once
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

-- the same for divisions of integers, which a divisor 0 makes an error
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
