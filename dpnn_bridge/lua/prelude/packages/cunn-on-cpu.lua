-- cunn-on-cpu: from now on cunn is nn, and layers of cudnn are those of nn, which compute the same. Not by itself: scripts
-- that look whether cunn is there, and take the CPU where it is not, are right.
require 'nn'
require 'cutorch'
local settings = {benchmark = false, fastest = false, verbose = false, version = 0}
function settings.convert(net) return net end

function settings.SpatialConvolution(planes, outputs, kW, kH, dW, dH, padW, padH, groups, ...)
   if groups and groups ~= 1 then error('cudnn.SpatialConvolution with groups has no counterpart in nn', 2) end
   return nn.SpatialConvolution(planes, outputs, kW, kH, dW, dH, padW, padH)
end

cudnn = setmetatable(settings, {__index = function(_, name)
   local class = nn[name]
   if not class and type(name) == 'string' and name:match('^%u') then
      error('cudnn.' .. name .. ': nn has no such class, which would stand for it on the CPU', 2)
   end
   return class
end})
package.loaded.cunn, package.loaded.cudnn = nn, cudnn
return cudnn
