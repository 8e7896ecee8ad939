-- All classes with a mapping except those in nn/base.lua. They are defined when they are first used, and run as PyTorch modules.
local bridge, py = ...
local define_serialization = py.run_prelude('nn/serialization.lua')
local Module, Container = torch.getmetatable('nn.Module'), torch.getmetatable('nn.Container')
local states = setmetatable({}, {__mode = 'k'})  -- object -> Python's state of its last forward pass

-- The methods of a class compute as the class does, also for an object of a subclass in Lua. A backward pass runs the forward pass
-- again if the last one had another input or other weights, for example because a subclass overrides updateOutput.
local function backward(self, tname, ...)
   bridge.reserve()
   local state, message = py.converted_backward(states[self], self, tname, ...)
   if not state then error(message, 3) end
   states[self] = state
   return state
end
-- the class of the object or its base class that inherits a method of `tname` in Torch7, otherwise `tname` itself
local function inheriting_class(self, tname, method)
   local class = torch.getmetatable(torch.typename(self))
   while class and bridge.names[class] ~= tname do
      local inherited = bridge.inherited[bridge.names[class]]
      if inherited and inherited[method] and inherited.parent == tname then return bridge.names[class] end
      class = bridge.getmetatable(class)
   end
   return tname
end
-- layers that write their results into their input and into the gradient of their output, where other layers read them; some
-- restore the input then
local in_place = {
   ['nn.AddConstant'] = function(self, input) input:add(-self.constant_scalar) end,
   ['nn.MulConstant'] = function(self, input) input:div(self.constant_scalar) end,
}
for name in ('CAddTable Clamp Dropout ELU HardTanh LeakyReLU RReLU ReLU ReLU6 Threshold'):gmatch('%S+') do
   in_place['nn.' .. name] = function() end
end
local function overwrite(target, value)
   if type(target) == 'table' then target = target[1] end
   if type(value) == 'table' then value = value[1] end
   if torch.isTensor(target) and torch.type(target) == torch.type(value) and target:isSameSizeAs(value) then
      value:set(target:copy(value))
   end
end
local function run(class, tname)
   local restore = in_place[tname]
   function class:updateOutput(input, ...)
      bridge.reserve()
      local state, output = py.converted_forward(states[self], self, inheriting_class(self, tname, 'updateOutput'), input, ...)
      if not state then error(output, 2) end
      states[self], self.output = state, output
      if restore and self.inplace then overwrite(input, output) end
      return output
   end
   function class:updateGradInput(input, gradOutput)  -- of a criterion: the target instead of gradOutput
      self.gradInput = py.converted_gradient(backward(self, inheriting_class(self, tname, 'updateGradInput'), input, gradOutput))
      if restore and self.inplace then
         overwrite(gradOutput, self.gradInput)
         restore(self, input)
      end
      return self.gradInput
   end
end
-- classes whose method `backward` does not call the updateGradInput and accGradParameters of a subclass
local own_backward = {}
for name in ('Concat DepthConcat ConcatTable BatchNormalization SpatialBatchNormalization VolumetricBatchNormalization '
             .. 'SeqLSTM SeqLSTMP SeqGRU Maxout LayerNormalization SpatialLPPooling'):gmatch('%S+') do
   own_backward['nn.' .. name] = true
end

local function converted_module(class, tname)
   run(class, tname)
   function class:forget()
      states[self] = nil
      for _, child in ipairs(self.modules or {}) do if child.forget then child:forget() end end
   end
   function class:accGradParameters(input, gradOutput, scale)
      py.converted_accumulate(backward(self, inheriting_class(self, tname, 'accGradParameters'), input, gradOutput), self, scale or 1)
   end
   if own_backward[tname] then
      local updateGradInput, accGradParameters = class.updateGradInput, class.accGradParameters
      function class:backward(input, gradOutput, scale)
         updateGradInput(self, input, gradOutput)
         accGradParameters(self, input, gradOutput, scale)
         return self.gradInput
      end
   end
   for _, name in ipairs {'training', 'evaluate', 'clearState', 'zeroGradParameters', 'updateParameters'} do
      -- some classes, such as decorators, contain modules but are not containers
      class[name] = function(self, ...) return (self.modules and Container or Module)[name](self, ...) end
   end
   local has_weight_of_module = tname == 'nn.WeightNorm'
   if has_weight_of_module then class.zeroGradParameters, class.updateParameters = nil, nil end
   function class:parameters()
      if self.modules and not has_weight_of_module then return Container.parameters(self) end
      local lists = py.converted_parameters(self, tname)
      if not lists then return Module.parameters(self) end
      if #lists[1] > 0 then return lists[1], lists[2] end
   end
