-- LAPACK routines for small matrices, exported by PyTorch's own library and called without Python. Routines that the library does
-- not export are called by Python. Matrices are copied through column-major buffers.
local bridge = ...
local ffi, native = bridge.ffi, bridge.native
local families, loops = native.families, native.loops
local lapack, one_thread = native.blas, native.one_thread
if not lapack then return end

local MAX_SIZE = 128  -- rows and columns
-- name -> types of the arguments, which are pointers; c: letter, i: integers, T: elements
local ROUTINES = {
   getrf = 'iiTiii', getrs = 'ciiTiiTii', potrf = 'ciTii', potrs = 'ciiTiTii', potri = 'ciTii', geqrf = 'iiTiTTii',
   orgqr = 'iiiTiTTii', ormqr = 'cciiiTiTTiTii', syevd = 'cciTiTTiiii', gesdd = 'ciiTiTTiTiTiii', geev = 'cciTiTTTiTiTii',
   gels = 'ciiiTiTiTii', trsm = 'cccciiTTiTi',
}
local TYPES = {c = 'const char *', i = 'int *'}
for _, element in ipairs {{'s', 'float *'}, {'d', 'double *'}} do
   TYPES.T = element[2]
   for name, arguments in pairs(ROUTINES) do
      local list = {}
      for kind in arguments:gmatch '.' do list[#list + 1] = TYPES[kind] end
      ffi.cdef(('void %s%s_(%s);'):format(element[1], name, table.concat(list, ', ')))
   end
end

-- buffers for arguments that are pointers to integers or letters
local int_args = ffi.new('int[8]')
local letters = {}
for letter in ('NVULTSAR'):gmatch '.' do letters[letter] = ffi.new('char[2]', letter) end
local pivots, more = ffi.new('int[?]', 2 * MAX_SIZE), ffi.new('int[?]', 16 * MAX_SIZE)
local function ints(...)
   for k = 1, select('#', ...) do int_args[k] = (select(k, ...)) end
   int_args[0] = 0
   return int_args, int_args + 1, int_args + 2, int_args + 3, int_args + 4
end

-- workspace of the routines of an element type: buffers, and a loop that copies matrices
local SPREAD = [[
return function(rows, columns, p, ip, a, b, q, iq, c, d)
   for j = 0, columns - 1 do
      for i = 0, rows - 1 do p[ip + i * a + j * b] = at(q, iq + i * c + j * d) end
   end
end
]]
local workspaces = {}
local function workspace(ty)
   local W = workspaces[ty]
   if not W then
      local prefix, name = ty == 'Float' and 's' or 'd', native.c_types[ty].name
      W = {spread = loops.compile(ty, SPREAD, 'matrix'), lwork = 8 * MAX_SIZE * MAX_SIZE, routines = {}}
      for k = 1, 4 do W[k] = ffi.new(name .. '[?]', MAX_SIZE * MAX_SIZE) end
      W.work = ffi.new(name .. '[?]', W.lwork)
      for routine in pairs(ROUTINES) do
         local ok, f = pcall(function() return lapack[prefix .. routine .. '_'] end)
         W.routines[routine] = ok and f
      end
      workspaces[ty] = W
   end
   return W
end

local function is_matrix(S, rows)
   local n, m = S[1], S.n == 1 and 1 or S[3]
   return (S.n == 2 or rows and S.n == 1) and S.block and n <= MAX_SIZE and m <= MAX_SIZE and (not rows or n == rows)
end
-- copy a matrix, or a vector as a column, to buffer k; returns rows and columns
local function load(W, k, S)
   local rows, columns = S[1], S.n == 2 and S[3] or 1
   W.spread(rows, columns, W[k], 0, 1, rows, S.block.data, S.offset, S[2], S.n == 2 and S[4] or 1)
   return rows, columns
end
-- copy the first rows of buffer k, which has `step` rows, to a result: column-major, or in place (R is the source) in its own layout
local function store(W, k, R, rows, columns, source, step)
   if not (R == source or R.n == 2 and R[1] == rows and R[3] == columns and R[2] == 1) then
      if not native.resize(R, 2, columns, rows) then return nil end
      R[1], R[2], R[3], R[4] = R[3], R[4], R[1], R[2]
      native.view_changed(native.measure(R))
   end
   W.spread(rows, columns, R.block.data, R.offset, R[2], R.n == 2 and R[4] or 1, W[k], 0, 1, step or rows)
   return true
end
local function store_vector(W, k, R, n)
   return native.resize(R, 1, n) and (W.spread(n, 1, R.block.data, R.offset, R[2], 0, W[k], 0, 1, 0) or true)
end

-- define a function with `results` results: f(W, routine ..., results ..., arguments ...) returns nil if Python must compute, also
-- if a routine fails, because Python then reports the error
local function define(name, results, routines, f)
   families[name] = function(plan)
      local W = workspace(plan.ty)
      for _, routine in ipairs(routines) do
         if not W.routines[routine] then return nil end
      end
      local first, second = W.routines[routines[1]], W.routines[routines[2]]
      if plan.slots[1].kind ~= 'result' then plan.fresh = results end
      return function(...)
         local threads = one_thread and one_thread(1)
         local done
         if second then done = f(W, first, second, ...) else done = f(W, first, ...) end
         if one_thread then one_thread(threads) end
         return done or nil
      end
   end
end

define('gesv', 2, {'getrf', 'getrs'}, function(W, getrf, getrs, X, LU, B, A)
   if not (is_matrix(A) and A[1] == A[3] and is_matrix(B, A[1])) then return nil end
   local n = load(W, 1, A)
   local _, columns = load(W, 2, B)
   local info, size, right = ints(n, columns)
   getrf(size, size, W[1], size, pivots, info)
   if info[0] ~= 0 then return nil end
   getrs(letters.N, size, right, W[1], size, pivots, W[2], size, info)
   return store(W, 1, LU, n, n, A) and store(W, 2, X, n, columns, B)
end)

define('inverse', 1, {'getrf', 'getrs'}, function(W, getrf, getrs, R, A)
   if not (is_matrix(A) and A[1] == A[3]) then return nil end
   local n = load(W, 1, A)
   local info, size = ints(n)
   getrf(size, size, W[1], size, pivots, info)
   if info[0] ~= 0 then return nil end
   ffi.fill(W[2], n * n * native.c_types[A.ty].size)
   for i = 0, n - 1 do W[2][i * (n + 1)] = 1 end
   getrs(letters.N, size, size, W[1], size, pivots, W[2], size, info)
   return store(W, 2, R, n, n, A)
end)

-- set the triangle that is not computed to 0
local function clear(W, n, uplo)
   for j = 0, n - 1 do
      local first, last = 0, j - 1
      if uplo == 'U' then first, last = j + 1, n - 1 end
      for i = first, last do W[1][i + j * n] = 0 end
   end
end
define('potrf', 1, {'potrf'}, function(W, potrf, R, A, uplo)
   if not (is_matrix(A) and A[1] == A[3]) then return nil end
   local n = load(W, 1, A)
   local info, size = ints(n)
   potrf(letters[uplo], size, W[1], size, info)
   if info[0] ~= 0 then return nil end
   clear(W, n, uplo)
   return store(W, 1, R, n, n, A)
end)

define('potrs', 1, {'potrs'}, function(W, potrs, R, B, A, uplo)
   if not (is_matrix(A) and A[1] == A[3] and is_matrix(B, A[1])) then return nil end
   local n = load(W, 1, A)
   local _, columns = load(W, 2, B)
   local info, size, right = ints(n, columns)
   potrs(letters[uplo], size, right, W[1], size, W[2], size, info)
   return store(W, 2, R, n, columns)
end)

define('potri', 1, {'potri'}, function(W, potri, R, A, uplo)
   if not (is_matrix(A) and A[1] == A[3]) then return nil end
   local n = load(W, 1, A)
   local info, size = ints(n)
   potri(letters[uplo], size, W[1], size, info)
   if info[0] ~= 0 then return nil end
   for j = 0, n - 1 do
      for i = 0, j - 1 do
         if uplo == 'U' then W[1][j + i * n] = W[1][i + j * n] else W[1][i + j * n] = W[1][j + i * n] end
      end
   end
   return store(W, 1, R, n, n)
end)

define('trtrs', 2, {'trsm'}, function(W, trsm, X, RA, B, A, uplo, trans, diag)
   if not (is_matrix(A) and A[1] == A[3] and is_matrix(B, A[1])) then return nil end
   local n = load(W, 1, A)
   local _, columns = load(W, 2, B)
   for i = 0, n - 1 do if diag == 'N' and W[1][i * (n + 1)] == 0 then return nil end end
   local _, size, right = ints(n, columns)
   W.work[0] = 1
   trsm(letters.L, letters[uplo], letters[trans], letters[diag], size, right, W.work, W[1], size, W[2], size)
   return store(W, 1, RA, n, n) and store(W, 2, X, n, columns)
end)

define('gels', 2, {'gels'}, function(W, gels, X, QR, B, A)
   if not (is_matrix(A) and is_matrix(B, A[1])) then return nil end
   local m, n = load(W, 1, A)
   local columns, step = B.n == 2 and B[3] or 1, math.max(m, n)
   W.spread(m, columns, W[2], 0, 1, step, B.block.data, B.offset, B[2], B.n == 2 and B[4] or 1)
   local info, rows, width, right, leading = ints(m, n, columns, step)
   int_args[5] = W.lwork
   gels(letters.N, rows, width, right, W[1], rows, W[2], leading, W.work, int_args + 5, info)
   if info[0] ~= 0 or not store(W, 1, QR, m, n, A) or not store(W, 2, X, step, columns) then return nil end
   X[1] = n  -- the residuals stay in memory after the last row
   native.view_changed(native.measure(X))
   return true
end)

define('qr', 2, {'geqrf', 'orgqr'}, function(W, geqrf, orgqr, Q, R, A)
   if not is_matrix(A) then return nil end
   local m, n = load(W, 1, A)
   local k = math.min(m, n)
   local info, rows, columns, rank, lwork = ints(m, n, k, W.lwork)
   geqrf(rows, columns, W[1], rows, W[2], W.work, lwork, info)
   local size = native.resize(R, 2, k, n)
   if not size then return nil end
   for i = 0, k - 1 do
      for j = 0, i - 1 do R.block.data[R.offset + i * R[2] + j * R[4]] = 0 end
      W.spread(1, n - i, R.block.data, R.offset + i * R[2] + i * R[4], 0, R[4], W[1], i + i * m, 0, m)
   end
   orgqr(rows, rank, rank, W[1], rows, W[2], W.work, lwork, info)
   return info[0] == 0 and store(W, 1, Q, m, k)
end)

define('geqrf', 2, {'geqrf'}, function(W, geqrf, R, T, A)
   if not is_matrix(A) then return nil end
   local m, n = load(W, 1, A)
   local info, rows, columns, lwork = ints(m, n, W.lwork)
   geqrf(rows, columns, W[1], rows, W[2], W.work, lwork, info)
   return store(W, 1, R, m, n) and store_vector(W, 2, T, math.min(m, n))
end)

define('orgqr', 1, {'orgqr'}, function(W, orgqr, R, A, T)
   if not (is_matrix(A) and T.n == 1 and T[1] <= A[3] and T[1] <= A[1]) then return nil end
   local m, n = load(W, 1, A)
   load(W, 2, T)
   local info, rows, rank, lwork = ints(m, T[1], W.lwork)
   orgqr(rows, rank, rank, W[1], rows, W[2], W.work, lwork, info)
   return info[0] == 0 and store(W, 1, R, m, n)
end)

define('ormqr', 1, {'ormqr'}, function(W, ormqr, R, A, T, C, side, trans)
   if not (is_matrix(A) and is_matrix(C) and T.n == 1 and A[1] == (side == 'L' and C[1] or C[3]) and T[1] <= A[3] and T[1] <= A[1]) then return nil end
   load(W, 1, A)
   load(W, 2, T)
   local m, n = load(W, 3, C)
   local info, rows, columns, rank, leading = ints(m, n, T[1], A[1])
   int_args[5] = W.lwork
   ormqr(letters[side], letters[trans], rows, columns, rank, W[1], leading, W[2], W[3], rows, W.work, int_args + 5, info)
   return info[0] == 0 and store(W, 3, R, m, n)
end)

define('symeig', 2, {'syevd'}, function(W, syevd, E, V, A, job, uplo)
   if not (is_matrix(A) and A[1] == A[3]) then return nil end
   local n = load(W, 1, A)
   local info, size, lwork, integers = ints(n, W.lwork, 16 * MAX_SIZE)
   syevd(letters[job], letters[uplo], size, W[1], size, W[2], W.work, lwork, more, integers, info)
   return info[0] == 0 and store_vector(W, 2, E, n) and store(W, 1, V, n, n)
end)

define('svd', 3, {'gesdd'}, function(W, gesdd, U, S, V, A, job)
   if not is_matrix(A) then return nil end
   local m, n = load(W, 1, A)
   local k = math.min(m, n)
   local left, right = job == 'A' and m or k, job == 'A' and n or k
   local info, rows, columns, step, lwork = ints(m, n, right, W.lwork)
   gesdd(letters[job], rows, columns, W[1], rows, W[2], W[3], rows, W[4], step, W.work, lwork, more, info)
   if info[0] ~= 0 or not store(W, 3, U, m, left) or not store_vector(W, 2, S, k) or not native.resize(V, 2, n, right) then return nil end
   W.spread(n, right, V.block.data, V.offset, V[2], V[4], W[4], 0, right, 1)
   return true
end)

define('eig', 2, {'geev'}, function(W, geev, E, V, A, job)
   if not (is_matrix(A) and A[1] == A[3]) then return nil end
   local n, sum = load(W, 1, A), 0
   for i = 0, n * n - 1 do sum = sum + (W[1][i] - W[1][i]) end
   if sum ~= 0 then return nil end  -- geev crashes if an element is NaN
   local info, size, lwork = ints(n, W.lwork)
   geev(letters.N, letters[job], size, W[1], size, W[2], W[2] + n, W[3], size, W[4], size, W.work, lwork, info)
   if info[0] ~= 0 or not native.resize(E, 2, n, 2) then return nil end
   W.spread(n, 2, E.block.data, E.offset, E[2], E[4], W[2], 0, 1, n)
   return job == 'N' or store(W, 4, V, n, n)
end)
