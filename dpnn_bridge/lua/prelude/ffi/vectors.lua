-- PyTorch functions on the memory of tensors, called through PyTorch's C interface: they use vector instructions, which LuaJIT does not
-- generate, and do not call Python. If the library does not export the interface, loops and Python are used instead.
local bridge, py = ...
local ffi, native = bridge.ffi, bridge.native
local same_sizes, same_geometry, packed, disjoint = native.same_sizes, native.same_geometry, native.packed, native.disjoint
local vectors = {}
native.vectors = vectors

ffi.cdef [[
int aoti_torch_create_tensor_from_blob(void *data, int64_t dimensions, const int64_t *sizes, const int64_t *strides, int64_t offset,
                                       int32_t dtype, int32_t device_type, int32_t device, void **tensor);
int aoti_torch_delete_tensor_object(void *tensor);
int aoti_torch_call_dispatcher(const char *name, const char *overload, uint64_t *stack);
int aoti_torch_cpu_add_Tensor(void *self, void *other, double alpha, void **result);
int aoti_torch_get_data_ptr(void *tensor, void **data);
int32_t aoti_torch_dtype_bool(), aoti_torch_dtype_uint8(), aoti_torch_dtype_int8(), aoti_torch_dtype_int16(), aoti_torch_dtype_int32(),
        aoti_torch_dtype_int64(), aoti_torch_dtype_float32(), aoti_torch_dtype_float64();
]]
local found, torch = pcall(ffi.load, py.libtorch)
found = found and pcall(function() return torch.aoti_torch_create_tensor_from_blob, torch.aoti_torch_call_dispatcher end)
vectors.available = found

local dtypes = found and {
   Bool = torch.aoti_torch_dtype_bool(), Byte = torch.aoti_torch_dtype_uint8(), Char = torch.aoti_torch_dtype_int8(),
   Short = torch.aoti_torch_dtype_int16(), Int = torch.aoti_torch_dtype_int32(), Long = torch.aoti_torch_dtype_int64(),
   Float = torch.aoti_torch_dtype_float32(), Double = torch.aoti_torch_dtype_float64(),
} or {}
local MAX_DIMENSIONS = 8
local sizes, strides, tensor = ffi.new('int64_t[?]', MAX_DIMENSIONS), ffi.new('int64_t[?]', MAX_DIMENSIONS), ffi.new('void *[1]')
local stack = ffi.new('uint64_t[8]')
local data, scalar = ffi.new 'void *[1]', {}
for ty, c_type in pairs(native.c_types) do scalar[ty] = ffi.new(c_type.name .. '[2]') end

local function push(place, data, n, dtype)
   torch.aoti_torch_create_tensor_from_blob(data, n, sizes, strides, 0, dtype, 0, -1, tensor)
   stack[place] = ffi.cast('uint64_t', tensor[0])
end
local function push_state(place, S, flat, dtype)
   local n = S.n
   if flat then
      n, sizes[0], strides[0] = 1, S.count, 1
   else
      for k = 1, n do sizes[k - 1], strides[k - 1] = S[2 * k - 1], S[2 * k] end
   end
   push(place, S.block.data + S.offset, n, dtype or dtypes[S.ty])
end
local function push_number(place, ty, x)
   scalar[ty][0] = x
   push(place, scalar[ty], 0, dtypes[ty])
end
-- a matrix of m x n elements with strides a and b, or a vector of m elements
local function push_matrix(place, data, ty, m, a, n, b)
   sizes[0], strides[0], sizes[1], strides[1] = m, a, n or 1, b or 1
   push(place, data, n and 2 or 1, dtypes[ty])
end
-- call a function with the arguments on the stack; it releases them and returns `results` tensors, which are released here
local function call(name, overload, results)
   local failed = torch.aoti_torch_call_dispatcher(name, overload, stack)
   if failed ~= 0 then return false end
   for k = 0, results - 1 do torch.aoti_torch_delete_tensor_object(ffi.cast('void *', stack[k])) end
   return true
