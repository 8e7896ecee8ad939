-- The most common kernels of THNN for small tensors, as loops that call C's functions, which return the same bits as Torch7.
local bridge = ...
local native = bridge.native
local states, loops = native.states, native.loops
local same_size, pointwise, reduce, expressions, FEW = native.same_sizes, loops.pointwise, loops.reduce, loops.expressions, loops.FEW
local select, number_of = select, native.number_of

local function state(c, ty)
   local S = states[c]
   return S and S.block and S.count > 0 and (not ty or S.ty == ty) and (S.ty == 'Double' or S.ty == 'Float') and S
end

-- the state of the result c, resized to the size of X; false or nil if Python must do it
local function sized(c, X)
   local P = X and (states[c] or native.read(c))
   if not P or P.ty ~= X.ty then return nil end
   if not same_size(P, X) then
      if not native.resize_as(P, X) then return nil end
   end
   return P.block and P
end

-- whether an argument that the loop does not read is omitted or has the type of S
local function fits(c, S)
   local T = states[c]
   return not T or T.ty == S.ty
end

local kernels = {}

-- Define an element-wise layer. forward: expression of the input x. backward: expression of the input x, or of the output x if
-- of_output, and of the gradient y of the output. options: number of options of the layer, in the expressions v and w
local function define(name, forward, backward, of_output, options)
   local output_name, gradient_name = name .. '_updateOutput', name .. '_updateGradInput'
   expressions[output_name], expressions[gradient_name] = forward, backward
   kernels[output_name] = function(input, output, v, w, inplace)
      if (options == 2 and inplace) or (options == 1 and w) then return false end
      local X = state(input)
      local P = X and X.count <= FEW and sized(output, X)
      return P and pointwise(output_name, P, X, nil, nil, number_of(X.ty, v or 0), number_of(X.ty, w or 0))
   end
   if of_output then
      kernels[gradient_name] = function(input, gradOutput, gradInput, output)
         local Y, X = state(gradOutput), state(output)
         local P = Y and X and Y.ty == X.ty and fits(input, X) and same_size(X, Y) and X.count <= FEW and sized(gradInput, X)
         return P and pointwise(gradient_name, P, X, Y)
      end
   else
      kernels[gradient_name] = function(input, gradOutput, gradInput, v, w, inplace)
         if w == true or inplace then return false end
         local X, Y = state(input), state(gradOutput)
         local P = X and Y and Y.ty == X.ty and same_size(X, Y) and X.count <= FEW and sized(gradInput, X)
         return P and pointwise(gradient_name, P, X, Y, nil, number_of(X.ty, v or 0), number_of(X.ty, w or 0))
      end
   end
end
define('Abs', 'abs(x)', 'x >= 0 and y or -y')
define('Square', 'x * x', 'R(2 * y) * x')
define('Sqrt', 'sqrt(x)', 'x == 0 and 0 or 0.5 * R(y / x)', true)
define('Sigmoid', '1 / R(1 + exp(-x))', 'y * (1 - x) * x', true)
define('Tanh', 'tanh(x)', 'y * (1 - R(x * x))', true)
define('Threshold', 'x > v and x or w', 'x > v and y or 0', false, 2)
define('HardTanh', 'x < v and v or (x <= w and x or w)', '(x <= v or x >= w) and 0 or y', false, 2)
define('LeakyReLU', 'x > 0 and x or x * v', 'x > 0 and y or y * v', false, 1)

-- rows and columns of a contiguous matrix, or of a vector as one row
local function rows_of(S)
   if S.n == 1 and S.dense then return 1, S[1] end
   if S.n == 2 and S.dense then return S[1], S[3] end
end

local function by_rows(name, source)
   local kernel = loops.kernels(function() return source end)
   return function(ty, ...) return kernel(ty, name)(...) end
end

