-- Loop families of conv2 and xcorr2, and of conv3 and xcorr3 for images without channels.
local bridge = ...
local ffi, native = bridge.ffi, bridge.native
local families, loops, resize = native.families, native.loops, native.resize
local min, max = math.min, math.max
local FEW = loops.FEW

local is_small, in_other_memory = loops.is_small, native.in_other_memory

-- An image and a kernel of up to three dimensions; elements of the kernel outside the image are skipped.
local CONVOLVE = [[
return function(row, d1, d2, d3, p, ip, a1, a2, a3, q, iq, b1, b2, b3, r, ir, c1, c2, c3, n1, n2, n3, m1, m2, m3, o1, o2, o3)
   for i = 0, d1 - 1 do for j = 0, d2 - 1 do
      for k = 0, d3 - 1 do row[k] = 0 end
      for u = max(0, o1 - i), min(m1, n1 + o1 - i) - 1 do
         for v = max(0, o2 - j), min(m2, n2 + o2 - j) - 1 do
            for w = 0, m3 - 1 do
               local from, y = iq + (i + u - o1) * b1 + (j + v - o2) * b2 + (w - o3) * b3, at(r, ir + u * c1 + v * c2 + w * c3)
               for k = max(0, o3 - w), min(d3, n3 + o3 - w) - 1 do row[k] = row[k] + R(at(q, from + k * b3) * y) end
            end
         end
      end
      local to = ip + i * a1 + j * a2
      for k = 0, d3 - 1 do p[to + k * a3] = row[k] end
   end end
end
]]

-- Rows of an image, multiplied by an element of the kernel, are added to rows of the result, as TH does from WIDTH columns on.
local WIDTH = 4
local ADD_ROW = [[
return function(n, p, q, v)
   for j = 0, n - 1 do p[j] = at(p, j) + at(q, j) * v end
end
]]
-- the same for the element 0, which BLAS skips: infinity times 0 must be NaN
local function add_zeros(n, p, q)
   for j = 0, n - 1 do p[j] = p[j] + q[j] * 0 end
end
local function add_plane(add, result, image, weights, rows, columns, height, width, is_full, is_flipped)
   local out_rows, out_columns = is_full and rows or rows - height + 1, is_full and columns or columns - width + 1
   local step, last = is_full and columns + width - 1 or out_columns, height * width - 1
   for i = 0, out_rows - 1 do
      for u = 0, height - 1 do
         for v = 0, width - 1 do
            local index = u * width + v
            local weight = weights[is_flipped and last - index or index]
            local add = weight == 0 and add_zeros or add
            if is_full then
               add(out_columns, result + (i + u) * step + v, image + i * columns, weight)
            else
               add(out_columns, result + i * step, image + (i + u) * columns + v, weight)
            end
         end
      end
   end
end
local function contiguous(S)
   return S.dense and S or native.state(bridge.metatables['torch.' .. S.ty .. 'Tensor'].contiguous(S.object))
end
-- an image and a kernel, channels with a kernel each, or channels with kernels for each output channel, whose results are summed
local function by_rows(add, R, S, K, is_full, is_flipped)
   if S.count == 0 or K.count == 0 or not in_other_memory(R, S) or not in_other_memory(R, K) then return false end
   local s, k, sign = 2 * S.n, 2 * K.n, is_full and 1 or -1
   local rows, columns, height, width = S[s - 3], S[s - 1], K[k - 3], K[k - 1]
   local out_rows, out_columns = rows + sign * (height - 1), columns + sign * (width - 1)
   if out_rows < 1 or (is_full and columns or out_columns) < WIDTH then return false end
   local planes, results, summed = S.n == 3 and S[1] or 1, 1, 1
   if K.n == 3 then results = planes elseif K.n == 4 then results, summed = K[1], planes end
   if K.n > 2 and K[k - 5] ~= planes then return false end
   local sized = S.n == 2 and resize(R, 2, out_rows, out_columns) or S.n == 3 and resize(R, 3, results, out_rows, out_columns)
   if not sized or not R.dense then return false end
   S, K = contiguous(S), contiguous(K)
   local result, image, weights = R.block.data + R.offset, S.block.data + S.offset, K.block.data + K.offset
   ffi.fill(result, R.count * native.c_types[R.ty].size)
   for i = 0, results - 1 do
      for j = 0, summed - 1 do
         local plane = K.n == 3 and i or j
         add_plane(add, result + i * out_rows * out_columns, image + plane * rows * columns,
                   weights + (i * summed + j) * height * width, rows, columns, height, width, is_full, is_flipped ~= is_full)
      end
   end
   return true
end

function families.convolve(plan, space, flip)
   local is_real = plan.ty == 'Float' or plan.ty == 'Double'
   local add = is_real and native.vectors.adder(plan.ty) or not is_real and loops.compile(plan.ty, ADD_ROW, 'convolution of rows')
   local c_type = plan.ty == 'Float' and 'float' or plan.ty == 'Double' and 'double' or 'int64_t'  -- integers wrap as in C
   local run, row = loops.compile(plan.ty, CONVOLVE, plan.name), ffi.new(c_type .. '[?]', 2 * FEW)
   return function(R, S, K, how)
      local n = S.n
      if space == '2' and add and by_rows(add, R, S, K, how == 'F', flip == 'flip') then return true end
      if n ~= tonumber(space) or K.n ~= n or not is_small(S) or not is_small(K) or not in_other_memory(R, S) or not in_other_memory(R, K) then return nil end
      local sizes, image, kernel, steps, strides, first, edge = {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}, {0, 0, 0}, K.offset, {0, 0, 0}
      local count = 1
      for d = 1, n do
         local k = 3 - n + d
         image[k], steps[k], kernel[k], strides[k] = S[2 * d - 1], S[2 * d], K[2 * d - 1], K[2 * d]
         if how == 'F' then
            edge[k], sizes[k] = kernel[k] - 1, image[k] + kernel[k] - 1
         else
            sizes[k] = image[k] - kernel[k] + 1
         end
         if sizes[k] < 1 then return nil end
         count = count * sizes[k]
         if flip == 'flip' then first, strides[k] = first + (kernel[k] - 1) * strides[k], -strides[k] end
      end
      if count * K.count > 65536 or not resize(R, n, sizes[4 - n], sizes[5 - n], sizes[3]) then return nil end
      local o = 2 * n
      run(row, sizes[1], sizes[2], sizes[3], R.block.data, R.offset, n == 3 and R[2] or 0, R[o - 2], R[o], S.block.data, S.offset,
          steps[1], steps[2], steps[3], K.block.data, first, strides[1], strides[2], strides[3], image[1], image[2], image[3],
          kernel[1], kernel[2], kernel[3], edge[1], edge[2], edge[3])
      return true
   end
end