end

-- an unpooling uses the maxima of its pooling's last forward pass
local function unpooling(class, tname)
   local updateOutput = class.updateOutput
   function class:updateOutput(input)
      py.converted_maxima(states[self.pooling], self, tname)
      return updateOutput(self, input)
   end
end

-- fields that constructors set from their arguments: names in order, with defaults
local constructors = {
   Threshold = {{'threshold', 1e-6}, {'val', 0}, {'inplace', false}}, LeakyReLU = {{'negval', 0.01}, {'inplace', false}},
   ELU = {{'alpha', 1}, {'inplace', false}}, HardTanh = {{'min_val', -1}, {'max_val', 1}, {'inplace', false}},
   HardShrink = {{'lambda', 0.5}}, SoftShrink = {{'lambda', 0.5}}, MulConstant = {{'constant_scalar'}, {'inplace', false}},
   AddConstant = {{'constant_scalar'}, {'inplace', false}}, Power = {{'pow'}}, Select = {{'dimension'}, {'index'}},
   JoinTable = {{'dimension'}, {'nInputDims'}}, SelectTable = {{'index'}}, Normalize = {{'p', 2}, {'eps', 1e-10}},
   CAddTable = {{'inplace'}}, Sum = {{'dimension', 1}, {'nInputDims'}, {'sizeAverage', false}, {'squeeze', true}},
   Mean = {{'dimension', 1}, {'nInputDims'}}, ReLU6 = {{'inplace', false}}, Concat = {{'dimension'}}, DepthConcat = {{'dimension'}},
   Parallel = {{'inputDimension'}, {'outputDimension'}},
   Narrow = {{'dimension'}, {'index'}, {'length', 1}}, MSECriterion = {{'sizeAverage', true}},
   AbsCriterion = {{'sizeAverage', true}}, SmoothL1Criterion = {{'sizeAverage', true}},
}
local initial = {
   ReLU = function(self, inplace) self.threshold, self.val, self.inplace = 0, 0, inplace or false end,
   SoftPlus = function(self, beta) self.beta, self.threshold = beta or 1, 20 end,
   Linear = function(self, inputs, outputs, bias)
      self.weight, self.gradWeight = torch.Tensor(outputs, inputs), torch.Tensor(outputs, inputs):zero()
      if bias ~= false then self.bias, self.gradBias = torch.Tensor(outputs), torch.Tensor(outputs):zero() end
      self:reset()
   end,
   Dropout = function(self, p, v1, inplace, stochastic)
      self.p, self.train, self.inplace, self.stochastic_inference = p or 0.5, true, inplace or false, stochastic or false
      self.v2, self.noise = not v1, torch.Tensor()
   end,
   BatchNormalization = function(self, n, eps, momentum, affine)
      self.affine, self.eps, self.momentum, self.train = affine ~= false, eps or 1e-5, momentum or 0.1, true
      self.running_mean, self.running_var = torch.zeros(n), torch.ones(n)
      if self.affine then
         self.weight, self.bias = torch.Tensor(n):uniform(), torch.zeros(n)
         self.gradWeight, self.gradBias = torch.zeros(n), torch.zeros(n)
      end
   end,
   ClassNLLCriterion = function(self, weights, average, ignore)
      self.weights, self.sizeAverage, self.ignoreIndex, self.output_tensor = weights, average ~= false, ignore or -100, torch.zeros(1)
      self.total_weight_tensor, self.target = torch.ones(1), torch.zeros(1):long()
   end,
   BCECriterion = function(self, weights, average) self.weights, self.sizeAverage = weights, average ~= false end,
   DistKLDivCriterion = function(self) self.sizeAverage = true end,
   Copy = function(_, from, to)
      local default = torch.getdefaulttensortype()
      if (from or default) ~= (to or default) then error('nn.Copy to another type needs the Lua file of nn.Copy: pass lua_path with a checkout of nn', 4) end
   end,
}
local function reset_linear(self, stdv)
   stdv = stdv and stdv * math.sqrt(3) or 1 / math.sqrt(self.weight:size(2))
   self.weight:uniform(-stdv, stdv)
   if self.bias then self.bias:uniform(-stdv, stdv) end
   return self
