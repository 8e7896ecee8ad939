-- nn.utils: operations on tensors in nested tables and on buffers of layers.
local function nested(value) return torch.type(value) == 'table' end
local function raise_mismatch(a, b)
   error('expecting nested tensors or tables. Got ' .. torch.type(a) .. ' and ' .. torch.type(b) .. ' instead', 3)
end

function nn.utils.recursiveType(value, kind, cache)
   cache = cache or {}
   if torch.isTypeOf(value, 'nn.Module') or torch.isTypeOf(value, 'nn.Criterion') then return value:type(kind, cache) end
   if torch.isTensor(value) then
      if value:type() == kind then return value end
      local key = torch.pointer(value)
      if not cache[key] then
         local storage = value:storage()
         local fresh = torch.getmetatable(kind).new()
         if storage then
            local at = torch.pointer(storage)
            local class = kind:gsub('Tensor$', 'Storage')
            cache[at] = cache[at] or torch.getmetatable(class).new(storage:size()):copy(storage)
            fresh:set(cache[at], value:storageOffset(), value:size(), value:stride())
         end
         cache[key] = fresh
      end
      return cache[key]
   end
   if nested(value) then
      for k, v in pairs(value) do value[k] = nn.utils.recursiveType(v, kind, cache) end
   end
   return value
end

function nn.utils.recursiveResizeAs(a, b)
   if nested(b) then
      a = nested(a) and a or {a}
      for k in pairs(b) do a[k], b[k] = nn.utils.recursiveResizeAs(a[k], b[k]) end
      for k in pairs(a) do
         if not b[k] then a[k] = nil end
      end
   elseif torch.isTensor(b) then
      a = torch.isTensor(a) and a or b.new()
      a:resize(b:size())
   else
      raise_mismatch(a, b)
   end
   return a, b
end
function nn.utils.recursiveCopy(a, b)
   if nested(b) then
      a = nested(a) and a or {a}
      for k in pairs(b) do a[k], b[k] = nn.utils.recursiveCopy(a[k], b[k]) end
   elseif torch.isTensor(b) then
      a = torch.isTensor(a) and a or b.new()
      a:resize(b:size()):copy(b)
   else
      raise_mismatch(a, b)
   end
   return a, b
end
-- a + b, or a + factor * b
function nn.utils.recursiveAdd(a, factor, b)
   if not b then factor, b = 1, assert(factor, 'expecting at least two arguments') end
   factor = factor or 1
   if nested(b) then
      a = nested(a) and a or {a}
      for k in pairs(b) do a[k], b[k] = nn.utils.recursiveAdd(a[k], factor, b[k]) end
   elseif torch.isTensor(a) and torch.isTensor(b) then
      a:add(factor, b)
   else
      raise_mismatch(a, b)
   end
   return a, b
end
function nn.utils.recursiveFill(value, number)
   if nested(value) then
      for k, v in pairs(value) do value[k] = nn.utils.recursiveFill(v, number) end
   elseif torch.isTensor(value) then
      value:fill(number)
   else
      error('expecting tensor or table thereof. Got ' .. torch.type(value) .. ' instead', 2)
   end
   return value
end

-- ([view,] tensor, dim)
function nn.utils.addSingletonDimension(...)
   local view, tensor, dim = ...
   if select('#', ...) < 3 then
      view, tensor, dim = nil, view, tensor
   else
      assert(torch.isTensor(view), 'output tensor expected, got ' .. torch.type(view))
   end
   assert(torch.isTensor(tensor), 'input tensor expected')
   dim = dim or 1
   assert(dim > 0 and dim <= tensor:dim() + 1, 'invalid dimension: ' .. dim .. '. Tensor is of ' .. tensor:dim() .. ' dimensions.')
   local size, stride = tensor:size():totable(), tensor:stride():totable()
   table.insert(size, dim, 1)
   table.insert(stride, dim, 1)
   view = view or tensor.new()
   return view:set(tensor:storage(), tensor:storageOffset(), torch.LongStorage(size), torch.LongStorage(stride))
end
function nn.utils.contiguousView(output, input, ...)
   output = output or input.new()
   if input:isContiguous() then return output:view(input, ...) end
   output:resize(input:size()):copy(input)
   return output:view(output, ...)
end

-- (object, name, ...) or (object, {name, ...})
function nn.utils.clear(self, ...)
   local names = {...}
   if nested(names[1]) then names = names[1] end
   for _, name in ipairs(names) do
      local value = self[name]
      if torch.isTensor(value) then value:set() else self[name] = nested(value) and {} or nil end
   end
   return self
end
