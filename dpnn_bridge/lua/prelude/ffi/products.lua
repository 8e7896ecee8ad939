-- Products of small matrices and vectors: of floats by the BLAS of PyTorch's library, if the library exports it, and of integers by
-- PyTorch's C interface and loops.
local bridge, py = ...
local ffi, native = bridge.ffi, bridge.native
local families, state, loops, vectors = native.families, native.state, native.loops, native.vectors

local ok, blas = pcall(ffi.load, py.libtorch)
if ok then
   for _, element in ipairs {{'s', 'float'}, {'d', 'double'}} do
      local letter, name = element[1], element[2]
      local declarations = ([[
void Pgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const T *alpha, const T *a,
            const int *lda, const T *b, const int *ldb, const T *beta, T *c, const int *ldc);
void Pgemv_(const char *t, const int *m, const int *n, const T *alpha, const T *a, const int *lda, const T *x,
            const int *incx, const T *beta, T *y, const int *incy);
T Pdot_(const int *n, const T *x, const int *incx, const T *y, const int *incy);
]]):gsub('%f[%w]P', letter):gsub('%f[%w]T%f[%W]', name)
      ffi.cdef(declarations)
   end
   ffi.cdef 'int MKL_Set_Num_Threads_Local(int count);'
   ok = pcall(function() return blas.dgemm_, blas.sgemm_, blas.dgemv_, blas.sgemv_, blas.ddot_, blas.sdot_ end)
end

-- MKL uses several threads even for the smallest products; below this number of multiplications, one thread is faster
local ONE_THREAD_BELOW = 65536
local one_thread = ok and pcall(function() return blas.MKL_Set_Num_Threads_Local end) and blas.MKL_Set_Num_Threads_Local

local ints, letters = ffi.new('int[8]'), {n = ffi.new('char[2]', 'n'), t = ffi.new('char[2]', 't')}

native.blas, native.one_thread = ok and blas, one_thread

-- the orientation for BLAS of a matrix of rows x columns with strides a, b, and its leading dimension: 'n' if it is row-major (the
-- transpose of a Fortran matrix), 't' if it is column-major
local function orientation(rows, columns, a, b)
   if b == 1 and a >= columns then return 'n', a end
   if a == 1 and b >= rows then return 't', b end
   if rows == 1 and b == 1 then return 'n', columns end
   if columns == 1 and a == 1 then return 't', rows end
   if rows == 1 and b >= 1 then return 't', b end
   if columns == 1 and a >= 1 then return 'n', a end
end

-- R = beta * R + alpha * A * B of sizes m x k and k x n, each with memory, offset and two strides; false if BLAS cannot compute it
local function real_product(name, gemm, gemv)
   local factors = ffi.new(name .. '[2]')
   local function by_rows(m, n, k, beta, alpha, R, pr, r1, A, pa, a1, a2, B, pb, b1, b2)
      local ta, lda = orientation(m, k, a1, a2)
      local tb, ldb = orientation(k, n, b1, b2)
      if not ta or not tb then return false end
      factors[0], factors[1] = alpha, beta
      ints[0], ints[1], ints[2], ints[3], ints[4], ints[5] = n, m, k, ldb, lda, r1
      gemm(letters[tb], letters[ta], ints, ints + 1, ints + 2, factors, B + pb, ints + 3, A + pa, ints + 4, factors + 1, R + pr, ints + 5)
      return true
   end
   local function by_vector(m, n, beta, alpha, R, pr, r1, A, pa, a1, a2, B, pb, b1)
      local t, lda = orientation(m, n, a1, a2)
      if not t or b1 < 1 or r1 < 1 then return false end
      factors[0], factors[1] = alpha, beta
      ints[2], ints[3], ints[4] = lda, b1, r1
      if t == 'n' then ints[0], ints[1] = n, m else ints[0], ints[1] = m, n end
      gemv(letters[t == 'n' and 't' or 'n'], ints, ints + 1, factors, A + pa, ints + 2, B + pb, ints + 3, factors + 1, R + pr, ints + 4)
      return true
   end
   return function(m, n, k, beta, alpha, R, pr, r1, r2, A, pa, a1, a2, B, pb, b1, b2, is_vector)
      local is_small = one_thread and m * n * k < ONE_THREAD_BELOW
      local threads = is_small and one_thread(1)
      local done
      if is_vector then done = by_vector(m, k, beta, alpha, R, pr, r1, A, pa, a1, a2, B, pb, b1)
      elseif (r2 == 1 or n == 1) and r1 >= n then done = by_rows(m, n, k, beta, alpha, R, pr, r1, A, pa, a1, a2, B, pb, b1, b2)
      elseif r1 == 1 and r2 >= m then done = by_rows(n, m, k, beta, alpha, R, pr, r2, B, pb, b2, b1, A, pa, a2, a1)
      end
      if is_small then one_thread(threads) end
      return done
   end
end