end

-- whether R may be written while S is read: they are in different blocks, or the same view
local function can_write(R, S) return R.block ~= S.block or R.offset == S.offset and same_geometry(R, S) end

-- R = f(X, Y), R = f(X, v) or R = f(X) with PyTorch's function `name` and overload. truth: dtype of R if it is a comparison. False if
-- the views overlap or their sizes differ
local function compute(name, overload, truth, R, X, Y, v)
   if R.n > MAX_DIMENSIONS or not disjoint(R) or not can_write(R, X) or Y and not can_write(R, Y) then return false end
   local flat = R.dense and X.dense and (not Y or Y.dense)
   if not flat and not (same_sizes(R, X) and (not Y or same_sizes(R, Y))) then return false end
   local place = 1
   push_state(0, X, flat)
   if Y then push_state(1, Y, flat) elseif v then push_number(1, X.ty, v) end
   if Y or v then place = 2 end
   push_state(place, R, flat, truth)
   return call(name, overload, 1)
end
-- R = X + v Y, or X + v without Y, by BLAS, which rounds once; TH also rounds once if all are contiguous, or if v Y is exact
local CHUNK = 4096
local ones, factor, counts, axpys = {}, {}, ffi.new('int[2]', CHUNK, 1), {}
for ty, c_type in pairs(native.c_types) do
   ones[ty] = ffi.new(c_type.name .. '[?]', CHUNK)
   for k = 0, CHUNK - 1 do ones[ty][k] = 1 end
end
-- whether a function rounds y + v x once: (1 + a)^2 - (1 + 2 a) is a^2 then, and 0 if the square is rounded first. MKL rounds twice on
-- processors of AMD; there PyTorch's add does so, unless the processor has no instruction for it, and C's fma.
local function rounds_once(run, ty)
   if not run then return false end
   local n, x, a = ffi.new('int[2]', 16, 1), ffi.new(native.c_types[ty].name .. '[33]'), ty == 'Double' and 2 ^ -27 or 2 ^ -12
   for k = 0, 15 do x[k], x[16 + k] = 1 + a, -1 - 2 * a end
   x[32] = 1 + a
   run(n, x + 32, x, n + 1, x + 16, n + 1)
   for k = 16, 31 do if x[k] == 0 then return false end end
   return true
end
ffi.cdef 'double fma(double x, double y, double z); float fmaf(float x, float y, float z);'
local FMA = [[
local fma, cast, words, band = ...
return function(n, a, x, _, y)
   local v = a[0]
   for k = 0, n[0] - 1 do y[k] = fma(v, X, Y) end
end
]]
local function fused_loop(ty)
   local function element(p) return (native.at[ty]:gsub('[PI]', {P = p, I = 'k'})) end
   local source = FMA:gsub('%f[%w][XY]%f[%W]', {X = element 'x', Y = element 'y'})
   return bridge.load(source, '=fma')(ty == 'Float' and ffi.C.fmaf or ffi.C.fma, ffi.cast, native.words, bit.band)
end
local function pytorch_add(ty)
   local known, add, data_of = pcall(function() return torch.aoti_torch_cpu_add_Tensor, torch.aoti_torch_get_data_ptr end)
   return known and function(n, a, x, _, y)
      sizes[0], strides[0] = n[0], 1
      push(0, y, 1, dtypes[ty])
      push(1, x, 1, dtypes[ty])
      local p, q = ffi.cast('void *', stack[0]), ffi.cast('void *', stack[1])
      local done = add(p, q, a[0], tensor) == 0
      if done then
         data_of(tensor[0], data)
         ffi.copy(y, data[0], n[0] * native.c_types[ty].size)
         torch.aoti_torch_delete_tensor_object(tensor[0])
      end
      torch.aoti_torch_delete_tensor_object(p)
      torch.aoti_torch_delete_tensor_object(q)
      return done
   end
