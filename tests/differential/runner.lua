-- Runs random instances of layers: usage `th runner.lua JOBS.t7 RESULTS.t7`. Every result is a fixture.
require 'nn'
for _, package in ipairs{'nngraph', 'dpnn', 'nnx', 'rnn', 'rnn.ExpandAs', 'dpnn.Bigrams'} do pcall(require, package) end
torch.setdefaulttensortype('torch.DoubleTensor')
pcall(torch.setnumthreads, 1)
local jobs, results = torch.load(arg[1]), {}

local function copy(x) return torch.deserialize(torch.serialize(x)) end
local function map(x, f)
   if torch.isTensor(x) then return f(x) end
   if torch.type(x) ~= 'table' then return x end
   local y = {}
   for k, v in pairs(x) do y[k] = map(v, f) end
   return y
end
local function float(x) return map(x, function(t) return t:type() == 'torch.DoubleTensor' and t:float() or t end) end
-- the same numbers in the order of another arrangement of the dimensions
local function arranged(x)
   return map(x, function(t)
      local d = t:dim()
      return d > 1 and t:transpose(1, d):contiguous():transpose(1, d) or t
   end)
end
local function like(x)
   return map(x, function(t)
      return t:nElement() == 0 and t.new() or t.new():resize(t:size()):copy(torch.randn(t:nElement()))
   end)
end

-- what declarations may call to make inputs
local in_lua = setmetatable({}, {__index = _G})
function in_lua.R(...) return torch.randn(...) end
function in_lua.U(...) return torch.rand(...):mul(0.9):add(0.05) end
function in_lua.ints(k, ...) return torch.rand(...):mul(k):floor():add(1) end
function in_lua.long(k, ...) return in_lua.ints(k, ...):long() end
function in_lua.int(x) return type(x) == 'table' and torch.IntTensor(x) or x:int() end
function in_lua.mask(...) local m = torch.rand(...):gt(0.5); m:storage()[1] = 1; return m end
-- some of the numbers 1 to k, each once
local function some(k) return torch.randperm(k):narrow(1, 1, torch.random(1, k)) end
function in_lua.sparse(k) local keys = some(k); return torch.cat(keys:view(-1, 1), torch.randn(keys:size(1), 1), 2) end
function in_lua.keyed(k, n)
   local keys, values = {}, {}
   for i = 1, n do keys[i] = some(k):long(); values[i] = torch.randn(keys[i]:size(1)) end
   if n == 1 then return {keys[1], values[1]} end
   return {keys, values}
end

-- containers in short
function in_lua.add(container, ...)
   for _, m in ipairs{...} do container:add(m) end
   return container
end
function in_lua.seq(...) return in_lua.add(nn.Sequential(), ...) end
-- a module after a method, with fields
function in_lua.told(m, method, ...) m[method](m, ...); return m end
function in_lua.with(m, fields) for k, v in pairs(fields) do m[k] = v end; return m end
-- the constructor of nn.SoftMaxForest fails, as it mixes self.smts and self._smts: what it was meant to make
function in_lua.forest(size, tree)
   local f = in_lua.with(torch.factory('nn.SoftMaxForest')(), {experts = nn.ConcatTable(), smts = {}})
   nn.Container.__init(f)
   for i = 1, 2 do f.smts[i] = nn.SoftMaxTree(size, tree, 9); f.experts:add(f.smts[i]) end
   f.gater = in_lua.seq(nn.SelectTable(1), nn.Linear(size, 2), nn.SoftMax())
   f.trunk, f.mixture = in_lua.add(nn.ConcatTable(), f.gater, f.experts), nn.MixtureTable()
   f.module = in_lua.seq(f.trunk, f.mixture)
   f.modules[1] = f.module
   return f
end
function in_lua.twin(m, ...) return m, select('#', ...) > 0 and m:clone(...) or m:sharedClone() end
-- graph({module, number of a node before ...} ...): node 1 is the input, the last one the output
function in_lua.graph(...)
   local nodes = {nn.Identity()()}
   for _, n in ipairs{...} do
      local from = {}
      for i = 2, #n do from[i - 1] = nodes[n[i]] end
      nodes[#nodes + 1] = n[1](#from == 1 and from[1] or from)
   end
   return nn.gModule({nodes[1]}, {nodes[#nodes]})
end
-- what is done to a net before it is saved
function in_lua.used(m, x)
   local y = m:forward(x)
   m:backward(x, like(y))
   if m.forget then m:forget() end
   m:zeroGradParameters()
   return m
end
function in_lua.there_and_back(m) m:evaluate(); m:training(); return m end
function in_lua.flat(m) m:getParameters(); return m end

local function evaluated(x)
   if type(x) ~= 'string' then return x end
   return setfenv(assert(loadstring('return ' .. x:gsub('^=', ''))), in_lua)()
end

local function run(job)
   torch.manualSeed(job.seed)
   local module = job.module or evaluated(job.lua)
   local criterion = torch.isTypeOf(module, 'nn.Criterion')
   local input, target = evaluated(job.input), evaluated(job.target)
   if job.dtype == 'float' then
      module:float()
      input, target = float(input), float(target)
   end
   if job.strided == 'input' or job.strided == 'both' then input = arranged(input) end
   if job.prepared then
      in_lua.m, in_lua.x = module, copy(input)
      module = copy(evaluated(job.prepared))
   end
   if not criterion then
      if job.mode == 'eval' then module:evaluate() else module:training() end
      module:zeroGradParameters()
   end
   local f = {schema = 1, class = torch.typename(module), kind = criterion and 'criterion' or 'module', mode = job.mode, dtype = job.dtype,
      seed = job.seed, name = job.name, notes = job.lua, module = copy(module), input = copy(input), target = copy(target)}
   f.params = criterion and {} or copy(module:parameters() or {})
   torch.manualSeed(job.seed)
   local output = criterion and module:forward(input, target) or module:forward(input)
   f.output = copy(output)
   local gradOutput
   if not criterion then
      local state = torch.getRNGState()
      gradOutput = like(output)
      if job.strided == 'gradient' or job.strided == 'both' then gradOutput = arranged(gradOutput) end
      torch.setRNGState(state)
      f.gradOutput = copy(gradOutput)
   end
   if job.reward then
      f.reward = job.dtype == 'float' and float(evaluated(job.reward)) or evaluated(job.reward)
      module:reinforce(copy(f.reward))
   end
   local ok, gradInput = pcall(module.backward, module, input, criterion and target or gradOutput)
   if ok then
      f.gradInput = copy(gradInput)
      if not criterion then
         local _, gradParams = module:parameters()
         f.gradParams = copy(gradParams or {})
      end
   else
      -- containers put lines around the message: what failed stands before the first traceback
      f.backward_error = tostring(gradInput):gsub('\nstack traceback.*', ''):gsub('\n+WARNING.*', ''):gsub('^.*/', '')
   end
   f.after = copy(module)
   return f
end

for i, job in ipairs(jobs) do
   local ok, result = pcall(run, job)
   results[i] = ok and result or {refused = tostring(result):sub(1, 400), name = job.name, notes = job.lua}
end
torch.save(arg[2], results)
