-- Products of small matrices and vectors: PyTorch's own BLAS, called without Python. Where the library does not export
-- it, products go to Python like everything else.
local bridge, py = ...
local ffi, native, metatables = bridge.ffi, bridge.native, bridge.metatables
local states, read, wrap = native.states, native.read, native.wrap
local resize, resize_as, loops = native.resize, native.resize_as, native.loops
local reduce, pointwise = loops.reduce, loops.pointwise
local type, select = type, select

local MOST = 65536 -- elements of a matrix; larger ones take so long that a call to Python does not count

local ok, blas = pcall(ffi.load, py.libtorch)
if ok then
   for _, element in ipairs {{'s', 'float'}, {'d', 'double'}} do
      local letter, name = element[1], element[2]
      local declarations = ([[
void Pgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const T *alpha, const T *a,
            const int *lda, const T *b, const int *ldb, const T *beta, T *c, const int *ldc);
void Pgemv_(const char *t, const int *m, const int *n, const T *alpha, const T *a, const int *lda, const T *x,
            const int *incx, const T *beta, T *y, const int *incy);
]]):gsub('%f[%w]P', letter):gsub('%f[%w]T%f[%W]', name)
      ffi.cdef(declarations)
   end
   ffi.cdef 'int MKL_Set_Num_Threads_Local(int count);'
   ok = pcall(function() return blas.dgemm_, blas.sgemm_, blas.dgemv_, blas.sgemv_ end)
end
if not ok then return end

-- MKL starts threads for the smallest product, which then wait for each other: below so many multiplications it has one
local ALONE = 65536
local one_thread = pcall(function() return blas.MKL_Set_Num_Threads_Local end) and blas.MKL_Set_Num_Threads_Local

local ints, letters = ffi.new('int[8]'), {n = ffi.new('char[2]', 'n'), t = ffi.new('char[2]', 't')}

-- how BLAS sees a matrix of rows x columns with strides a, b: 'n' by rows (as the transposed of a Fortran matrix),
-- 't' by columns, and its leading dimension
local function orientation(rows, columns, a, b)
   if b == 1 and a >= columns then return 'n', a end
   if a == 1 and b >= rows then return 't', b end
   if rows == 1 and b == 1 then return 'n', columns end
   if columns == 1 and a == 1 then return 't', rows end
   if columns == 1 and b == 1 and a >= 1 then return 'n', a end
end

local of = {}
for _, element in ipairs {{'Double', 'double', blas.dgemm_, blas.dgemv_}, {'Float', 'float', blas.sgemm_, blas.sgemv_}} do
   local ty, name, gemm, gemv = element[1], element[2], element[3], element[4]
   local factors = ffi.new(name .. '[2]')
   of[ty] = {}

   -- R = beta * R + alpha * A * B; sizes m x k, k x n, as places and strides
   of[ty].gemm = function(m, n, k, beta, alpha, R, ra, A, pa, a1, a2, B, pb, b1, b2)
      local ta, lda = orientation(m, k, a1, a2)
      local tb, ldb = orientation(k, n, b1, b2)
      if not ta or not tb then return false end
      factors[0], factors[1] = alpha, beta
      ints[0], ints[1], ints[2], ints[3], ints[4], ints[5] = n, m, k, ldb, lda, ra
      local alone = one_thread and m * n * k < ALONE
      local threads = alone and one_thread(1)
      gemm(letters[tb], letters[ta], ints, ints + 1, ints + 2, factors, B + pb, ints + 3, A + pa, ints + 4, factors + 1,
           R, ints + 5)
      if alone then one_thread(threads) end
      return true
   end

   -- y = beta * y + alpha * A * x
   of[ty].gemv = function(m, n, beta, alpha, y, incy, A, pa, a1, a2, x, incx)
      local t, lda = orientation(m, n, a1, a2)
      if not t or incx < 1 or incy < 1 then return false end
      factors[0], factors[1] = alpha, beta
      ints[2], ints[3], ints[4] = lda, incx, incy
      if t == 'n' then ints[0], ints[1] = n, m else ints[0], ints[1] = m, n end
      local alone = one_thread and m * n < ALONE
      local threads = alone and one_thread(1)
      gemv(letters[t == 'n' and 't' or 'n'], ints, ints + 1, factors, A + pa, ints + 2, x, ints + 3, factors + 1, y, ints + 4)
      if alone then one_thread(threads) end
      return true
   end
end

local function matrix(S) return S and S.n == 2 and S.block and S.count <= MOST end
local function vector(S) return S and S.n == 1 and S.block and S.count <= MOST end

-- r = beta * m + alpha * a * b
local function addmm(object, R, beta, M, alpha, A, B)
   if not (matrix(R) and matrix(M) and matrix(A) and matrix(B)) or A[3] ~= B[1] or M[1] ~= A[1] or M[3] ~= B[3] then return false end
   if R ~= M then
      if R.block and (R.block == A.block or R.block == B.block) then return false end
      if not resize_as(object, R, M) or not pointwise('copy', R, M) then return false end
   end
   if R.block == A.block or R.block == B.block then return false end
   local rows, columns = R[1], R[3]
   local ra, rb = R[2], R[4]
   if not (rb == 1 and ra >= columns) then
      if not (columns == 1 and ra == 1) then return false end
   end
   return of[R.ty].gemm(rows, columns, A[3], beta, alpha, R.block.data + R.offset, ra, A.block.data, A.offset, A[2], A[4],
                        B.block.data, B.offset, B[2], B[4])