end
local FEW = 512  -- for so many elements, a loop is faster than a call of PyTorch
local function fused(ty)
   local loop, add = fused_loop(ty), pytorch_add(ty)
   if not rounds_once(add, ty) then return loop end
   return function(n, a, x, step, y)
      if n[0] <= FEW or not add(n, a, x, step, y) then loop(n, a, x, step, y) end
   end
end
for ty, letter in pairs {Float = 's', Double = 'd'} do
   local name = native.c_types[ty].name
   ffi.cdef(('void %saxpy_(const int *n, const %s *a, const %s *x, const int *step_x, %s *y, const int *step_y);'):format(letter, name, name, name))
   local ok, run = pcall(function() return found and torch[letter .. 'axpy_'] end)
   axpys[ty] = ok and run and (rounds_once(run, ty) and run or fused(ty)) or nil
   factor[ty] = ffi.new(name .. '[1]')
end
local function axpy(ty, sign)
   local run = axpys[ty]
   if not run then return nil end
   return function(R, X, Y, v)
      if v == 0 or R.count > 16 * CHUNK or Y and v ~= 1 and v ~= -1 and not R.dense or not packed(R)
         or R ~= X and (R.block == X.block or not same_geometry(R, X))
         or Y and (not same_geometry(R, Y) or R.block == Y.block and (R ~= X or R.offset ~= Y.offset)) then
         return false
      end
      local p = R.block.data + R.offset
      if R ~= X then ffi.copy(p, X.block.data + X.offset, R.count * native.c_types[ty].size) end
      factor[ty][0] = sign * v
      local q = Y and Y.block.data + Y.offset
      for start = 0, R.count - 1, CHUNK do
         counts[0] = math.min(CHUNK, R.count - start)
         run(counts, factor[ty], q and q + start or ones[ty], counts + 1, p + start, counts + 1)
      end
      return true
   end
end

-- a function f(n, p, q, v) that adds v times n elements at q to those at p, rounded once; nil if BLAS is not available
function vectors.adder(ty)
   local run = axpys[ty]
   return run and function(n, p, q, v)
      factor[ty][0], counts[0] = v, n
      run(counts, factor[ty], q, counts + 1, p, counts + 1)
   end
end

-- R = X + v Y of integers: the product of a matrix, whose two columns are X and Y in memory, and the vector (1, v)
local function sum_of_columns(ty, sign)
   local c_type, size = ffi.typeof(native.c_types[ty].name .. ' *'), native.c_types[ty].size
   local factors, sums = ffi.new(native.c_types[ty].name .. '[2]'), nil
   return function(R, X, Y, v)
      if R.count > 16 * CHUNK or not packed(R) or not same_geometry(R, X) or not can_write(R, X) or Y and not (same_geometry(R, Y) and can_write(R, Y)) then
         return false
      end
      sums = sums or ffi.new(native.c_types[ty].name .. '[?]', CHUNK)
      local p, x, y = R.block.data + R.offset, X.block.data + X.offset, Y and Y.block.data + Y.offset
      for start = 0, R.count - 1, CHUNK do
         local n, a, b = math.min(CHUNK, R.count - start), x + start, y and y + start or ffi.cast(c_type, ones[ty])
         local first = a < b  -- strides must not be negative
         factors[first and 0 or 1], factors[first and 1 or 0] = 1, sign * (v or 1)
         if not first then a, b = b, a end
         if not vectors.multiply(ty, n, 1, 2, sums, 1, 1, a, 1, b - a, factors, 1, 1, true) then return false end
         ffi.copy(p + start, sums, n * size)
      end
      return true
   end
end