-- R = beta * R + alpha * T of integers, in 64 bits, which are converted to the element type when they are stored
local SUM = [[
return function(m, n, beta, alpha, R, pr, r1, r2, T)
   for i = 0, m - 1 do
      local to, from = pr + i * r1, i * n
      for _ = 1, n do
         R[to] = beta * (0LL + at(R, to)) + alpha * (0LL + at(T, from))
         to, from = to + r2, from + 1
      end
   end
   return true
end
]]
local function integer_product(ty)
   local name = native.c_types[ty].name
   local sum, capacity, product = loops.compile(ty, SUM, 'sum with a product'), 0, nil
   return function(m, n, k, beta, alpha, R, pr, r1, r2, A, pa, a1, a2, B, pb, b1, b2, is_vector)
      if beta == 0 and alpha == 1 then
         return vectors.multiply(ty, m, n, k, R + pr, r1, r2, A + pa, a1, a2, B + pb, b1, b2, is_vector)
      end
      if m * n > capacity then capacity, product = m * n, ffi.new(name .. '[?]', m * n) end
      return vectors.multiply(ty, m, n, k, product, n, 1, A + pa, a1, a2, B + pb, b1, b2, is_vector)
         and sum(m, n, beta, alpha, R, pr, r1, r2, product)
   end
end

local of = ok and {
   Double = real_product('double', blas.dgemm_, blas.dgemv_), Float = real_product('float', blas.sgemm_, blas.sgemv_),
} or {}
local function product_of(ty)
   if not of[ty] and ty ~= 'Double' and ty ~= 'Float' then of[ty] = integer_product(ty) end
   return of[ty]
end

-- m, n, k and the strides of R, A, B for each form of product
local function matrices(R, A, B) return A[1], B[3], A[3], R[2], R[4], A[2], A[4], B[2], B[4] end
local function vector(R, A, B) return A[1], 1, A[3], R[2], 1, A[2], A[4], B[2], 1, true end
local function outer(R, A, B) return A[1], B[1], 1, R[2], R[4], A[2], 1, B[1], B[2] end
local function batch(R, A, B) return A[3], B[5], A[5], R[4], R[6], A[4], A[6], B[4], B[6] end
local function summed(R, A, B) return A[3], B[5], A[5], R[2], R[4], A[4], A[6], B[4], B[6] end
-- form -> sizes and strides, number of dimensions of the factors and the result, whether the sizes match
local FORMS = {
   mm = {matrices, 2, 2, 2, function(R, A, B) return A[3] == B[1] and R[1] == A[1] and R[3] == B[3] end},
   mv = {vector, 2, 1, 1, function(R, A, B) return A[3] == B[1] and R[1] == A[1] end},
   r = {outer, 1, 1, 2, function(R, A, B) return R[1] == A[1] and R[3] == B[1] end},
   bmm = {batch, 3, 3, 3, function(R, A, B)
      return A[1] == B[1] and A[5] == B[3] and R[1] == A[1] and R[3] == A[3] and R[5] == B[5]
   end},
   sum = {summed, 3, 3, 2, function(R, A, B) return A[1] == B[1] and A[5] == B[3] and R[1] == A[3] and R[3] == B[5] end},
}

-- R = beta * M + alpha * A B; nil if Python must compute it
local function added(ty, form)
   local sizes, a_dims, b_dims, dims, fit = unpack(FORMS[form])
   local product, real = product_of(ty), ty == 'Double' or ty == 'Float'
   return product and function(R, M, A, B, beta, alpha)
      if M.n ~= dims or A.n ~= a_dims or B.n ~= b_dims or not (M.block and A.block and B.block) or not fit(M, A, B) then
         return nil
      end
      if R.block and (R.block == A.block or R.block == B.block) then return nil end
      if R ~= M and not (native.resize_as(R, M) and loops.pointwise('copy', R, M)) then return nil end
      for d = 2, 2 * R.n, 2 do if R[d] == 0 and R[d - 1] > 1 then return nil end end
      if beta == 0 and real then  -- TH adds the product to zeros, so that no result is -0
         if not native.zero(R) then return nil end
         beta = 1
      end
      local m, n, k, r1, r2, a1, a2, b1, b2, is_vector = sizes(R, A, B)
      local count, r, a, b = 1, 0, 0, 0
      if a_dims == 3 then
         count, r, a, b = A[1], dims == 3 and R[2] or 0, A[2], B[2]
      end
      local p, q, s = R.block.data, A.block.data, B.block.data
      for i = 0, count - 1 do
         if not product(m, n, k, (i == 0 or r ~= 0) and beta or 1, alpha, p, R.offset + i * r, r1, r2, q, A.offset + i * a, a1, a2,
                        s, B.offset + i * b, b1, b2, is_vector) then
            return nil
         end
      end
      return true
   end
end

