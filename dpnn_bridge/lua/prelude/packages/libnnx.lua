-- libnnx: the C functions of nnx's layers, implemented with tensor operations; this file contains those that resample pixels.
local _, py = ...

-- select rows and columns of a tensor channels x height x width x ..., and the reverse: add to these rows and columns
local function gathered(t, rows, columns) return t:index(2, rows):index(3, columns) end
local function scattered(sum, rows, columns, t)
   local part = sum.new(sum:size(1), sum:size(2), t:size(3), sum:size(4)):zero()
   part:indexAdd(2, rows, t)
   sum:indexAdd(3, columns, part)
end
-- 1-based positions f(0), f(1), ... of n pixels
local function positions(n, f)
   local list = torch.LongTensor(n)
   for i = 1, n do list[i] = f(i - 1) + 1 end
   return list
end
local floor, min = math.floor, math.min
local function repeated(t, h, w)
   return positions(t:size(2), function(y) return floor(y / h) end), positions(t:size(3), function(x) return floor(x / w) end)
end

-- the two neighbours of each output position along one dimension for bilinear resampling: lists of positions and of weights, in single
-- precision as in C
local function neighbours(from, to)
   local ratio = torch.FloatTensor(1):fill((from - 1) / (to - 1))[1]
   local at = torch.FloatTensor(to)
   for i = 1, to do at[i] = ratio * (i - 1) end
   local before = torch.FloatTensor(to):copy(at):floor()
   local after_weight = at - before
   local before_weight = (before + 1) - at
   return {before:long():add(1), positions(to, function(i) return min(before[i + 1] + 1, from - 1) end)}, {before_weight, after_weight}
end
local function each_neighbour(height, width, oheight, owidth, visit)
   local rows, down = neighbours(height, oheight)
   local columns, across = neighbours(width, owidth)
   for a = 1, 2 do
      for b = 1, 2 do
         visit(rows[a], columns[b], torch.ger(down[a], across[b]):view(1, oheight, owidth, 1))
      end
   end
end

local function planes(t) return t:contiguous():view(t:size(1), -1) end
local function block_factor(h, w) return torch.FloatTensor(1):fill(1 / (h * w))[1] end

-- averages of blocks of h x w pixels, and their gradient; tensors are 4-D
local function averaged(t, output, h, w)
   output:zero()
   local oheight, owidth = output:size(2), output:size(3)
   for i = 0, h - 1 do
      for j = 0, w - 1 do
         output:add(gathered(t, positions(oheight, function(y) return y * h + i end), positions(owidth, function(x) return x * w + j end)))
      end
   end
   output:mul(block_factor(h, w))
end
local function spread(g, gradInput, h, w, factor)
   gradInput:zero()
   local part = gradInput:narrow(2, 1, g:size(2) * h):narrow(3, 1, g:size(3) * w)
   local rows, columns = repeated(part, h, w)
   part:copy(gathered(g, rows, columns)):mul(factor)
end
local function as_4d(t) return t:dim() == 3 and t:view(t:size(1), t:size(2), t:size(3), 1) or t end

local nnx = py.run_prelude('packages/libnnx_pairs.lua')
function nnx.SpatialReSampling_updateOutput(self, input)
   input.THNN.SpatialReSampling_updateOutput(input, self.output, self.owidth, self.oheight)
   return self.output
end
function nnx.SpatialReSampling_updateGradInput(self, input, gradOutput)
   input.THNN.SpatialReSampling_updateGradInput(input, gradOutput, self.gradInput, self.owidth, self.oheight)
   return self.gradInput
end

function nnx.SpatialLinear_updateOutput(self, input)
   local output = self.output:view(self.output:size(1), -1)
   output:copy(self.bias:view(-1, 1):expandAs(output)):addmm(self.weight, planes(input))
end
function nnx.SpatialLinear_updateGradInput(self, input, gradOutput)
   local g = planes(gradOutput)
   self.gradWeight:addmm(g, planes(input):t())
   self.gradBias:add(g:sum(2))
   if self.weightDecay ~= 0 then self.gradWeight:add(g:size(2), self.weight) end
   self.gradInput:view(self.gradInput:size(1), -1):mm(self.weight:t(), g)
end

function nnx.SpatialUpSampling_updateOutput(self, input)
   self.output:copy(gathered(input, repeated(self.output, self.dH, self.dW)))
end
function nnx.SpatialUpSampling_updateGradInput(self, input, gradOutput)
   local rows, columns = repeated(gradOutput, self.dH, self.dW)
   scattered(self.gradInput:zero(), rows, columns, gradOutput)
end

