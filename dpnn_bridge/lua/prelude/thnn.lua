-- nn.THNN: the kernels that nn's Lua files call, which are a C library in Torch7.
local bridge, py = ...

package.preload['nn.THNN'] = function()
   local faster = bridge.native and bridge.native.with_loops or function(_, _, f) return f end
   local THNN = {kernels = {}}
   for _, ty in ipairs {'Float', 'Double'} do
      local tname, kernels = 'torch.' .. ty .. 'Tensor', {}
      for name, f in pairs(py.thnn_kernels(ty)) do kernels[name] = faster(name, ty, bridge.bind(f)) end
      THNN.kernels[tname] = kernels
      torch.getmetatable(tname).THNN = kernels
   end
   function THNN.getState() end
   function THNN.optionalTensor(t) return t and t:cdata() or nil end
   function THNN.runKernel(name, tname, ...)
      local table_of_type = THNN.kernels[tname]
      if not table_of_type then error('Unsupported tensor type: ' .. tostring(tname), 2) end
      if not table_of_type[name] then
         error(string.format("Function '%s' not found for tensor type '%s'.", name, tname), 2)
      end
      return table_of_type[name](...)
   end
   return THNN
end

-- a layer of a user calls `input.THNN.f` without `require 'nn.THNN'`, which nn itself runs in Torch7
for _, ty in ipairs {'Float', 'Double'} do
   local tname = 'torch.' .. ty .. 'Tensor'
   torch.getmetatable(tname).THNN = setmetatable({}, {__index = function(_, name)
      return require 'nn.THNN'.kernels[tname][name]
   end})
end

-- layers that need the generator's C struct get an opaque pointer; the kernels use the generator itself
if bridge.ffi then pcall(bridge.ffi.cdef, 'typedef struct THGenerator THGenerator;') end
