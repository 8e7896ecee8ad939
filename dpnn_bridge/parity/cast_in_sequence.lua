-- Casts a module to a tensor type without resetting recurrent states. In Torch7, a cast calls `forget` and `clearState`
-- of an LSTM, so these methods are replaced during the cast.

local module, tensor_type = ...
local recurrent = {}
for _, inner in ipairs(module.listModules and module:listModules() or {}) do
   if torch.isTypeOf(inner, 'nn.AbstractRecurrent') then
      inner.forget, inner.clearState = function(self) return self end, function(self) return self end
      table.insert(recurrent, inner)
   end
end
module:type(tensor_type)
for _, inner in ipairs(recurrent) do inner.forget, inner.clearState = nil, nil end
