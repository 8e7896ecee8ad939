-- How nn's layers call THNN, and the results for what a fixture of Torch7 holds.
--
-- In the functions below a name is, in this order, a result that was assigned, self (the layer), input, target,
-- gradOutput or scale, a field of the layer, a function of THNN (without its state), or Lua's own. Results are output,
-- gradInput, gradWeight, gradBias and the layer's tensors. A class with several entries has several ways.
require 'nn'
require 'nn.THNN'
local layers = {}

local function layer(classes, run)
   for class in classes:gmatch('%S+') do layers[#layers + 1] = {class = 'nn.' .. class, run = run} end
end

local function batch_of_one(t) return t:view(1, unpack(t:size():totable())) end

-- ---- transfer functions

layer('Abs', function()
   Abs_updateOutput(input, output)
   Abs_updateGradInput(input, gradOutput, gradInput)
end)

layer('Square', function()
   Square_updateOutput(input, output)
   Square_updateGradInput(input, gradOutput, gradInput)
end)

layer('Sqrt', function()
   Sqrt_updateOutput(input, output, eps)
   Sqrt_updateGradInput(input, gradOutput, gradInput, output)
end)

layer('Sigmoid', function()
   Sigmoid_updateOutput(input, output)
   Sigmoid_updateGradInput(input, gradOutput, gradInput, output)
end)

layer('Tanh', function()
   Tanh_updateOutput(input, output)
   Tanh_updateGradInput(input, gradOutput, gradInput, output)
end)

layer('HardShrink', function()
   HardShrink_updateOutput(input, output, lambda)
   HardShrink_updateGradInput(input, gradOutput, gradInput, lambda)
end)

layer('SoftShrink', function()
   SoftShrink_updateOutput(input, output, lambda)
   SoftShrink_updateGradInput(input, gradOutput, gradInput, lambda)
end)

layer('SoftPlus', function()
   SoftPlus_updateOutput(input, output, beta, threshold)
   SoftPlus_updateGradInput(input, gradOutput, gradInput, output, beta, threshold)
end)

layer('LogSigmoid', function()
   local buffer = input.new()
   LogSigmoid_updateOutput(input, output, buffer)
   LogSigmoid_updateGradInput(input, gradOutput, gradInput, buffer)
end)

layer('HardTanh', function()
   HardTanh_updateOutput(input, output, min_val, max_val, inplace)
   HardTanh_updateGradInput(input, gradOutput, gradInput, min_val, max_val, inplace)
end)

layer('Threshold ReLU', function()
   Threshold_updateOutput(input, output, threshold, val, inplace)
   Threshold_updateGradInput(input, gradOutput, gradInput, threshold, val, inplace)
end)

layer('LeakyReLU', function()
   LeakyReLU_updateOutput(input, output, negval, inplace)
   LeakyReLU_updateGradInput(input, gradOutput, gradInput, negval, inplace)
end)

layer('ELU', function()
   ELU_updateOutput(input, output, alpha, inplace)
   ELU_updateGradInput(input, gradOutput, gradInput, output, alpha, inplace)
end)

layer('RReLU', function()
   RReLU_updateOutput(input, output, noise, lower, upper, train, inplace, torch._gen)
   RReLU_updateGradInput(input, gradOutput, gradInput, noise, lower, upper, train, inplace)
end)

layer('PReLU', function()
   PReLU_updateOutput(input, output, weight, nOutputPlane)
   PReLU_updateGradInput(input, gradOutput, gradInput, weight, nOutputPlane)
   PReLU_accGradParameters(
      input, gradOutput, gradInput, weight, gradWeight, input.new(), input.new(), nOutputPlane, scale)
end)

layer('GatedLinearUnit', function()
   GatedLinear_updateOutput(input, output, dim or input:dim())
   GatedLinear_updateGradInput(input, gradOutput, gradInput, dim or input:dim())
end)

layer('SoftMax SpatialSoftMax', function()
   SoftMax_updateOutput(input, output)
   SoftMax_updateGradInput(input, gradOutput, gradInput, output)
end)

layer('LogSoftMax SpatialLogSoftMax', function()
   LogSoftMax_updateOutput(input, output)
   LogSoftMax_updateGradInput(input, gradOutput, gradInput, output)
end)

-- ---- normalization

layer('BatchNormalization SpatialBatchNormalization VolumetricBatchNormalization', function()
   local dims = {['nn.SpatialBatchNormalization'] = 4, ['nn.VolumetricBatchNormalization'] = 5}
   local single = input:dim() < (dims[torch.type(self)] or 2)
   local x = single and batch_of_one(input) or input
   local g = gradOutput:contiguous():view(x:size())
   local learning, mean, std = train and x:size(1) > 1, x.new(), x.new()
   BatchNormalization_updateOutput(
      x, output, weight, bias, running_mean, running_var, mean, std, learning, momentum, eps)
   BatchNormalization_backward(
      x, g, gradInput, gradWeight, gradBias, weight, running_mean, running_var, mean, std, learning, scale, eps)
end)

-- ---- tables and sparse inputs

layer('LookupTable', function()
   local index = input:long():view(-1)
   if maxNorm then LookupTable_renorm(index, weight, maxNorm, normType or 2) end
   output = weight:index(1, index)
   if input:dim() == 2 then output = output:view(input:size(1), input:size(2), -1) end
   LookupTable_accGradParameters(
      index, gradOutput, gradWeight, torch.IntTensor(), nil, nil, shouldScaleGradByFreq, paddingValue, scale)
end)

layer('SparseLinear', function()
   if torch.isTensor(input) and input:dim() == 3 then
      SparseLinear_legacyUpdateOutput(input, output, weight, bias)
      SparseLinear_legacyAccGradParameters(
         input, gradOutput, gradWeight, gradBias, weight, bias, weightDecay or 0, scale)
      return
   end
   local rows, samples = {}, torch.isTensor(input) and {input} or input
   for i, sample in ipairs(samples) do
      for k = 1, sample:size(1) do rows[#rows + 1] = {i, sample[k][1], sample[k][2]} end
   end
   local coordinates = output.new(rows)
   output:resize(#samples, weight:size(1))
   SparseLinear_updateOutput(coordinates, output, weight, bias)
   SparseLinear_accGradParameters(
      coordinates, gradOutput:view(#samples, -1), gradWeight, gradBias, weight, bias, weightDecay or 0, scale)
   if torch.isTensor(input) then output = output[1] end
end)

layer('IndexLinear', function()
   local keys, values, sizes, single = input[1], input[2], input[3]
   if not sizes then
      single = torch.isTensor(keys)
      if single then keys, values = {keys}, {values} end
      sizes = torch.LongTensor(#keys)
      for i, list in ipairs(keys) do sizes[i] = list:size(1) end
      keys, values = torch.cat(keys, 1), torch.cat(values, 1)
   end
   keys = keys:long()
   local sums, normalized = torch.cumsum(sizes), output.new()
   IndexLinear_updateOutput(
      keys, offset, values, sizes, sums, output, weight, bias, normalized, train and 1 or 0)
   local v = normalize > 0 and normalized or values
   if gradOutput then
      gradWeight = weight.new()
      IndexLinear_accGradParameters(
         keys, offset, v, sizes, sums, gradOutput, gradWeight, gradBias, weight, bias, weight.new(), weightDecay, scale)
   end
   if single then output = output[1] end
end)

-- ---- convolutions

layer('SpatialConvolution SpatialConvolutionMM', function()
   local columns, ones = input.new(), input.new()
   SpatialConvolutionMM_updateOutput(input, output, weight, bias, columns, ones, kW, kH, dW, dH, padW, padH)
   SpatialConvolutionMM_updateGradInput(
      input, gradOutput, gradInput, weight, columns, ones, kW, kH, dW, dH, padW, padH)
   SpatialConvolutionMM_accGradParameters(
      input, gradOutput, gradWeight, gradBias, columns, ones, kW, kH, dW, dH, padW, padH, scale)
end)

layer('SpatialDepthWiseConvolution', function()
   local columns, ones = input.new(), input.new()
   SpatialDepthWiseConvolution_updateOutput(
      input, output, weight, bias, columns, ones, kW, kH, dW, dH, padW, padH)
   SpatialDepthWiseConvolution_updateGradInput(
      input, gradOutput, gradInput, weight, columns, ones, kW, kH, dW, dH, padW, padH)
   SpatialDepthWiseConvolution_accGradParameters(
      input, gradOutput, gradWeight, gradBias, columns, ones, kW, kH, dW, dH, padW, padH, scale)
end)

layer('SpatialDilatedConvolution', function()
   local columns, ones = input.new(), input.new()
   SpatialDilatedConvolution_updateOutput(
      input, output, weight, bias, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH)
   SpatialDilatedConvolution_updateGradInput(
      input, gradOutput, gradInput, weight, columns, kW, kH, dW, dH, padW, padH, dilationW, dilationH)
   SpatialDilatedConvolution_accGradParameters(
      input, gradOutput, gradWeight, gradBias, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH, scale)
end)

layer('SpatialConvolutionLocal', function()
   local columns, ones = input.new(), input.new()
   local planes, places, patch = nOutputPlane, oH * oW, nInputPlane * kH * kW
   local w, gw = weight:view(places, planes, patch), gradWeight:view(places, planes, patch)
   SpatialConvolutionLocal_updateOutput(
      input, output, w, bias, columns, ones, kW, kH, dW, dH, padW, padH, iW, iH, oW, oH)
   SpatialConvolutionLocal_updateGradInput(
      input, gradOutput, gradInput, w, columns, ones, kW, kH, dW, dH, padW, padH, iW, iH, oW, oH)
   SpatialConvolutionLocal_accGradParameters(
      input, gradOutput, gw, gradBias, columns, ones, kW, kH, dW, dH, padW, padH, iW, iH, oW, oH, scale)
end)

layer('SpatialFullConvolution', function()
   local x, columns, ones = input, gradOutput.new(), gradOutput.new()
   local addW, addH = adjW, adjH
   if type(x) == 'table' then  -- the second one says how large the output shall be
      local like = x[2]
      x = x[1]
      addW = (like:size(like:dim()) + 2 * padW - kW) % dW
      addH = (like:size(like:dim() - 1) + 2 * padH - kH) % dH
   end
   SpatialFullConvolution_updateOutput(
      x, output, weight, bias, columns, ones, kW, kH, dW, dH, padW, padH, addW, addH)
   gradInput = gradOutput.new()
   SpatialFullConvolution_updateGradInput(
      x, gradOutput, gradInput, weight, columns, kW, kH, dW, dH, padW, padH, addW, addH)
   SpatialFullConvolution_accGradParameters(
      x, gradOutput, gradWeight, gradBias, columns, ones, kW, kH, dW, dH, padW, padH, addW, addH, scale)
   if type(input) == 'table' then gradInput = {gradInput, input[2]:clone():zero()} end
end)

layer('SpatialConvolutionMap', function()
   SpatialConvolutionMap_updateOutput(input, output, weight, bias, connTable, nInputPlane, nOutputPlane, dW, dH)
   SpatialConvolutionMap_updateGradInput(
      input, gradOutput, gradInput, weight, bias, connTable, nInputPlane, nOutputPlane, dW, dH)
   SpatialConvolutionMap_accGradParameters(
      input, gradOutput, gradWeight, gradBias, connTable, nInputPlane, nOutputPlane, dW, dH, scale)
end)

layer('SpatialFullConvolutionMap', function()
   SpatialFullConvolutionMap_updateOutput(input, output, weight, bias, connTable, nInputPlane, nOutputPlane, dW, dH)
   SpatialFullConvolutionMap_updateGradInput(
      input, gradOutput, gradInput, weight, bias, connTable, nInputPlane, nOutputPlane, dW, dH)
   SpatialFullConvolutionMap_accGradParameters(
      input, gradOutput, gradWeight, gradBias, connTable, nInputPlane, nOutputPlane, dW, dH, scale)
end)

layer('VolumetricConvolution', function()
   local columns, ones = input.new(), input.new()
   VolumetricConvolutionMM_updateOutput(
      input, output, weight, bias, columns, kT, kW, kH, dT, dW, dH, padT, padW, padH)
   VolumetricConvolutionMM_updateGradInput(
      input, gradOutput, gradInput, weight, columns, ones, kT, kW, kH, dT, dW, dH, padT, padW, padH)
   VolumetricConvolutionMM_accGradParameters(
      input, gradOutput, gradWeight, gradBias, columns, kT, kW, kH, dT, dW, dH, padT, padW, padH, scale)
end)

layer('VolumetricConvolution', function()  -- before 2016
   local columns, ones = input.new(), input.new()
   VolumetricConvolution_updateOutput(input, output, weight, bias, columns, ones, dT, dW, dH, padT, padW, padH)
   VolumetricConvolution_updateGradInput(
      input, gradOutput, gradInput, weight, columns, dT, dW, dH, padT, padW, padH)
   VolumetricConvolution_accGradParameters(
      input, gradOutput, gradWeight, gradBias, columns, ones, dT, dW, dH, padT, padW, padH, scale)
end)

layer('VolumetricDilatedConvolution', function()
   local columns, ones = input.new(), input.new()
   VolumetricDilatedConvolution_updateOutput(
      input, output, weight, bias, columns, ones, kT, kW, kH, dT, dW, dH, padT, padW, padH,
      dilationT, dilationW, dilationH)
   VolumetricDilatedConvolution_updateGradInput(
      input, gradOutput, gradInput, weight, columns, kT, kW, kH, dT, dW, dH, padT, padW, padH,
      dilationT, dilationW, dilationH)
   VolumetricDilatedConvolution_accGradParameters(
      input, gradOutput, gradWeight, gradBias, columns, ones, kT, kW, kH, dT, dW, dH, padT, padW, padH,
      dilationT, dilationW, dilationH, scale)
end)

layer('VolumetricFullConvolution', function()
   local x, columns, ones = input, gradOutput.new(), gradOutput.new()
   local addT, addW, addH = adjT, adjW, adjH
   if type(x) == 'table' then
      local size = x[2]:size()
      x = x[1]
      addT = (size[#size - 2] + 2 * padT - kT) % dT
      addH = (size[#size - 1] + 2 * padH - kH) % dH
      addW = (size[#size] + 2 * padW - kW) % dW
   end
   VolumetricFullConvolution_updateOutput(
      x, output, weight, bias, columns, ones, dT, dW, dH, padT, padW, padH, addT, addW, addH)
   gradInput = gradOutput.new()
   VolumetricFullConvolution_updateGradInput(
      x, gradOutput, gradInput, weight, columns, ones, dT, dW, dH, padT, padW, padH, addT, addW, addH)
   VolumetricFullConvolution_accGradParameters(
      x, gradOutput, gradWeight, gradBias, columns, ones, dT, dW, dH, padT, padW, padH, addT, addW, addH, scale)
   if type(input) == 'table' then gradInput = {gradInput, input[2]:clone():zero()} end
end)

layer('TemporalConvolution', function()
   TemporalConvolution_updateOutput(input, output, weight, bias, kW, dW, inputFrameSize, outputFrameSize)
   TemporalConvolution_updateGradInput(input, gradOutput, gradInput, weight, kW, dW)
   TemporalConvolution_accGradParameters(input, gradOutput, gradWeight, gradBias, kW, dW, scale)
end)

layer('TemporalRowConvolution', function()
   local columns, ones = input.new(), input.new()
   TemporalRowConvolution_updateOutput(input, output, weight, bias, columns, ones, kW, dW, 0, featFirst)
   TemporalRowConvolution_updateGradInput(input, gradOutput, gradInput, weight, columns, ones, kW, dW, 0, featFirst)
   TemporalRowConvolution_accGradParameters(
      input, gradOutput, gradWeight, gradBias, columns, ones, kW, dW, 0, featFirst, scale)
end)

layer('SpatialSubSampling', function()
   SpatialSubSampling_updateOutput(input, output, weight, bias, kW, kH, dW, dH)
   SpatialSubSampling_updateGradInput(input, gradOutput, gradInput, weight, kW, kH, dW, dH)
   SpatialSubSampling_accGradParameters(input, gradOutput, gradWeight, gradBias, kW, kH, dW, dH, scale)
end)

layer('TemporalSubSampling', function()
   TemporalSubSampling_updateOutput(input, output, weight, bias, kW, dW, inputFrameSize)
   TemporalSubSampling_updateGradInput(input, gradOutput, gradInput, weight, kW, dW)
   TemporalSubSampling_accGradParameters(input, gradOutput, gradWeight, gradBias, kW, dW, scale)
end)

-- ---- pooling

layer('SpatialMaxPooling', function()
   indices = torch.LongTensor()
   SpatialMaxPooling_updateOutput(input, output, indices, kW, kH, dW, dH, padW, padH, ceil_mode)
   SpatialMaxPooling_updateGradInput(
      input, gradOutput, gradInput, indices, kW, kH, dW, dH, padW, padH, ceil_mode)
end)

layer('SpatialDilatedMaxPooling', function()
   indices = torch.LongTensor()
   SpatialDilatedMaxPooling_updateOutput(
      input, output, indices, kW, kH, dW, dH, padW, padH, dilationW, dilationH, ceil_mode)
   SpatialDilatedMaxPooling_updateGradInput(
      input, gradOutput, gradInput, indices, kW, kH, dW, dH, padW, padH, dilationW, dilationH, ceil_mode)
end)

layer('SpatialMaxUnpooling', function()
   local p = pooling
   SpatialMaxUnpooling_updateOutput(input, output, p.indices, p.iwidth, p.iheight)
   SpatialMaxUnpooling_updateGradInput(input, gradOutput, gradInput, p.indices, p.iwidth, p.iheight)
end)

layer('SpatialAdaptiveMaxPooling', function()
   indices = torch.LongTensor()
   SpatialAdaptiveMaxPooling_updateOutput(input, output, indices, W, H)
   SpatialAdaptiveMaxPooling_updateGradInput(input, gradOutput, gradInput, indices)
end)

layer('SpatialAdaptiveAveragePooling', function()
   SpatialAdaptiveAveragePooling_updateOutput(input, output, W, H)
   SpatialAdaptiveAveragePooling_updateGradInput(input, gradOutput, gradInput)
end)

layer('SpatialAveragePooling', function()
   SpatialAveragePooling_updateOutput(
      input, output, kW, kH, dW, dH, padW, padH, ceil_mode, count_include_pad)
   SpatialAveragePooling_updateGradInput(
      input, gradOutput, gradInput, kW, kH, dW, dH, padW, padH, ceil_mode, count_include_pad)
   if not divide then
      output:mul(kW * kH)
      gradInput:mul(kW * kH)
   end
end)

layer('SpatialFractionalMaxPooling', function()
   local samples, size = randomSamples, input:size()
   if not samples then samples = input.new(#size == 4 and size[1] or 1, size[#size - 2], 2):uniform() end
   local w, h = outW or math.floor(size[#size] * ratioW), outH or math.floor(size[#size - 1] * ratioH)
   indices = torch.LongTensor()
   SpatialFractionalMaxPooling_updateOutput(input, output, w, h, poolSizeW, poolSizeH, indices, samples)
   SpatialFractionalMaxPooling_updateGradInput(
      input, gradOutput, gradInput, w, h, poolSizeW, poolSizeH, indices)
end)

layer('VolumetricFractionalMaxPooling', function()
   local samples, size = randomSamples, input:size()
   if not samples then samples = input.new(#size == 5 and size[1] or 1, size[#size - 3], 3):uniform() end
   local t, w = outT or math.floor(size[#size] * ratioT), outW or math.floor(size[#size - 1] * ratioW)
   local h = outH or math.floor(size[#size - 2] * ratioH)
   indices = torch.LongTensor()
   VolumetricFractionalMaxPooling_updateOutput(
      input, output, t, w, h, poolSizeT, poolSizeW, poolSizeH, indices, samples)
   VolumetricFractionalMaxPooling_updateGradInput(
      input, gradOutput, gradInput, t, w, h, poolSizeT, poolSizeW, poolSizeH, indices)
end)

layer('VolumetricAveragePooling', function()
   VolumetricAveragePooling_updateOutput(input, output, kT, kW, kH, dT, dW, dH, 0, 0, 0, false, true)
   VolumetricAveragePooling_updateGradInput(
      input, gradOutput, gradInput, kT, kW, kH, dT, dW, dH, 0, 0, 0, false, true)
end)

layer('VolumetricAveragePooling', function()  -- before padding was added
   VolumetricAveragePooling_updateOutput(input, output, kT, kW, kH, dT, dW, dH)
   VolumetricAveragePooling_updateGradInput(input, gradOutput, gradInput, kT, kW, kH, dT, dW, dH)
end)

layer('VolumetricMaxPooling', function()
   local places = torch.LongTensor()
   VolumetricMaxPooling_updateOutput(
      input, output, places, kT, kW, kH, dT, dW, dH, padT, padW, padH, ceil_mode)
   VolumetricMaxPooling_updateGradInput(
      input, gradOutput, gradInput, places, kT, kW, kH, dT, dW, dH, padT, padW, padH, ceil_mode)
end)

layer('VolumetricMaxPooling', function()  -- before the kernel's size was passed back, with places in a real tensor
   local places = input.new()
   VolumetricMaxPooling_updateOutput(
      input, output, places, kT, kW, kH, dT, dW, dH, padT, padW, padH, ceil_mode)
   VolumetricMaxPooling_updateGradInput(input, gradOutput, gradInput, places, dT, dW, dH, padT, padW, padH)
end)

layer('VolumetricDilatedMaxPooling', function()
   local places = torch.LongTensor()
   VolumetricDilatedMaxPooling_updateOutput(
      input, output, places, kT, kW, kH, dT, dW, dH, padT, padW, padH, dilationT, dilationW, dilationH, ceil_mode)
   VolumetricDilatedMaxPooling_updateGradInput(
      input, gradOutput, gradInput, places, kT, kW, kH, dT, dW, dH, padT, padW, padH,
      dilationT, dilationW, dilationH, ceil_mode)
end)

layer('VolumetricDilatedMaxPooling', function()  -- before the kernel's size was passed back
   local places = torch.LongTensor()
   VolumetricDilatedMaxPooling_updateOutput(
      input, output, places, kT, kW, kH, dT, dW, dH, padT, padW, padH, dilationT, dilationW, dilationH, ceil_mode)
   VolumetricDilatedMaxPooling_updateGradInput(
      input, gradOutput, gradInput, places, dT, dW, dH, padT, padW, padH, dilationT, dilationW, dilationH)
end)

layer('VolumetricMaxUnpooling', function()
   local p = pooling
   VolumetricMaxUnpooling_updateOutput(
      input, output, p.indices, p.itime, p.iwidth, p.iheight, p.dT, p.dW, p.dH, p.padT, p.padW, p.padH)
   VolumetricMaxUnpooling_updateGradInput(
      input, gradOutput, gradInput, p.indices, p.itime, p.iwidth, p.iheight,
      p.dT, p.dW, p.dH, p.padT, p.padW, p.padH)
end)

layer('TemporalMaxPooling', function()
   indices = torch.LongTensor()
   TemporalMaxPooling_updateOutput(input, output, indices, kW, dW)
   TemporalMaxPooling_updateGradInput(input, gradOutput, gradInput, indices, kW, dW)
end)

layer('FeatureLPPooling', function()
   FeatureLPPooling_updateOutput(input, output, power, width, stride, batch_mode)
   FeatureLPPooling_updateGradInput(gradOutput, input, output, gradInput, power, width, stride, batch_mode)
end)

-- ---- padding and upsampling

layer('SpatialReflectionPadding', function()
   SpatialReflectionPadding_updateOutput(input, output, pad_l, pad_r, pad_t, pad_b)
   SpatialReflectionPadding_updateGradInput(input, gradOutput, gradInput, pad_l, pad_r, pad_t, pad_b)
end)

layer('SpatialReplicationPadding', function()
   SpatialReplicationPadding_updateOutput(input, output, pad_l, pad_r, pad_t, pad_b)
   SpatialReplicationPadding_updateGradInput(input, gradOutput, gradInput, pad_l, pad_r, pad_t, pad_b)
end)

layer('VolumetricReplicationPadding', function()
   VolumetricReplicationPadding_updateOutput(input, output, pleft, pright, ptop, pbottom, pfront, pback)
   VolumetricReplicationPadding_updateGradInput(
      input, gradOutput, gradInput, pleft, pright, ptop, pbottom, pfront, pback)
end)

layer('SpatialUpSamplingNearest', function()
   SpatialUpSamplingNearest_updateOutput(input, output, scale_factor)
   SpatialUpSamplingNearest_updateGradInput(input, gradOutput, gradInput, scale_factor)
end)

layer('SpatialUpSamplingBilinear', function()
   local x, g, single = input, gradOutput, input:dim() == 3
   if single then x, g = batch_of_one(x), batch_of_one(g) end
   local n, size = x:size(), g:size()
   SpatialUpSamplingBilinear_updateOutput(x, output, size[3], size[4])
   SpatialUpSamplingBilinear_updateGradInput(g, gradInput, n[1], n[2], n[3], n[4], size[3], size[4])
   if single then output, gradInput = output[1], gradInput[1] end
end)

layer('UpSampling', function()
   local n, size = input:size(), gradOutput:size()
   if mode == 'nearest' and #n == 4 then
      SpatialUpSamplingNearest_updateOutput(input, output, scale_factor)
      SpatialUpSamplingNearest_updateGradInput(input, gradOutput, gradInput, scale_factor)
   elseif mode == 'nearest' then
      VolumetricUpSamplingNearest_updateOutput(input, output, scale_factor)
      VolumetricUpSamplingNearest_updateGradInput(input, gradOutput, gradInput, scale_factor)
   elseif #n == 4 then
      SpatialUpSamplingBilinear_updateOutput(input, output, size[3], size[4])
      SpatialUpSamplingBilinear_updateGradInput(gradOutput, gradInput, n[1], n[2], n[3], n[4], size[3], size[4])
   else
      VolumetricUpSamplingTrilinear_updateOutput(input, output, size[3], size[4], size[5])
      VolumetricUpSamplingTrilinear_updateGradInput(
         gradOutput, gradInput, n[1], n[2], n[3], n[4], n[5], size[3], size[4], size[5])
   end
end)

layer('SpatialReSampling', function()  -- of nnx
   local n = input:dim()
   local width, height = owidth or rwidth * input:size(n), oheight or rheight * input:size(n - 1)
   SpatialReSampling_updateOutput(input, output, width, height)
   SpatialReSampling_updateGradInput(input, gradOutput, gradInput, width, height)
end)

-- ---- criterions: the loss is the only element of output

layer('AbsCriterion', function()
   AbsCriterion_updateOutput(input, target, output, sizeAverage)
   AbsCriterion_updateGradInput(input, target, gradInput, sizeAverage)
end)

layer('MSECriterion', function()
   MSECriterion_updateOutput(input, target, output, sizeAverage)
   MSECriterion_updateGradInput(input, target, gradInput, sizeAverage)
end)

layer('SmoothL1Criterion', function()
   SmoothL1Criterion_updateOutput(input, target, output, sizeAverage)
   SmoothL1Criterion_updateGradInput(input, target, gradInput, sizeAverage)
end)

layer('SoftMarginCriterion', function()
   SoftMarginCriterion_updateOutput(input, target, output, sizeAverage)
   SoftMarginCriterion_updateGradInput(input, target, gradInput, sizeAverage)
end)

layer('DistKLDivCriterion', function()
   DistKLDivCriterion_updateOutput(input, target, output, sizeAverage)
   DistKLDivCriterion_updateGradInput(input, target, gradInput, sizeAverage)
end)

layer('MarginCriterion', function()
   MarginCriterion_updateOutput(input, target, output, sizeAverage, margin)
   MarginCriterion_updateGradInput(input, target, gradInput, sizeAverage, margin)
end)

layer('BCECriterion', function()
   local w = weights and input:dim() == 2 and weights:view(1, -1):expandAs(input) or weights
   BCECriterion_updateOutput(input, target, output, sizeAverage, w)
   BCECriterion_updateGradInput(input, target, gradInput, sizeAverage, w)
end)

layer('L1Cost', function()
   L1Cost_updateOutput(input, output)
   L1Cost_updateGradInput(input, nil, gradInput)
end)

layer('ClassNLLCriterion', function()
   local class, total = torch.isTensor(target) and target:long() or torch.LongTensor {target}, input.new(1)
   gradInput:resizeAs(input):zero()
   ClassNLLCriterion_updateOutput(input, class, output, sizeAverage, weights, total, ignoreIndex)
   ClassNLLCriterion_updateGradInput(input, class, gradInput, sizeAverage, weights, total, ignoreIndex)
end)

layer('SpatialClassNLLCriterion', function()
   local classes, total = target:long(), input.new(1)
   gradInput:resizeAs(input):zero()
   SpatialClassNLLCriterion_updateOutput(input, classes, output, sizeAverage, weights, total)
   SpatialClassNLLCriterion_updateGradInput(input, classes, gradInput, sizeAverage, weights, total)
end)

layer('MultiMarginCriterion', function()
   local class = torch.isTensor(target) and target:long() or torch.LongTensor {target}
   MultiMarginCriterion_updateOutput(input, class, output, sizeAverage, p, weights, margin)
   MultiMarginCriterion_updateGradInput(input, class, gradInput, sizeAverage, p, weights, margin)
end)

layer('MultiLabelMarginCriterion', function()
   local labels = target:long()
   MultiLabelMarginCriterion_updateOutput(input, labels, output, isTarget, sizeAverage)
   MultiLabelMarginCriterion_updateGradInput(input, labels, gradInput, isTarget, sizeAverage)
end)

local function run(number, fixture)
   local module = fixture.module
   local loss = module.target ~= nil or torch.type(module):find('Criterion$') or torch.type(module) == 'nn.L1Cost'
   local kernels = (torch.isTensor(fixture.input) and fixture.input.THNN and fixture.input or module.weight).THNN
   local env = {
      self = module, input = fixture.input, target = fixture.target, gradOutput = fixture.gradOutput,
      scale = fixture.scale or 1, output = loss and fixture.input.new(1) or nil,
   }
   for _, name in ipairs {'gradWeight', 'gradBias'} do
      if module[name] then module[name]:zero() end
   end
   setmetatable(env, {__index = function(_, name)
      local value = rawget(module, name)
      if value ~= nil then return value end
      local kernel = kernels[name]
      if not kernel then return _G[name] end
      return function(...)
         local args = {...}
         for k = 1, select('#', ...) do
            if torch.isTensor(args[k]) then args[k] = args[k]:cdata() end
         end
         kernel(unpack(args, 1, select('#', ...)))
      end
   end})
   setfenv(layers[number].run, env)()
   local results = {output = loss and env.output[1] or env.output, indices = rawget(env, 'indices')}
   for _, name in ipairs {
      'gradInput', 'gradWeight', 'gradBias', 'running_mean', 'running_var', 'noise', 'isTarget', 'weight',
   } do
      results[name] = env[name]
   end
   return results
end

local classes = {}
for number, entry in ipairs(layers) do classes[number] = entry.class end
return classes, run
