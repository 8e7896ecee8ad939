-- The base of nn for layers of one's own: Module, Container, Sequential, ConcatTable, ParallelTable, Criterion.
-- Used by `require 'nn'` when lua_path has no nn. All other classes run through their converted PyTorch modules.
local bridge, py = ...
nn = {utils = {}}

-- Module --------------------------------------------------------------------------------------------------------
local Module = torch.class('nn.Module')

function Module:__init()
   self.gradInput, self.output = torch.Tensor(), torch.Tensor()
   self._type = self.output:type()
end

function Module:parameters()
   if self.weight and self.bias then return {self.weight, self.bias}, {self.gradWeight, self.gradBias}
   elseif self.weight then return {self.weight}, {self.gradWeight}
   elseif self.bias then return {self.bias}, {self.gradBias}
   end
end

function Module:updateOutput() return self.output end
function Module:updateGradInput() return self.gradInput end
function Module:accGradParameters() end
function Module:forward(input) return self:updateOutput(input) end
function Module:backward(input, gradOutput, scale)
   self:updateGradInput(input, gradOutput)
   self:accGradParameters(input, gradOutput, scale or 1)
   return self.gradInput
end

function Module:accUpdateGradParameters(input, gradOutput, rate)
   local weight, bias = self.gradWeight, self.gradBias
   self.gradWeight, self.gradBias = self.weight, self.bias
   self:accGradParameters(input, gradOutput, -rate)
   self.gradWeight, self.gradBias = weight, bias
end
function Module:backwardUpdate(input, gradOutput, rate)
   self:updateGradInput(input, gradOutput)
   self:accUpdateGradParameters(input, gradOutput, rate)
   return self.gradInput
end

function Module:zeroGradParameters()
   local _, gradients = self:parameters()
   for _, g in ipairs(gradients or {}) do g:zero() end
end
function Module:updateParameters(rate)
   local weights, gradients = self:parameters()
   for i, w in ipairs(weights or {}) do w:add(-rate, gradients[i]) end
end

function Module:training() self.train = true end
function Module:evaluate() self.train = false end
function Module:reset() end
function Module:clearState() return nn.utils.clear(self, 'output', 'gradInput') end
function Module:__tostring__() return torch.type(self) end
function Module:__call__(...) return self:forward(...) end

function Module:share(other, ...)
   for _, name in ipairs {...} do
      if self[name] then self[name]:set(other[name]); self.accUpdateGradParameters = nil end
   end
   return self
end
function Module:clone(...)
   local file = torch.MemoryFile('rw'):binary()
   file:writeObject(self)
   file:seek(1)
   local copy = file:readObject()
   file:close()
   return select('#', ...) > 0 and copy:share(self, ...) or copy
end

function Module:type(kind, cache)
   if not kind then return self._type end
   cache = cache or {}
   for key, value in pairs(self) do self[key] = nn.utils.recursiveType(value, kind, cache) end
   self._type = kind
   return self
end
function Module:float() return self:type('torch.FloatTensor') end
function Module:double() return self:type('torch.DoubleTensor') end

function Module:apply(f)
   f(self)
   for _, child in ipairs(self.modules or {}) do child:apply(f) end
