-- Runs random instances of layers: usage `th runner.lua JOBS.t7 RESULTS.t7`. Every result is a fixture.
require 'nn'
for _, package in ipairs{'dpnn', 'nnx', 'rnn'} do pcall(require, package) end
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

local function run(job)
   torch.manualSeed(job.seed)
   local module = assert(loadstring('return ' .. job.lua))()
   local criterion = torch.isTypeOf(module, 'nn.Criterion')
   local input, target = job.input, job.target
   if job.dtype == 'float' then
      module:float()
      input, target = float(input), float(target)
   end
   if job.strided == 'input' or job.strided == 'both' then input = arranged(input) end
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
   local ok, gradInput = pcall(module.backward, module, input, criterion and target or gradOutput)
   if ok then
      f.gradInput = copy(gradInput)
      if not criterion then
         local _, gradParams = module:parameters()
         f.gradParams = copy(gradParams or {})
      end
   else
      f.backward_error = tostring(gradInput):gsub('\n.*', ''):gsub('^.*/', '')
   end
   f.after = copy(module)
   return f
end

for i, job in ipairs(jobs) do
   local ok, result = pcall(run, job)
   results[i] = ok and result or {refused = tostring(result):sub(1, 400), name = job.name, notes = job.lua}
end
torch.save(arg[2], results)