-- R = beta * M + alpha * product; the arguments contain alpha, or beta and alpha
function families.added(plan, form)
   local add = added(plan.ty, form)
   local two = #plan.slots == 6
   return add and function(R, M, A, B, first, second)
      local beta, alpha = two and first or 1, two and second or first
      beta, alpha = native.number_of(plan.ty, beta), native.number_of(plan.ty, alpha)
      return beta and alpha and add(R, M, A, B, beta, alpha) or nil
   end
end

-- R = product
function families.product(plan, form)
   local add = added(plan.ty, form)
   if not add then return nil end
   if plan.slots[1].kind == 'result' then
      return function(R, A, B)
         if not R.block or R.block == A.block or R.block == B.block or R.count == 0 then return nil end
         return add(R, R, A, B, 0, 1)
      end
   end
   return function(A, B)
      local n, a, b, c = FORMS[form][4], A[1], B[3], nil
      if form == 'r' then b = B[1] elseif form == 'bmm' then a, b, c = A[1], A[3], B[5] end
      if not a or n > 1 and not b or n > 2 and not c then return nil end
      local object, R = native.new_tensor(A.ty, n, a, b, c)
      if not object then return nil end
      return add(R, R, A, B, 0, 1) and object or nil
   end
end

-- the number of elements, of the last dimensions, that lie at equal distances in memory, and the distance
local function run_length(S)
   local length, step = 1, 0
   for k = 2 * S.n, 2, -2 do
      local size, stride = S[k - 1], S[k]
      if length > 1 and stride ~= step * length then break end
      if size > 1 then
         if length == 1 then step = stride end
         length = length * size
      end
   end
   return length, step
end

local FEW_PRODUCTS = 1024  -- up to this number of products, a loop is faster than a call of PyTorch
local DOT_OF_ROWS = [[
return function(rows, columns, q, c, d, r, e, f, iq, ir)
   local total = 0LL
   for i = 1, rows do
      local sum, jq, jr = 0LL, iq, ir
      for j = 1, columns do
         sum = sum + at(q, jq) * at(r, jr)
         jq, jr = jq + d, jr + f
      end
      total = total + cast('ELEMENT', sum)
      iq, ir = iq + c, ir + e
   end
   return total
end
]]

-- the dot product: of floats by BLAS; of integers in their type for each evenly spaced run
function families.dot(plan)
   local ty = plan.ty
   if ty == 'Double' or ty == 'Float' then
      local dot = ok and (ty == 'Double' and blas.ddot_ or blas.sdot_)
      return dot and function(A, B)
         if A.count ~= B.count or A.count == 0 then return nil end
         local rows, columns, down_a, a, down_b, b = loops.layout(A, B)
         if not rows or a < 1 or b < 1 then return nil end
         ints[0], ints[1], ints[2] = columns, a, b
         local threads, total, p, q = one_thread and one_thread(1), 0, A.block.data + A.offset, B.block.data + B.offset
         for i = 0, rows - 1 do total = total + dot(ints, p + i * down_a, ints + 1, q + i * down_b, ints + 2) end
         if one_thread then one_thread(threads) end
         return total
      end
   end
   local rows = loops.compile(ty, DOT_OF_ROWS:gsub('ELEMENT', native.c_types[ty].name), 'dot of rows')
   return function(A, B)
      local run, a = run_length(A)
      local other, b = run_length(B)
      if A.count ~= B.count or not (A.block and B.block) then return nil end
      if run == A.count and other == A.count then
         local p, q = A.block.data, B.block.data
         if run <= FEW_PRODUCTS then return tonumber(rows(1, run, p, 0, a, q, 0, b, A.offset, B.offset)) end
         return vectors.dot(ty, run, p + A.offset, a, q + B.offset, b)
      end
      if A.n ~= 2 or B.n ~= 2 or A[1] ~= B[1] or A[3] ~= B[3] or run < A[3] or other < A[3] then return nil end
      return tonumber(rows(A[1], A[3], A.block.data, A[2], A[4], B.block.data, B[2], B[4], A.offset, B.offset))
   end
end

-- a * b of matrices and vectors
for _, ty in ipairs {'Float', 'Double', 'Byte', 'Char', 'Short', 'Int', 'Long'} do
   local mt = bridge.metatables['torch.' .. ty .. 'Tensor']
   local times = mt.__mul__
   local forms = {}
   local dot
   mt.__mul__ = function(a, b)
      local A, B = state(a, ty), state(b, ty)
      if A and B and A.n == 2 and (B.n == 1 or B.n == 2) then
         local form = B.n == 2 and 'mm' or 'mv'
         forms[form] = forms[form] or families.product({ty = ty, slots = {{}}}, form)
         local object = forms[form] and forms[form](A, B)
         if object then return object end
      elseif A and B and A.n == 1 and B.n == 1 then
         dot = dot or families.dot {ty = ty}
         local value = dot and dot(A, B)
         if value then return value end
      end
      return times(a, b)
   end
end