local log_soft_max = by_rows('LogSoftMax', [[
return function(rows, columns, p, ip, q, iq)
   for i = 1, rows do
      local top, sum = at(q, iq), 0
      for j = iq, iq + columns - 1 do if at(q, j) > top then top = at(q, j) end end
      for j = iq, iq + columns - 1 do sum = sum + C.exp(R(at(q, j) - top)) end
      sum = top + C.log(sum)
      for j = 0, columns - 1 do p[ip + j] = at(q, iq + j) - sum end
      ip, iq = ip + columns, iq + columns
   end
end
]])
local log_soft_max_gradient = by_rows('LogSoftMax gradient', [[
return function(rows, columns, p, ip, g, ig, y, iy)
   for i = 1, rows do
      local sum = 0
      for j = ig, ig + columns - 1 do sum = sum + at(g, j) end
      for j = 0, columns - 1 do p[ip + j] = at(g, ig + j) - C.exp(at(y, iy + j)) * sum end
      ip, ig, iy = ip + columns, ig + columns, iy + columns
   end
end
]])
local soft_max = by_rows('SoftMax', [[
return function(rows, columns, p, ip, q, iq)
   for i = 1, rows do
      local top, sum = at(q, iq), 0
      for j = iq, iq + columns - 1 do if at(q, j) > top then top = at(q, j) end end
      for j = 0, columns - 1 do
         local z = R(C.exp(R(at(q, iq + j) - top)))
         p[ip + j] = z
         sum = sum + z
      end
      for j = ip, ip + columns - 1 do p[j] = at(p, j) * (1 / sum) end
      ip, iq = ip + columns, iq + columns
   end
end
]])
local soft_max_gradient = by_rows('SoftMax gradient', [[
return function(rows, columns, p, ip, g, ig, y, iy)
   for i = 1, rows do
      local sum = 0
      for j = 0, columns - 1 do sum = sum + at(g, ig + j) * at(y, iy + j) end
      for j = 0, columns - 1 do p[ip + j] = at(y, iy + j) * (at(g, ig + j) - sum) end
      ip, ig, iy = ip + columns, ig + columns, iy + columns
   end
end
]])

local function soft(name, forward, backward)
   kernels[name .. '_updateOutput'] = function(input, output)
      local X = state(input)
      local rows, columns
      if X and X.count <= FEW then rows, columns = rows_of(X) end
      local P = rows and sized(output, X)
      if not P or not P.dense then return false end
      forward(X.ty, rows, columns, P.block.data, P.offset, X.block.data, X.offset)
      return true
   end
   kernels[name .. '_updateGradInput'] = function(input, gradOutput, gradInput, output)
      local G, Y = state(gradOutput), state(output)
      if not (G and Y and G.ty == Y.ty and fits(input, Y) and Y.count <= FEW and G.dense and same_size(G, Y)) then return false end
      local rows, columns = rows_of(Y)
      local P = rows and sized(gradInput, Y)
      if not P or not P.dense then return false end
      backward(Y.ty, rows, columns, P.block.data, P.offset, G.block.data, G.offset, Y.block.data, Y.offset)
      return true
   end
end
soft('LogSoftMax', log_soft_max, log_soft_max_gradient)
soft('SoftMax', soft_max, soft_max_gradient)

-- criterions ---------------------------------------------------------------------------------------------------------
expressions.MSECriterion_updateGradInput = 'v * R(x - y)'
function kernels.MSECriterion_updateOutput(input, target, output, average)
   local X, T, P = state(input), state(target), state(output)
   if not (X and T and P and T.ty == X.ty and P.ty == X.ty and X.count == T.count and X.count <= FEW and P.count == 1) then return false end
   local total = reduce('squared_differences', X, T)
   if not total then return false end
   P.block.data[P.offset] = average and total / X.count or total
   return true
end
function kernels.MSECriterion_updateGradInput(input, target, gradInput, average)
   local X, T = state(input), state(target)
   local P = X and T and T.ty == X.ty and X.count == T.count and X.count <= FEW and sized(gradInput, X)
   return P and pointwise('MSECriterion_updateGradInput', P, X, T, nil, number_of(X.ty, average and 2 / X.count or 2))
end

-- rows, columns and classes, if the input is contiguous and all classes are in range; nil otherwise
local function classes(X, target, ignored)
   local T = states[target]
   if not (X and X.count <= 65536 and T and T.ty == 'Long' and T.n == 1 and T[2] == 1) then return nil end
   local rows, columns = rows_of(X)
   if not rows or rows ~= T[1] or (ignored and ignored >= 1 and ignored <= columns) then return nil end
   local data = T.block.data
   for i = T.offset, T.offset + rows - 1 do
      local class = tonumber(data[i])
      if class < 1 or class > columns then return nil end
   end
   return rows, columns, data, T.offset
