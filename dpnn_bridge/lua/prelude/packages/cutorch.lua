-- cutorch: says that there is no GPU. Scripts that look before they leap run on the CPU.
local message = 'this is the bridge of dpnn_bridge to PyTorch, which gives Lua no GPU: run the script on the CPU'
cutorch = setmetatable({
   getDeviceCount = function() return 0 end, hasHalf = false, hasFastHalfInstructions = function() return false end,
   synchronize = function() end, streamSynchronize = function() end, manualSeed = function() end, manualSeedAll = function() end,
   seed = function() end, seedAll = function() end, getDevice = function() return 0 end,
}, {__index = function(_, name)
   if name == '_NAME' or name == 'VERSION' then return nil end
   error('cutorch.' .. tostring(name) .. ': ' .. message, 2)
end})
function cutorch.setDevice() error('cutorch.setDevice: ' .. message, 2) end
return cutorch