-- of a 4-D tensor, C reads only the first element of the last dimension
local function first_element(t) return t:dim() == 4 and t:narrow(4, 1, 1) or as_4d(t:contiguous()) end
function nnx.SpatialDownSampling_updateOutput(self, input) averaged(first_element(input), as_4d(self.output), self.rH, self.rW) end
function nnx.SpatialDownSampling_updateGradInput(self, gradOutput)
   if gradOutput:dim() ~= 3 then error("bad argument #2 to 'SpatialDownSampling_updateGradInput' (gradOutput must be 3D Tensor)", 3) end
   local factor = block_factor(self.rH, self.rW)
   spread(as_4d(gradOutput:contiguous()), first_element(self.gradInput:zero()), self.rH, self.rW, factor)
end

local AVERAGE, BILINEAR = 1, 2  -- 0 is simple
local function ceiled(a, b) return floor((a + b - 1) / b) end
function nnx.SpatialReSamplingEx_updateOutput(self, input)
   local output, height, width = self.output, input:size(2), input:size(3)
   local oheight, owidth = self.oheightCurrent, self.owidthCurrent
   if self.mode_c == BILINEAR then
      output:zero()
      each_neighbour(height, width, oheight, owidth, function(rows, columns, weight)
         output:addcmul(gathered(input, rows, columns), weight:typeAs(input):expandAs(output):contiguous())
      end)
   elseif oheight >= height then
      output:copy(gathered(input, repeated(output, ceiled(oheight, height), ceiled(owidth, width))))
   else
      local h, w = floor(height / oheight), floor(width / owidth)
      if self.mode_c == AVERAGE then return averaged(input, output, h, w) end
      output:copy(gathered(input, positions(oheight, function(y) return y * h end), positions(owidth, function(x) return x * w end)))
   end
end
function nnx.SpatialReSamplingEx_updateGradInput(self, gradOutput)
   local gradInput, height, width = self.gradInput:zero(), self.iheight, self.iwidth
   local oheight, owidth = gradOutput:size(2), gradOutput:size(3)
   if self.mode_c == BILINEAR then
      each_neighbour(height, width, oheight, owidth, function(rows, columns, weight)
         scattered(gradInput, rows, columns, torch.cmul(gradOutput, weight:typeAs(gradOutput):expandAs(gradOutput):contiguous()))
      end)
   elseif oheight >= height then
      local rows, columns = repeated(gradOutput, ceiled(oheight, height), ceiled(owidth, width))
      scattered(gradInput, rows, columns, gradOutput)
   else
      local h, w = floor(height / oheight), floor(width / owidth)
      if self.mode_c == AVERAGE then return spread(gradOutput, gradInput, h, w, 1 / (h * w)) end
      scattered(gradInput, positions(oheight, function(y) return y * h end), positions(owidth, function(x) return x * w end), gradOutput)
   end
end

-- the start and the size of each of `to` blocks of `from` pixels, in single precision as in C
local function blocks(from, to)
   local ratio, at = torch.FloatTensor(1):fill(from / to)[1], torch.FloatTensor(to + 1)
   for i = 0, to do at[i + 1] = ratio * i end
   local starts, counts = positions(to, function(i) return floor(at[i + 1]) end), {}
   for i = 1, to do counts[i] = math.max(1, floor(at[i + 1]) - floor(at[i])) end
   return starts, counts
end
function nnx.SpatialMaxSampling_updateOutput(self, input)
   assert(input:dim() == 3, '3D tensor expected')
   local channels, rows, heights = input:size(1), blocks(input:size(2), self.oheight)
   local columns, widths = blocks(input:size(3), self.owidth)
   self.output:resize(channels, self.oheight, self.owidth)
   self.indices:resize(2, channels, self.oheight, self.owidth)
   for i = 1, self.oheight do
      for j = 1, self.owidth do
         local block = input:narrow(2, rows[i], heights[i]):narrow(3, columns[j], widths[j])
         local largest, at = block:contiguous():view(channels, -1):max(2)
         self.output:select(3, j):select(2, i):copy(largest)
         at:add(-1)
         self.indices[1]:select(3, j):select(2, i):copy(torch.div(at, widths[j]):add(1))
         self.indices[2]:select(3, j):select(2, i):copy(torch.fmod(at, widths[j]):add(1))
      end
   end
end
function nnx.SpatialMaxSampling_updateGradInput(self, input, gradOutput)
   local rows, columns = blocks(input:size(2), self.oheight), blocks(input:size(3), self.owidth)
   local size = gradOutput:size()
   local y = torch.add(self.indices[1]:long(), rows:view(1, -1, 1):expand(size):contiguous()):add(-2)
   local x = torch.add(self.indices[2]:long(), columns:view(1, 1, -1):expand(size):contiguous()):add(-1)
   local sum, at, g = planes(self.gradInput:resizeAs(input):zero()), planes(y:mul(input:size(3)):add(x)), planes(gradOutput)
   for k = 1, sum:size(1) do sum[k]:indexAdd(1, at[k], g[k]) end
end

for _, ty in ipairs {'Float', 'Double'} do torch.getmetatable('torch.' .. ty .. 'Tensor').nn = nnx end
return nnx