end
function Module:listModules()
   local list = {}
   self:apply(function(m) list[#list + 1] = m end)
   return list
end
function Module:findModules(name)
   local found, holders = {}, {}
   local function search(module, holder)
      if torch.type(module) == name then found[#found + 1], holders[#holders + 1] = module, holder end
      for _, child in ipairs(module.modules or {}) do search(child, module) end
   end
   search(self, self)
   return found, holders
end
function Module:replace(f)
   local result = f(self)
   for i, child in ipairs(result.modules or {}) do result.modules[i] = child:replace(f) end
   return result
end

-- all parameters as views of one flat tensor; tensors that share memory keep sharing it
local function flatten(tensors)
   if #tensors == 0 then return torch.Tensor() end
   local first, storages, size = tensors[1], {}, 0
   for _, t in ipairs(tensors) do
      local key = torch.pointer(t:storage())
      storages[key] = storages[key] or {}
      local last = t:storageOffset()
      for d = 1, t:dim() do last = last + (t:size(d) - 1) * t:stride(d) end
      storages[key][#storages[key] + 1] = {t = t, first = t:storageOffset(), last = last}
   end
   local seen, spans = {}, {}
   for _, t in ipairs(tensors) do
      local key = torch.pointer(t:storage())
      if not seen[key] then
         seen[key] = true
         table.sort(storages[key], function(a, b) return a.first < b.first end)
         local open
         for _, item in ipairs(storages[key]) do
            if open and item.first <= open.last then
               open.last = math.max(open.last, item.last)
            else
               open = {first = item.first, last = item.last, storage = t:storage(), items = {}}
               spans[#spans + 1] = open
            end
            open.items[#open.items + 1] = item.t
         end
      end
   end
   for _, span in ipairs(spans) do size = size + span.last - span.first + 1 end
   local flat, at = first.new(size), 1
   for _, span in ipairs(spans) do
      local n = span.last - span.first + 1
      flat:narrow(1, at, n):copy(first.new(span.storage, span.first, n))
      for _, t in ipairs(span.items) do
         t:set(flat:storage(), at + t:storageOffset() - span.first, t:size(), t:stride())
      end
      at = at + n
   end
   return flat
end
function Module:getParameters()
   local weights, gradients = self:parameters()
   return flatten(weights or {}), flatten(gradients or {})
end

-- Container, Sequential -----------------------------------------------------------------------------------------
local Container, container_parent = torch.class('nn.Container', 'nn.Module')
function Container:__init() container_parent.__init(self); self.modules = {} end
function Container:add(module) self.modules[#self.modules + 1] = module; return self end
function Container:get(i) return self.modules[i] end
function Container:size() return #self.modules end
function Container:parameters()
   local weights, gradients = {}, {}
   for _, child in ipairs(self.modules) do
      local w, g = child:parameters()
      for i = 1, #(w or {}) do weights[#weights + 1], gradients[#gradients + 1] = w[i], g[i] end
   end
   return weights, gradients
end
for _, name in ipairs {'training', 'evaluate', 'reset', 'clearState', 'zeroGradParameters', 'updateParameters'} do
   Container[name] = function(self, ...)
      for _, child in ipairs(self.modules) do child[name](child, ...) end
      return Module[name] and name:match('^[tec]') and Module[name](self, ...) or self
   end
end
function Container:share(other, ...)
   for i, child in ipairs(self.modules) do child:share(other.modules[i], ...) end
   return self
end
function Container:__tostring__()
   local lines = {torch.type(self) .. ' {'}
   for i, child in ipairs(self.modules) do lines[#lines + 1] = '  (' .. i .. '): ' .. tostring(child):gsub('\n', '\n  ') end
   return table.concat(lines, '\n') .. '\n}'
end

-- run a child and say where it stands when it raises
local function guarded(container, i, method, ...)
   local child, n, args = container.modules[i], select('#', ...), {...}
   local ok, result = xpcall(function() return child[method](child, unpack(args, 1, n)) end, function(e)
      return string.format('In %d module of %s:\n%s', i, torch.type(container), tostring(e))
   end)
   if not ok then error(result, 0) end
   return result
end

local Sequential = torch.class('nn.Sequential', 'nn.Container')
function Sequential:updateOutput(input)
   for i = 1, #self.modules do input = guarded(self, i, 'updateOutput', input) end
   self.output = input
   return input
end
local function input_of(self, i, input) return i == 1 and input or self.modules[i - 1].output end
function Sequential:updateGradInput(input, gradOutput)
   for i = #self.modules, 1, -1 do gradOutput = guarded(self, i, 'updateGradInput', input_of(self, i, input), gradOutput) end
   self.gradInput = gradOutput
   return gradOutput
end
function Sequential:accGradParameters(input, gradOutput, scale)
   for i = #self.modules, 1, -1 do
      guarded(self, i, 'accGradParameters', input_of(self, i, input), gradOutput, scale or 1)
      gradOutput = self.modules[i].gradInput
   end
end
function Sequential:backward(input, gradOutput, scale)
   for i = #self.modules, 1, -1 do gradOutput = guarded(self, i, 'backward', input_of(self, i, input), gradOutput, scale or 1) end
   self.gradInput = gradOutput
   return gradOutput
end

local ConcatTable = torch.class('nn.ConcatTable', 'nn.Container')
function ConcatTable:updateOutput(input)
   self.output = {}
   for i = 1, #self.modules do self.output[i] = guarded(self, i, 'updateOutput', input) end
   return self.output
end
function ConcatTable:updateGradInput(input, gradOutput)
   self.gradInput = nil
   for i = 1, #self.modules do
      local g = guarded(self, i, 'updateGradInput', input, gradOutput[i])
      self.gradInput = self.gradInput and nn.utils.recursiveAdd(self.gradInput, g) or nn.utils.recursiveCopy(g)
   end
   return self.gradInput
end
function ConcatTable:accGradParameters(input, gradOutput, scale)
   for i = 1, #self.modules do guarded(self, i, 'accGradParameters', input, gradOutput[i], scale) end
end

local ParallelTable = torch.class('nn.ParallelTable', 'nn.Container')
function ParallelTable:updateOutput(input)
   self.output = {}
   for i = 1, #self.modules do self.output[i] = guarded(self, i, 'updateOutput', input[i]) end
   return self.output
end
function ParallelTable:updateGradInput(input, gradOutput)
   self.gradInput = {}
   for i = 1, #self.modules do self.gradInput[i] = guarded(self, i, 'updateGradInput', input[i], gradOutput[i]) end
   return self.gradInput
end
function ParallelTable:accGradParameters(input, gradOutput, scale)
   for i = 1, #self.modules do guarded(self, i, 'accGradParameters', input[i], gradOutput[i], scale) end
end

-- Criterion -----------------------------------------------------------------------------------------------------
local Criterion = torch.class('nn.Criterion')
function Criterion:__init() self.gradInput, self.output = torch.Tensor(), 0 end
function Criterion:updateOutput() end
function Criterion:updateGradInput() end
function Criterion:forward(input, target) return self:updateOutput(input, target) end
function Criterion:backward(input, target) return self:updateGradInput(input, target) end
function Criterion:__call__(input, target)
   self.output = self:forward(input, target)
   self.gradInput = self:backward(input, target)
   return self.output, self.gradInput
end
function Criterion:__tostring__() return torch.type(self) end
Criterion.clone, Criterion.float, Criterion.double = Module.clone, Module.float, Module.double
function Criterion:type(kind, cache)
   assert(kind, 'Criterion: must provide a type to convert to')
   for key, value in pairs(self) do self[key] = nn.utils.recursiveType(value, kind, cache or {}) end
   return self
end

-- utils ---------------------------------------------------------------------------------------------------------
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
   if type(value) == 'table' and not torch.typename(value) then
      for k, v in pairs(value) do value[k] = nn.utils.recursiveType(v, kind, cache) end
   end
   return value
end
function nn.utils.recursiveCopy(value)
   if torch.isTensor(value) then return value:clone() end
   local copy = {}
   for k, v in pairs(value) do copy[k] = nn.utils.recursiveCopy(v) end
   return copy
end
function nn.utils.recursiveAdd(a, b)
   if torch.isTensor(a) then a:add(b) else for k, v in pairs(a) do nn.utils.recursiveAdd(v, b[k]) end end
   return a
end
function nn.utils.clear(self, ...)
   for _, name in ipairs {...} do
      if torch.isTensor(self[name]) then self[name]:set() elseif type(self[name]) == 'table' then self[name] = {} end
   end
   return self
end

py.run_prelude('nn/converted.lua')
return nn
