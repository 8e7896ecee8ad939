-- cutorch: reports that there is no GPU, so that scripts that check this run on the CPU.
local message = 'Lua cannot use a GPU in the bridge of dpnn_bridge: run the script on the CPU'
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