end

local function addr(object, R, beta, M, alpha, X, Y)
   if not (matrix(M) and vector(X) and vector(Y)) or M[1] ~= X[1] or M[3] ~= Y[1] then return false end
   if R ~= M or R.block == X.block or R.block == Y.block or R[4] ~= 1 or R[2] < R[3] or Y[2] ~= 1 then return false end
   return of[R.ty].gemm(R[1], R[3], 1, beta, alpha, R.block.data + R.offset, R[2], X.block.data, X.offset, X[2], 1,
                        Y.block.data, Y.offset, Y[1], 1)
end

local function addmv(object, R, beta, M, alpha, A, X)
   if not (vector(M) and matrix(A) and vector(X)) or A[3] ~= X[1] or M[1] ~= A[1] then return false end
   if R ~= M or R.block == A.block or R.block == X.block then return false end
   return of[R.ty].gemv(A[1], A[3], beta, alpha, R.block.data + R.offset, R[2], A.block.data, A.offset, A[2], A[4],
                        X.block.data + X.offset, X[2])
end

local function operand(ty, x)
   local S = type(x) == 'userdata' and (states[x] or read(x))
   return S and S.ty == ty and S
end

for _, ty in ipairs {'Float', 'Double'} do
   local mt = metatables['torch.' .. ty .. 'Tensor']
   local function added(name, f)
      local slow = mt[name]
      -- (a, b) | (m, a, b) | (alpha, a, b) | (beta, m, alpha, a, b) | (m, alpha, a, b) | (beta, alpha, a, b)
      mt[name] = function(self, ...)
         local n, a, b, c, d, e = select('#', ...), ...
         local R = operand(ty, self)
         if R and n >= 2 and n <= 5 then
            local beta, M, alpha, x, y = 1, R, 1, nil, nil
            if n == 2 then x, y = a, b
            elseif n == 3 then
               if type(a) == 'number' then alpha = a else M = operand(ty, a) end
               x, y = b, c
            elseif n == 4 then
               if type(a) == 'number' then
                  beta = a
                  if type(b) == 'number' then alpha = b else M = false end
               else
                  M = operand(ty, a)
                  if type(b) == 'number' then alpha = b else M = false end
               end
               x, y = c, d
            else
               beta, M, alpha, x, y = a, operand(ty, b), c, d, e
               if type(beta) ~= 'number' or type(alpha) ~= 'number' then M = false end
            end
            if M and f(self, R, beta, M, alpha, operand(ty, x), operand(ty, y)) then return self end
         end
         return slow(self, ...)
      end
   end
   added('addmm', addmm)
   added('addr', addr)
   added('addmv', addmv)

   local function plain(name, f, shaped)
      local slow = mt[name]
      mt[name] = function(self, a, b, ...)
         local R, A, B = operand(ty, self), operand(ty, a), operand(ty, b)
         if R and A and B and R.block and select('#', ...) == 0 and shaped(R, A, B) then
            mt.zero(self)
            if f(self, R, 1, R, 1, A, B) then return self end
         end
         return slow(self, a, b, ...)
      end
   end
   plain('mm', addmm, function(R, A, B) return R.n == 2 and R.dense and A.n == 2 and B.n == 2 end)
   plain('mv', addmv, function(R, A, B) return R.n == 1 and A.n == 2 and B.n == 1 end)
   plain('ger', addr, function(R, A, B) return R.n == 2 and A.n == 1 and B.n == 1 end)

   local dot = mt.dot
   mt.dot = function(self, other, ...)
      local S, T = operand(ty, self), operand(ty, other)
      if S and T and S.count == T.count and S.count > 0 and S.count <= loops.FEW and ty == 'Double' then
         local value = reduce('products', S, T)
         if value then return value end
      end
      return dot(self, other, ...)
   end

   -- torch.mm(a, b), torch.mv(a, b), a * b
   local function product(A, B)
      if not (A and B and A.n == 2 and A.block and B.block and (B.n == 2 or B.n == 1) and A[3] == B[1] and A.ty == B.ty) then return nil end
      local object, R = native.new_tensor(A.ty, B.n, A[1], B[3])
      if not object then return nil end
      ffi.fill(R.block.data, R.count * native.kinds[A.ty].size)  -- the product is added to zeros: no sum is -0
      if (B.n == 2 and addmm or addmv)(nil, R, 1, R, 1, A, B) then return object end
   end
   local times = mt.__mul__
   mt.__mul__ = function(a, b)
      local A = operand(ty, a)
      local B = A and A.n == 2 and operand(ty, b)
      return B and product(A, B) or times(a, b)
   end
   if ty == 'Double' then
      for _, name in ipairs {'mm', 'mv'} do
         local slow = torch[name]
         torch[name] = function(...)
            local n, a, b = select('#', ...), ...
            if n == 2 and type(a) == 'userdata' and type(b) == 'userdata' then
               local A, B = states[a] or read(a), states[b] or read(b)
               if A and B and (A.ty == 'Double' or A.ty == 'Float') and B.n == (name == 'mm' and 2 or 1) then
                  local result = product(A, B)
                  if result then return result end
               end
            end
            return slow(...)
         end
      end
   end
end