end

-- other work of constructors: additional fields, and errors for invalid arguments
local has_table_gradient = {}
for name in ('JoinTable SelectTable CAddTable CSubTable CMulTable CDivTable FlattenTable'):gmatch('%S+') do has_table_gradient[name] = true end
local function one_dimensional(self) assert(not self.weights or self.weights:dim() == 1, 'weights input should be 1-D Tensor') end
local complete_init = {
   Mean = function(self) self.sizeAverage, self.squeeze = true, true end,
   JoinTable = function(self) self.size = torch.LongStorage() end,
   DotProduct = function(self) self.gradInput = {torch.Tensor(), torch.Tensor()} end,
   FlattenTable = function(self) self.output, self.input_map = {}, {} end,
   Concat = function(self) self.outputSize = torch.LongStorage() end,
   DepthConcat = function(self) self.outputSize = torch.LongStorage() end,
   Threshold = function(self)
      if self.inplace and self.val > self.threshold then error('in-place processing requires value (v) not exceed threshold (th)', 0) end
   end,
   HardTanh = function(self) assert(self.max_val > self.min_val, 'max_val must be larger than min_val') end,
   MulConstant = function(self) assert(type(self.constant_scalar) == 'number', 'input is not scalar!') end,
   Power = function(self) assert(self.pow, 'nn.Power(power)') end,
   Narrow = function(self) assert(self.dimension and self.index, 'nn.Narrow(dimension, offset, length)') end,
   Dropout = function(self) assert(self.p < 1 and self.p >= 0, '<Dropout> illegal percentage, must be 0 <= p < 1') end,
   ClassNLLCriterion = one_dimensional, BCECriterion = one_dimensional,
}

local without_arguments = {}
for name in ('Tanh Sigmoid SoftMax LogSoftMax SoftSign SoftMin LogSigmoid TanhShrink Abs Square Sqrt Exp Log Identity '
             .. 'CSubTable CMulTable CDivTable DotProduct FlattenTable Contiguous SpatialSoftMax'):gmatch('%S+') do
   without_arguments[name] = true
end

-- classes that inherit forward or backward methods in Torch7: the base class and the names of these methods
local accumulated = 'updateOutput updateGradInput accGradParameters'
for name, from in pairs {
   Clamp = 'HardTanh updateOutput updateGradInput', ReLU = 'Threshold updateOutput updateGradInput',
   Mean = 'Sum updateOutput updateGradInput', CopyGrad = 'Identity updateOutput', LinearNoBias = 'Linear updateGradInput',
   LookupTableMaskZero = 'LookupTable updateGradInput', CReLU = 'Sequential accGradParameters',
   LayerNormalization = 'Sequential backward ' .. accumulated, Maxout = 'Sequential backward ' .. accumulated,
   SpatialLPPooling = 'Sequential updateOutput updateGradInput backward', FireModule = 'Decorator ' .. accumulated,
   Serial = 'Decorator ' .. accumulated, MaskZero = 'Decorator accGradParameters', Profile = 'Decorator accGradParameters',
   FastLSTM = 'LSTM ' .. accumulated, MuFuRu = 'GRU ' .. accumulated, SeqLSTMP = 'SeqLSTM backward ' .. accumulated,
   SpatialBatchNormalization = 'BatchNormalization backward ' .. accumulated,
   VolumetricBatchNormalization = 'BatchNormalization backward ' .. accumulated,
} do
   local inherited = {}
   for word in from:gmatch('%S+') do
      if inherited.parent then inherited[word] = true else inherited.parent = 'nn.' .. word end
   end
   bridge.inherited['nn.' .. name] = inherited
