-- libnnx: SpatialGraph, SpatialMatching, DistMarginCriterion and SoftMaxTree. Sums are accumulated in the tensor's type, as in C.
local nnx = {}
require 'nn.THNN'

local function double(t) return torch.DoubleTensor(t:size()):copy(t) end
-- t = t + factor * values, computed in double precision
local function accumulate(t, factor, values) t:copy(double(t):add(factor, values)) end

-- SpatialGraph: each pixel and its neighbours to the right (1) and below (2) --------------------------------------------
local function first(t, d) return t:narrow(t:dim() - 2 + d, 1, t:size(t:dim() - 2 + d) - 1) end
local function second(t, d) return t:narrow(t:dim() - 2 + d, 2, t:size(t:dim() - 2 + d) - 1) end
local function edges(t, visit)
   for plane, d in ipairs {2, 1} do
      if t:size(t:dim() - 2 + d) > 1 then visit(plane, d) end
   end
end
local function products(sum, a, b)
   for k = 1, a:size(1) do sum:add(torch.cmul(a[k], b[k]):typeAs(sum)) end  -- addcmul may round only once
   return sum
end
local function over_channels(t, like) return t:view(1, t:size(1), t:size(2)):expandAs(like):contiguous() end

function nnx.SpatialGraph_updateOutput(self, input)
   local output, channels = self.output:zero(), input:size(1)
   if self.dist == 0 then
      edges(input, function(plane, d)
         local difference, sum = first(input, d) - second(input, d), first(output[plane], d)
         products(sum, difference, difference)
         sum:copy(double(sum):sqrt():mul(self.normalize == 1 and 1 / math.sqrt(channels) or 1))
      end)
      return
   end
   local shifted = torch.add(input, 1e-12)
   edges(input, function(plane, d)
      local a, b, sum = first(shifted, d), second(shifted, d), first(output[plane], d)
      products(sum, a, b)
      if self.normalize == 1 then
         local norms = {}
         for i, x in ipairs {a, b} do norms[i] = products(double(sum):zero(), x, x):sqrt() end
         sum:copy(double(sum):cdiv(norms[1]:cmul(norms[2])):mul(-1):add(1))
      else
         sum:mul(-1):add(channels)
      end
   end)
end

function nnx.SpatialGraph_updateGradInput(self, input, gradOutput)
   local gradInput, channels, steps = self.gradInput:zero(), input:size(1), {}
   edges(input, function(plane, d)
      local near, far = first(input, d), second(input, d)
      local a, b = double(near), double(far)
      local g = double(first(gradOutput[plane], d))
      local to_a, to_b
      if self.dist == 0 then
         local difference = double(near - far)
         local distance = over_channels(double(first(self.output[plane], d)), a)
         distance[difference:eq(0)] = 1
         if self.normalize == 1 then g:mul(1 / math.sqrt(channels) / math.sqrt(channels)) end
         to_a = difference:cdiv(distance):cmul(over_channels(g, a))
         to_b = -to_a
      else
         g = over_channels(g, a)
         if self.normalize == 1 then  -- the powers 1/2 and 3/2 of the C code are integer divisions, 0 and 1
            local zeros = torch.DoubleTensor(a:size(2), a:size(3)):zero()
            local function sums(x, y) return over_channels(products(zeros:clone(), x, y), a) end
            local ab, one = sums(near, far), 1 / (1 + 1e-12)
            to_a = torch.cdiv(ab, sums(near, near):add(1e-12)):cmul(a):add(-one, b):cmul(g)
            to_b = torch.cdiv(ab, sums(far, far):add(1e-12)):cmul(b):add(-one, a):cmul(g)
         else
            to_a, to_b = -torch.cmul(b, g), -torch.cmul(a, g)
         end
      end
      steps[plane] = function(part) accumulate(part(gradInput, d), 1, part == first and to_a or to_b) end
   end)
   for _, step in ipairs {{2, second}, {1, second}, {1, first}, {2, first}} do  -- the order of the pixels in C
      if steps[step[1]] then steps[step[1]](step[2]) end
   end
end

-- SpatialMatching, SpatialRadialMatching: each pixel of an image and a window of another image ---------------------------
local function check_window(one, two, height, width)
   local rows, columns = one:size(2) + height - 1, one:size(3) + width - 1
   if two:size(2) < rows or two:size(3) < columns then  -- C would read beyond the end of the tensor
      error(('the second input is %dx%d, the window needs %dx%d'):format(two:size(2), two:size(3), rows, columns), 4)
   end
end
function nnx.SpatialMatching_updateOutput(self, one, two)
   if not self.full_output then check_window(one, two, self.maxh, self.maxw) end
   one.THNN.SpatialMatching_updateOutput(one, two, self.output, self.maxh, self.maxw, self.full_output)
end
function nnx.SpatialMatching_updateGradInput(self, one, two, gradOutput)
   one.THNN.SpatialMatching_updateGradInput(one, two, gradOutput, self.gradInput1, self.gradInput2, self.maxh, self.maxw, self.full_output)
end
function nnx.SpatialRadialMatching_updateOutput(self, one, two)
   check_window(one, two, self.maxh, 1)
   one.THNN.SpatialMatching_updateOutput(one, two, self.output, self.maxh, 1, false)
   self.output:resize(one:size(2), one:size(3), self.maxh)