-- set all elements of R to v: set the first elements, then copy them, doubling their number each time
local function fill(ty)
   local size = native.c_types[ty].size
   return function(R, _, _, v)
      if not packed(R) then return false end
      local p, done = R.block.data + R.offset, math.min(R.count, 512)
      for k = 0, done - 1 do p[k] = v end
      while done < R.count do
         local more = math.min(done, R.count - done)
         ffi.copy(p + done, p, more * size)
         done = done + more
      end
      return true
   end
end

-- a function of R, X, Y, v and w for 'f.overload', or for two such names (clamping to a lower and an upper bound); nil if PyTorch does
-- not have it
function vectors.of(name, ty, into)
   if not found or not name or name == '' or not dtypes[ty] then return nil end
   if name == 'fill' then return fill(ty) end
   if name == 'add' or name == 'sub' then
      local family = axpys[ty] and axpy or ty ~= 'Long' and sum_of_columns  -- a product of 64-bit integers is slower than a loop
      return family and family(ty, name == 'add' and 1 or -1)
   end
   local f, overload, second, second_overload = name:match '^([%w_]+)%.([%w_]+) ?([%w_]*)%.?([%w_]*)$'
   local truth = into == 'Byte' and ty ~= 'Byte' and dtypes.Bool or nil
   f = 'aten::' .. f
   if second == '' then return function(R, X, Y, v) return compute(f, overload, truth, R, X, Y, v) end end
   second = 'aten::' .. second
   return function(R, X, _, v, w)
      if R.count > 16 * CHUNK then return false end  -- for many elements, one pass in Python is faster than these two
      return v <= w and compute(f, overload, truth, R, X, nil, v) and compute(second, second_overload, truth, R, R, nil, w)
   end
end

-- R = A B of integers, m x k and k x n, each with memory and two strides; R must not share memory with A or B
function vectors.multiply(ty, m, n, k, R, r1, r2, A, a1, a2, B, b1, b2, is_vector)
   if not dtypes[ty] then return false end
   push_matrix(0, A, ty, m, a1, k, a2)
   if is_vector then
      push_matrix(1, B, ty, k, b1)
      push_matrix(2, R, ty, m, r1)
   else
      push_matrix(1, B, ty, k, b1, n, b2)
      push_matrix(2, R, ty, m, r1, n, r2)
   end
   return call(is_vector and 'aten::mv' or k == 1 and 'aten::mul' or 'aten::mm', 'out', 1)
end

-- the m adjacent elements of R are the sums of n integers of X each; a and b are the strides of X
function vectors.sums(ty, m, n, R, X, a, b)
   return n <= CHUNK and vectors.multiply(ty, m, 1, n, R, 1, 1, X, a, b, ones[ty], 1, 1, true)
end

-- the dot product of two vectors of integers, in their type
function vectors.dot(ty, n, A, a, B, b)
   if not dtypes[ty] then return nil end
   push_matrix(0, A, ty, n, a)
   push_matrix(1, B, ty, n, b)
   push(2, scalar[ty], 0, dtypes[ty])
   return call('aten::dot', 'out', 1) and tonumber(scalar[ty][0]) or nil
end

-- the smallest and the largest element of X; nil if PyTorch cannot compute them
function vectors.limits(X)
   local dtype, found = dtypes[X.ty], scalar[X.ty]
   if X.n > MAX_DIMENSIONS or X.n == 0 or not dtype then return nil end
   push_state(0, X, packed(X))  -- the order of the elements does not matter
   stack[1], stack[2] = 0, 0
   push(3, found, 0, dtype)
   push(4, found + 1, 0, dtype)
   if call('aten::aminmax', 'out', 2) then return tonumber(found[0]), tonumber(found[1]) end
end

-- R = X; all elements of X must be in the range of R's type
function vectors.copy(R, X)
   if R.n > MAX_DIMENSIONS or not dtypes[R.ty] or not dtypes[X.ty] or not disjoint(R) or R.block == X.block or not same_sizes(R, X) then return false end
   push_state(0, R)
   push_state(1, X)
   stack[2] = 0
   return call('aten::copy_', '', 1)
end
