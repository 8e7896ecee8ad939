-- nn.THNN: what nn's Lua files call instead of a C library.
local bridge, py = ...

package.preload['nn.THNN'] = function()
   local kernels = {}
   local faster = bridge.native and bridge.native.with_loops or function(_, f) return f end
   for name, f in pairs(py.thnn_kernels()) do kernels[name] = faster(name, bridge.bind(f)) end
   local THNN = {kernels = {}}
   for _, tname in ipairs {'torch.FloatTensor', 'torch.DoubleTensor'} do
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

-- layers that ask for the generator's C struct get an opaque pointer, and the kernels the generator itself
if bridge.ffi then pcall(bridge.ffi.cdef, 'typedef struct THGenerator THGenerator;') end
