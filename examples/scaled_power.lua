-- A layer of one's own, as Torch7 users write them: y = scale * sign(x) * |x|^exponent, per feature.
require 'nn'

local ScaledPower, parent = torch.class('nn.ScaledPower', 'nn.Module')

function ScaledPower:__init(features, exponent)
   parent.__init(self)
   self.exponent = exponent or 2
   self.weight = torch.Tensor(features)
   self.gradWeight = torch.Tensor(features)
   self:reset()
end

function ScaledPower:reset()
   self.weight:fill(1)
   self.gradWeight:zero()
   return self
end

function ScaledPower:updateOutput(input)
   self.power = self.power or input.new()
   self.power:abs(input):pow(self.exponent):cmul(torch.sign(input))
   self.output:resizeAs(input):copy(self.power)
   self.output:cmul(self.weight:view(1, -1):expandAs(input))
   return self.output
end

function ScaledPower:updateGradInput(input, gradOutput)
   self.gradInput:abs(input):pow(self.exponent - 1):mul(self.exponent)
   self.gradInput:cmul(self.weight:view(1, -1):expandAs(input)):cmul(gradOutput)
   return self.gradInput
end

function ScaledPower:accGradParameters(input, gradOutput, scale)
   self.gradWeight:add(scale or 1, torch.cmul(self.power, gradOutput):sum(1):view(-1))
end

function ScaledPower:__tostring__()
   return string.format('%s(%d, exponent %g)', torch.type(self), self.weight:nElement(), self.exponent)
end
