-- The base classes of nn, on which users define layers: Module, Container, Sequential, ConcatTable, ParallelTable, Criterion.
-- `require 'nn'` loads this file if lua_path contains no nn. Other classes run as PyTorch modules, see nn/converted.lua.
local _, py = ...
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

function Module:accUpdateGradParameters(...)
   if self.shared then self:sharedAccUpdateGradParameters(...) else self:defaultAccUpdateGradParameters(...) end
end
function Module:sharedAccUpdateGradParameters(input, gradOutput, rate)
   if not self:parameters() then return end
   self:zeroGradParameters()
   self:accGradParameters(input, gradOutput, 1)
   self:updateParameters(rate)
end
function Module:defaultAccUpdateGradParameters(input, gradOutput, rate)
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
function Module:__call__(input, gradOutput)
   self:forward(input)
   if not gradOutput then return self.output end
   self:backward(input, gradOutput)
   return self.output, self.gradInput
end

function Module:share(other, ...)
   for _, name in ipairs {...} do
      if self[name] ~= nil then
         self[name]:set(other[name])
         self.shared, other.shared = true, true
      end
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
function Module:float(...) return self:type('torch.FloatTensor', ...) end
function Module:double(...) return self:type('torch.DoubleTensor', ...) end

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
   local result = f(self)  -- may contain self, so only the children of self are visited
   for i, child in ipairs(self.modules or {}) do self.modules[i] = child:replace(f) end
   return result
end