end

-- if the user's code replaces such a method of the base class, the class uses the methods of the base class
local built_in = {['nn.Sequential'] = {}}  -- class -> its original methods
for name, method in pairs(torch.getmetatable('nn.Sequential')) do built_in['nn.Sequential'][name] = method end
local function inherit(class, tname)
   built_in[tname] = {}
   for name, method in pairs(class) do built_in[tname][name] = method end
   local inherited = bridge.inherited[tname]
   if not inherited or not bridge.define_converted(inherited.parent) then return end
   local parent, original = torch.getmetatable(inherited.parent), built_in[inherited.parent]
   local function is_replaced()
      for name in pairs(inherited) do
         if rawget(parent, name) ~= original[name] then return true end
      end
   end
   for name in pairs(inherited) do
      local method = class[name]
      if name ~= 'parent' then
         class[name] = function(...) return (is_replaced() and parent[name] or method)(...) end
      end
   end
   for name in pairs(bridge.settings) do
      local method = class[name]
      class[name] = function(...) return (rawget(parent, name) == original[name] and method or parent[name])(...) end
   end
end

-- classes in fields of modules that are not modules
local data = {}
for name in ('graph.Edge graph.Graph graph.Node nngraph.Node torch.AliasMultinomial nn.DataParallelTable.Basic'):gmatch('%S+') do
   data[name] = true
end

-- define a class with a mapping as a Lua class; returns whether the class exists
function bridge.define_converted(tname)
   if torch.getmetatable(tname) then return true end
   local kind, version = py.registered(tname)
   if not (kind or data[tname]) then return false end
   local module, name = tname:match('^(.*)%.([^%.]+)$')
   if not module then return false end
   if module:find('%.') then return data[tname] and bridge.define_converted(module) and torch.class(tname) ~= nil or false end
   if type(_G[module]) ~= 'table' then _G[module] = {} end
   if data[tname] then return torch.class(tname) ~= nil end
   local is_container = kind == 'container'
   local parent_name = kind == 'criterion' and 'nn.Criterion' or is_container and 'nn.Container' or 'nn.Module'
   local class, parent = torch.class(tname, parent_name)
   class.__version = version
   define_serialization(class, tname)
   if kind == 'criterion' then run(class, tname) else converted_module(class, tname) end
   if tname == 'nn.SpatialMaxUnpooling' or tname == 'nn.VolumetricMaxUnpooling' then unpooling(class, tname) end
   inherit(class, tname)
   local order, init = constructors[name], module == 'nn' and initial[name]
   function class:__init(...)
      parent.__init(self)
      if has_table_gradient[name] then self.gradInput = {} end
      local args = {...}
      if init then init(self, ...)
      elseif order and module == 'nn' then
         for i, field in ipairs(order) do
            self[field[1]] = args[i]
            if args[i] == nil then self[field[1]] = field[2] end
         end
         if self.inplace ~= nil and type(self.inplace) ~= 'boolean' then error('in-place flag must be boolean', 3) end
      elseif not (module == 'nn' and without_arguments[name]) and not (is_container and select('#', ...) == 0) then
         error('the constructor of ' .. tname .. ' is in its Lua file: pass lua_path, or load the object from a file', 3)
      end
      if module == 'nn' and complete_init[name] then complete_init[name](self) end
   end
   if name == 'Linear' then class.reset = reset_linear end
   return true
end
setmetatable(nn, {__index = function(_, name)
   if type(name) == 'string' and bridge.define_converted('nn.' .. name) then return rawget(nn, name) end
end})
