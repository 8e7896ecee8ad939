-- Casts a module to a tensor type. In Torch7 an LSTM forgets its state when it is cast, and would start another sequence:
-- fields hide the methods that forget while the cast runs.

local module, kind = ...
local hidden = {}
for _, inner in ipairs(module.listModules and module:listModules() or {}) do
   if torch.isTypeOf(inner, 'nn.AbstractRecurrent') then
      inner.forget, inner.clearState = function(self) return self end, function(self) return self end
      table.insert(hidden, inner)
   end
end
module:type(kind)
for _, inner in ipairs(hidden) do inner.forget, inner.clearState = nil, nil end