end
function nnx.SpatialRadialMatching_updateGradInput(self, one, two, gradOutput)
   one.THNN.SpatialMatching_updateGradInput(one, two, gradOutput, self.gradInput1, self.gradInput2, self.maxh, 1, false)
end

-- DistMarginCriterion: the lowest score of a target against those of all others ---------------------------------------------
local function each_sample(input, target, visit)
   assert(input:dim() == 1 or input:dim() == 2, 'vector or matrix expected')
   assert(input:dim() == 1 and target:nElement() == input:size(1) or target:isSameSizeAs(input), 'inconsistent target size')
   local count = input:size(input:dim())
   local scores, targets = input:contiguous():view(-1, count), target:contiguous():view(-1, count)
   assert(targets:min() >= 0 and targets:max() <= count, 'target out of range')
   for row = 1, scores:size(1) do
      local values, is_target, lowest, index = scores[row]:totable(), {}, math.huge, nil
      for _, i in ipairs(targets[row]:totable()) do
         i = math.floor(i)
         if i == 0 then break end
         is_target[i] = true
         if values[i] < lowest then lowest, index = values[i], i end
      end
      visit(row, index, function(f)
         for i, value in ipairs(values) do
            if not is_target[i] then f(i, 1 - lowest + value) end
         end
      end)
   end
   return count
end
function nnx.DistMarginCriterion_updateOutput(self, input, target)
   local sum = 0
   local count = each_sample(input, target, function(_, _, each_other)
      each_other(function(_, margin) sum = sum + math.max(margin, 0) end)
   end)
   self.output = self.sizeAverage and sum / count or sum
   return self.output
end
function nnx.DistMarginCriterion_updateGradInput(self, input, target)
   local gradInput = self.gradInput:resizeAs(input):zero()
   local rows, g = gradInput:view(-1, input:size(input:dim())), self.sizeAverage and 1 / input:size(input:dim()) or 1
   each_sample(input, target, function(row, index, each_other)
      local sum = 0
      each_other(function(i, margin)
         if margin > 0 then rows[row][i], sum = g, sum - g end
      end)
      if index then rows[row][index] = sum end
   end)
   return gradInput
end

-- SoftMaxTree -----------------------------------------------------------------------------------------------------------
-- exp(-x) for x >= 0 as in THLogAdd.c
local function exp_minus(x)
   if x >= 13 then return 0 end
   local y = 1 + x * (0.125 + x * (0.0078125 + x * (0.00032552083 + x * 1.0172526e-5)))
   y = y * y
   y = y * y
   y = y * y
   return 1 / y
end

-- visits the families from a target up to the root: row of the batch, the index of the child among its family, where
-- the family starts and its size, where it starts in _multiBuffer, the parent
local function each_family(self, input, target, visit)
   assert(input:dim() == 2, '2D(batch mode) tensor expected')
   assert(input:size(2) == self.inputSize, 'invalid input size')
   for row = 1, input:size(1) do
      local child, at = target[row], 0
      repeat
         local parent, index = self.childParent[child][1], self.childParent[child][2]
         assert(parent ~= -1, 'Non-root node has no parent in tree.')
         local start, count = self.parentChildren[parent][1], self.parentChildren[parent][2]
         visit(row, index, start, count, self.maxFamilyPath * (row - 1) + at + 1, parent)
         child, at = parent, at + count
      until parent == self.rootId
   end
end

function nnx.SoftMaxTree_updateOutput(self, input, target)
   self.output:resize(input:size(1))
   local sums = torch.DoubleTensor(input:size(1)):zero()
   each_family(self, input, target, function(row, index, start, count, at)
      local scores = self._nodeBuffer:narrow(1, 1, count)
      scores:addmv(1, self.bias:narrow(1, start, count), 1, self.weight:narrow(1, start, count), input[row])
      local largest, sum = scores:max(), 0
      local below = (scores - largest):totable()
      for i = 1, count do sum = sum + exp_minus(-below[i]) end
      local logs = self._multiBuffer:narrow(1, at, count)
      logs:copy(double(scores):add(-(largest + math.log(sum))))
      sums[row] = sums[row] + logs[index]
   end)
   self.output:copy(sums)
   return self.output
end
function nnx.SoftMaxTree_updateGradInput(self, input, gradOutput, target)
   assert(gradOutput:dim() == 1, '1D tensor expected')
   local gradInput = self._gradInput:resizeAs(input):zero()
   each_family(self, input, target, function(row, index, start, count, at)
      local slopes, g = self._multiBuffer:narrow(1, at, count), gradOutput[row]
      slopes:copy(double(slopes):exp():mul(-g))
      slopes[index] = slopes[index] + g
      gradInput[row]:addmv(self.weight:narrow(1, start, count):t(), slopes)
   end)
end
function nnx.SoftMaxTree_accGradParameters(self, input, gradOutput, target, scale)
   scale = scale or 1
   each_family(self, input, target, function(row, index, start, count, at, parent)
      local slopes = self._multiBuffer:narrow(1, at, count)
      self.gradWeight:narrow(1, start, count):addr(scale, slopes, input[row])
      self.gradBias:narrow(1, start, count):add(scale, slopes)
      self.updates[parent] = (self.updates[parent] or 0) + scale
   end)
end

return nnx