end
function kernels.ClassNLLCriterion_updateOutput(input, target, output, average, weights, total, ignored)
   local X, P, W = state(input), state(output), state(total)
   if weights or not (X and P and W and P.ty == X.ty and W.ty == X.ty and P.count == 1 and W.count == 1) then return false end
   local rows, columns, data, first = classes(X, target, ignored)
   if not rows then return false end
   local get, iq, sum = native.get[X.ty], X.offset - 1, 0
   for i = 0, rows - 1 do sum = number_of(X.ty, sum - get(X, iq + i * columns + tonumber(data[first + i]))) end
   W.block.data[W.offset] = rows
   P.block.data[P.offset] = average and sum / rows or sum
   return true
end
function kernels.ClassNLLCriterion_updateGradInput(input, target, gradInput, average, weights, total, ignored)
   local X, P, W = state(input), state(gradInput), state(total)
   if weights or not (P and X and W and P.ty == X.ty and W.ty == X.ty and same_size(X, P) and P.dense) then return false end
   local rows, columns, data, first = classes(X, target, ignored)
   local weight = native.get[W.ty](W, W.offset)
   if not rows or not (weight > 0) then return false end
   local p, ip, slope = P.block.data, P.offset - 1, average and X.n > 1 and -1 / weight or -1
   for i = 0, rows - 1 do p[ip + i * columns + tonumber(data[first + i])] = slope end
   return true
end

-- cross entropy, with TH's constant 1e-12 that avoids log 0
local cross_entropy = by_rows('BCECriterion', [[
return function(rows, columns, q, iq, t, it)
   local sum = 0
   for j = 0, columns - 1 do
      local x, y = at(q, iq + j), at(t, it + j)
      if not (x >= 0 and x <= 1) then return nil end  -- an error, which Python reports
      sum = R(sum - (C.log(x + 1e-12) * y + C.log(1 - x + 1e-12) * (1 - y)))
   end
   return sum
end
]])
expressions.BCECriterion_updateGradInput = 'R(-v * R(y - x)) / ((1 - x + 1e-12) * (x + 1e-12))'
function kernels.BCECriterion_updateOutput(input, target, output, average, weights)
   local X, T, P = state(input), state(target), state(output)
   if weights or not (X and T and P and T.ty == X.ty and P.ty == X.ty and X.count == T.count and X.count <= FEW and P.count == 1
      and X.dense and T.dense) then
      return false
   end
   local total = cross_entropy(X.ty, 1, X.count, X.block.data, X.offset, T.block.data, T.offset)
   if not total then return false end
   P.block.data[P.offset] = average and total / X.count or total
   return true
end
function kernels.BCECriterion_updateGradInput(input, target, gradInput, average, weights)
   local X, T = state(input), state(target)
   local P = not weights and X and T and T.ty == X.ty and X.count == T.count and X.count <= FEW and sized(gradInput, X)
   return P and pointwise('BCECriterion_updateGradInput', P, X, T, nil, number_of(X.ty, average and 1 / X.count or 1))
end

-- lookup tables --------------------------------------------------------------------------------------------------------
local adders = {Float = native.vectors.adder 'Float', Double = native.vectors.adder 'Double'}
function kernels.LookupTable_accGradParameters(input, gradOutput, gradWeight, count, sorted, indices, by_frequency, padding, scale)
   local I, G, P = states[input], state(gradOutput), state(gradWeight)
   local add = G and adders[G.ty]
   if by_frequency or not (I and add and P) or I.ty ~= 'Long' or not (I.dense and G.dense and P.dense) or P.n ~= 2 or P.ty ~= G.ty
      or I.count == 0 or I.count > FEW or G.count ~= I.count * P[3] or G.block == P.block then
      return false
   end
   local x = I.block.data
   for i = I.offset, I.offset + I.count - 1 do
      if x[i] < 1 or x[i] > P[1] then return false end
   end
   local columns, from, to = P[3], G.block.data + G.offset, P.block.data + P.offset
   scale = scale or 1
   for i = 0, I.count - 1 do
      local chosen = tonumber(x[I.offset + i])
      if chosen ~= padding then add(columns, to + (chosen - 1) * columns, from + i * columns, scale) end
   end
   return true
end

-- the kernel of an element type: its loop for tensors of this type, or else `slow`
function native.with_loops(name, ty, slow)
   local f = kernels[name]
   if not f then return slow end
   return function(...)
      local S, T = states[(...)], states[(select(2, ...))]
      if not (S and S.ty == ty or T and T.ty == ty) or not f(...) then return slow(...) end
   end
end