-- make all tensors views of one flat tensor; tensors that share memory continue to share it
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
            open.items[#open.items + 1] = item
         end
      end
   end
   for _, span in ipairs(spans) do size = size + span.last - span.first + 1 end
   local flat, at = first.new(size), 1
   for _, span in ipairs(spans) do
      local n = span.last - span.first + 1
      flat:narrow(1, at, n):copy(first.new(span.storage, span.first, n))
      for _, item in ipairs(span.items) do  -- a tensor of a module that is used twice is in two items
         item.t:set(flat:storage(), at + item.first - span.first, item.t:size(), item.t:stride())
      end
      at = at + n
   end
   return flat
end
function Module.flatten(tensors) return flatten(tensors or {}) end
function Module:getParameters()
   local weights, gradients = self:parameters()
   local flat, flat_gradient = Module.flatten(weights), Module.flatten(gradients)
   assert(flat:nElement() == flat_gradient:nElement(), 'check that you are sharing parameters and gradParameters')
   for i, weight in ipairs(weights or {}) do
      assert(weight:storageOffset() == gradients[i]:storageOffset(), 'misaligned parameter at ' .. i)
   end
   return flat, flat_gradient
end

-- Container, Sequential -----------------------------------------------------------------------------------------
local Container, container_parent = torch.class('nn.Container', 'nn.Module')
function Container:__init(...)
   container_parent.__init(self, ...)
   self.modules = {}
end
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
function Container:applyToModules(f)
   for _, child in ipairs(self.modules) do f(child) end
end
for _, name in ipairs {'training', 'evaluate', 'reset', 'zeroGradParameters', 'updateParameters'} do
   local of_module = (name == 'training' or name == 'evaluate') and Module[name] or function() end
   Container[name] = function(self, ...)
      for _, child in ipairs(self.modules) do child[name](child, ...) end
      of_module(self)
   end
end
function Container:clearState()
   for _, name in ipairs {'output', 'gradInput'} do  -- replaced, not emptied: they may be tensors of a child, or the input
      local value = self[name]
      if torch.isTensor(value) then self[name] = value.new() else self[name] = torch.type(value) == 'table' and {} or nil end
   end
   for _, child in pairs(self.modules or {}) do child:clearState() end
   return self
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

-- call a method of the child modules[i]; error messages contain its position
function Container:rethrowErrors(child, i, method, ...)
   assert(child == self.modules[i], 'mismatch between moduleIndex and self.modules in rethrowErrors')
   local n, args = select('#', ...), {...}
   local ok, result, more = xpcall(function() return child[method](child, unpack(args, 1, n)) end, function(e)
      return string.format('In %d module of %s:\n%s', i, torch.type(self), tostring(e))
   end)
   if not ok then error(result, 0) end
   assert(more == nil, 'rethrowErrors supports only one return argument')
   return result
end
local function run_child(container, i, ...) return container:rethrowErrors(container.modules[i], i, ...) end

local Sequential = torch.class('nn.Sequential', 'nn.Container')
-- the output is that of the last module, and gradInput is that of the first module
local function update_results(self)
   local first, last = self.modules[1], self.modules[#self.modules]
   self.output, self.gradInput = last and last.output or torch.Tensor(), first and first.gradInput or torch.Tensor()
end
function Sequential:add(module)
   table.insert(self.modules, module)
   update_results(self)
   return self
end
function Sequential:insert(module, index)
   index = index or #self.modules + 1
   if index > #self.modules + 1 or index < 1 then error('index should be contiguous to existing modules', 2) end
   table.insert(self.modules, index, module)
   update_results(self)
end
function Sequential:remove(index)
   index = index or #self.modules
   if index > #self.modules or index < 1 then error('index out of range', 2) end
   table.remove(self.modules, index)
   update_results(self)
end
function Sequential:__len() return #self.modules end
function Sequential:updateOutput(input)
   for i = 1, #self.modules do input = run_child(self, i, 'updateOutput', input) end
   self.output = input
   return input
end
local function input_of(self, i, input) return i == 1 and input or self.modules[i - 1].output end
function Sequential:updateGradInput(input, gradOutput)
   for i = #self.modules, 1, -1 do gradOutput = run_child(self, i, 'updateGradInput', input_of(self, i, input), gradOutput) end
   self.gradInput = gradOutput
   return gradOutput
end
local function accumulator(method)
   return function(self, input, gradOutput, scale)
      for i = #self.modules, 1, -1 do
         run_child(self, i, method, input_of(self, i, input), gradOutput, scale or 1)
         gradOutput = self.modules[i].gradInput
      end
   end
end
Sequential.accGradParameters = accumulator('accGradParameters')
Sequential.accUpdateGradParameters = accumulator('accUpdateGradParameters')
function Sequential:backward(input, gradOutput, scale)
   for i = #self.modules, 1, -1 do
      gradOutput = run_child(self, i, 'backward', input_of(self, i, input), gradOutput, scale or 1)
      self.modules[i].gradInput = gradOutput
   end
   self.gradInput = gradOutput
   return gradOutput
end
function Sequential:__tostring__()
   local path = {'[input'}
   for i = 1, #self.modules do path[i + 1] = '(' .. i .. ')' end
   path = '  ' .. table.concat(path, ' -> ') .. ' -> output]'
   return (Container.__tostring__(self):gsub('\n', function() return '\n' .. path .. '\n' end, 1))
end

local function all_of_input(input) return input end
-- ConcatTable passes the complete input to each child, ParallelTable one entry of the input ---------------------------
local function define_table_container(class, backwards, entry, gathered)
   function class:__init()
      Container.__init(self)
      self.output = {}
      if gathered == all_of_input then self.gradInput = {} end
   end
   function class:updateOutput(input)
      self.output = {}
      for i = 1, #self.modules do self.output[i] = run_child(self, i, 'updateOutput', entry(input, i)) end
      return self.output
   end
   for _, method in ipairs(backwards) do
      class[method] = function(self, input, gradOutput, scale)
         local gradients = {}
         for i = 1, #self.modules do gradients[i] = run_child(self, i, method, entry(input, i), gradOutput[i], scale) end
         self.gradInput = gathered(gradients)
         return self.gradInput
      end
   end
   for _, method in ipairs {'accGradParameters', 'accUpdateGradParameters'} do
      class[method] = function(self, input, gradOutput, scale)
         for i = 1, #self.modules do run_child(self, i, method, entry(input, i), gradOutput[i], scale or 1) end
      end
   end
   function class:__tostring__()
      local lines, count = {torch.type(self) .. ' {', '  input'}, #self.modules
      for i, child in ipairs(self.modules) do
         local front, indent = '  |`-> ', '  |    '
         if i == count then front, indent = '   `-> ', '       ' end
         lines[#lines + 1] = '  ' .. front .. '(' .. i .. '): ' .. tostring(child):gsub('\n', '\n  ' .. indent)
      end
      return table.concat(lines, '\n') .. '\n     ... -> output\n}'
   end
end
define_table_container(torch.class('nn.ConcatTable', 'nn.Container'), {'updateGradInput', 'backward'}, all_of_input, function(gradients)
   local sum
   for i, gradient in ipairs(gradients) do
      sum = i == 1 and nn.utils.recursiveCopy(nil, gradient) or nn.utils.recursiveAdd(sum, gradient)
   end
   return sum
end)
local function entry_of_input(input, i) return input[i] end
define_table_container(torch.class('nn.ParallelTable', 'nn.Container'), {'updateGradInput'}, entry_of_input, all_of_input)

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

py.run_prelude('nn/utils.lua')
py.run_prelude('nn/converted.lua')
return nn
