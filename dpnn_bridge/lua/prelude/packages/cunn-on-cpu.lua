-- cunn-on-cpu: replaces cunn by nn, and the layers of cudnn by the equivalent layers of nn. It must be required explicitly, because
-- many scripts run on the CPU if they do not find cunn.
require 'nn'
require 'cutorch'
local settings = {benchmark = false, fastest = false, verbose = false, version = 0}
function settings.convert(net) return net end

function settings.SpatialConvolution(planes, outputs, kW, kH, dW, dH, padW, padH, groups, ...)
   if groups and groups ~= 1 then error('cudnn.SpatialConvolution with groups has no equivalent in nn', 2) end
   return nn.SpatialConvolution(planes, outputs, kW, kH, dW, dH, padW, padH)
end

cudnn = setmetatable(settings, {__index = function(_, name)
   local class = nn[name]
   if not class and type(name) == 'string' and name:match('^%u') then
      error('cudnn.' .. name .. ' has no equivalent in nn, so it cannot run on the CPU', 2)
   end
   return class
end})
package.loaded.cunn, package.loaded.cudnn = nn, cudnn
return cudnn
