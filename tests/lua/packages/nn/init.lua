-- The layers of a LeNet, each from its definition, for tests of `dpnn-verify --lua-path`.
require 'torch'
nn = {}

local Module = torch.class('nn.Module')
function Module:forward(input) return self:updateOutput(input) end
function Module:backward(input, gradOutput, scale)
   self:updateGradInput(input, gradOutput)
   self:accGradParameters(input, gradOutput, scale or 1)
   return self.gradInput
end
function Module:accGradParameters() end
function Module:parameters()
   if self.weight then return {self.weight, self.bias}, {self.gradWeight, self.gradBias} end
end
function Module:zeroGradParameters()
   local _, gradients = self:parameters()
   for _, gradient in ipairs(gradients or {}) do gradient:zero() end
end
function Module:training() self.train = true end
function Module:evaluate() self.train = false end

local Sequential = torch.class('nn.Sequential', 'nn.Module')
function Sequential:updateOutput(input)
   self.output = input
   for _, layer in ipairs(self.modules) do self.output = layer:forward(self.output) end
   return self.output
end
function Sequential:backward(input, gradOutput, scale)
   for i = #self.modules, 1, -1 do
      local before = i > 1 and self.modules[i - 1].output or input
      gradOutput = self.modules[i]:backward(before, gradOutput, scale)
   end
   self.gradInput = gradOutput
   return gradOutput
end
function Sequential:parameters()
   local weights, gradients = {}, {}
   for _, layer in ipairs(self.modules) do
      local w, g = layer:parameters()
      for i = 1, #(w or {}) do weights[#weights + 1], gradients[#gradients + 1] = w[i], g[i] end
   end
   return weights, gradients
end
for _, mode in ipairs {'training', 'evaluate'} do
   Sequential[mode] = function(self)
      Module[mode](self)
      for _, layer in ipairs(self.modules) do layer[mode](layer) end
   end
end

local Linear = torch.class('nn.Linear', 'nn.Module')
function Linear:updateOutput(input)
   self.output = input * self.weight:t() + self.bias:view(1, -1):expand(input:size(1), self.bias:size(1))
   return self.output
end
function Linear:updateGradInput(_, gradOutput) self.gradInput = gradOutput * self.weight end
function Linear:accGradParameters(input, gradOutput, scale)
   self.gradWeight:add(scale, gradOutput:t() * input)
   self.gradBias:add(scale, gradOutput:sum(1):view(-1))
end

-- a product with the patches as rows
local Convolution = torch.class('nn.SpatialConvolutionMM', 'nn.Module')
function Convolution:updateOutput(input)
   assert(self.dH == 1 and self.dW == 1 and self.padH == 0 and self.padW == 0)
   local patches = input:unfold(3, self.kH, 1):unfold(4, self.kW, 1):permute(1, 3, 4, 2, 5, 6):contiguous()
   local n, height, width = patches:size(1), patches:size(2), patches:size(3)
   self.patches = patches:view(n * height * width, -1)
   local product = self.patches * self.weight:t()
   product:add(self.bias:view(1, -1):expandAs(product))
   self.output = product:view(n, height, width, -1):permute(1, 4, 2, 3):contiguous()
   return self.output
end
function Convolution:updateGradInput(input, gradOutput)
   local n, height, width = input:size(1), gradOutput:size(3), gradOutput:size(4)
   self.rows = gradOutput:permute(1, 3, 4, 2):contiguous():view(n * height * width, -1)
   local patches = (self.rows * self.weight):view(n, height, width, input:size(2), self.kH, self.kW)
   self.gradInput = input:clone():zero()
   for i = 1, self.kH do
      for j = 1, self.kW do
         local part = patches:select(6, j):select(5, i):permute(1, 4, 2, 3)
         self.gradInput:narrow(3, i, height):narrow(4, j, width):add(part)
      end
   end
end
function Convolution:accGradParameters(_, _, scale)
   self.gradWeight:add(scale, self.rows:t() * self.patches)
   self.gradBias:add(scale, self.rows:sum(1):view(-1))
end

-- element by element
local Pooling = torch.class('nn.SpatialMaxPooling', 'nn.Module')
function Pooling:updateOutput(input)
   local padH, padW = self.padH or 0, self.padW or 0
   local n, planes, height, width = input:size(1), input:size(2), input:size(3), input:size(4)
   local rows = math.floor((height + 2 * padH - self.kH) / self.dH) + 1
   local columns = math.floor((width + 2 * padW - self.kW) / self.dW) + 1
   local flat, output, winners = input:contiguous():view(-1), input.new(n * planes * rows * columns), {}
   for plane = 0, n * planes - 1 do
      for row = 0, rows - 1 do
         for column = 0, columns - 1 do
            local best, winner
            for y = row * self.dH - padH, row * self.dH - padH + self.kH - 1 do
               for x = column * self.dW - padW, column * self.dW - padW + self.kW - 1 do
                  if y >= 0 and y < height and x >= 0 and x < width then
                     local place = (plane * height + y) * width + x + 1
                     local value = flat[place]
                     if not best or value > best then best, winner = value, place end
                  end
               end
            end
            winners[#winners + 1] = winner
            output[#winners] = best
         end
      end
   end
   self.winners = torch.LongTensor(winners)
   self.output = output:view(n, planes, rows, columns)
   return self.output
end
function Pooling:updateGradInput(input, gradOutput)
   self.gradInput = input:clone():zero()
   self.gradInput:view(-1):indexAdd(1, self.winners, gradOutput:contiguous():view(-1))
end

local Reshape = torch.class('nn.Reshape', 'nn.Module')
function Reshape:updateOutput(input)
   self.output = input:contiguous():view(input:size(1), -1)
   return self.output
end
function Reshape:updateGradInput(input, gradOutput) self.gradInput = gradOutput:contiguous():viewAs(input) end

local Tanh = torch.class('nn.Tanh', 'nn.Module')
function Tanh:updateOutput(input)
   self.output = torch.tanh(input)
   return self.output
end
function Tanh:updateGradInput(_, gradOutput)
   self.gradInput = torch.cmul(gradOutput, -torch.pow(self.output, 2) + 1)
end

local Dropout = torch.class('nn.Dropout', 'nn.Module')
function Dropout:updateOutput(input)
   self.noise = input:clone():fill(1)
   if self.train then self.noise:bernoulli(1 - self.p):div(1 - self.p) end
   self.output = torch.cmul(input, self.noise)
   return self.output
end
function Dropout:updateGradInput(_, gradOutput) self.gradInput = torch.cmul(gradOutput, self.noise) end

local LogSoftMax = torch.class('nn.LogSoftMax', 'nn.Module')
function LogSoftMax:updateOutput(input)
   local largest = input:max(2):expandAs(input)
   local sums = torch.exp(input - largest):sum(2)
   self.output = input - largest - torch.log(sums):expandAs(input)
   return self.output
end
function LogSoftMax:updateGradInput(_, gradOutput)
   self.gradInput = gradOutput - torch.cmul(torch.exp(self.output), gradOutput:sum(2):expandAs(gradOutput))
end

return nn
