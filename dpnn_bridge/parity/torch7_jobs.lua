-- Runs modules and criterions in Torch7 and stores the results of each step.
--
-- Arguments: an array of jobs, and a folder in which the result of job i is stored as i.t7 when the job ends.
--
-- A job is a table:
--   file, ascii, keys       the .t7 file, whether it is ASCII, and the keys of the module inside the file
--   files                   Lua files that define classes and run first; require searches their folders
--   classes                 names of all classes in the file; packages are loaded until all are defined
--   steps                   names of the functions below to run, in this order
--   input, target, gradOutput, reward, scale, forwards, seed, type, keeps_state, mode, rate, garbage, params, other
--                           arguments of these functions
--
-- A result is a table: step -> {value = …} or {error = message}; the step `backward` also adds the field `gradOutput`.
-- After an error in `load`, no other step runs.

local PACKAGES = {'nn', 'nngraph', 'nnx', 'dpnn', 'rnn', 'optim', 'cunn', 'cudnn', 'fbnn', 'stn', 'inn', 'fbcunn'}

local function missing(classes)
   local names = {}
   for _, name in ipairs(classes) do
      if not torch.getmetatable(name) then table.insert(names, name) end
   end
   return names
end

local function require_packages(classes)
   local reasons, absent = {}, {}
   for _, package in ipairs(PACKAGES) do
      local names = missing(classes)
      if #names == 0 then return end
      local ok, reason = pcall(require, package)
      if not ok and tostring(reason):find("module '" .. package .. "' not found", 1, true) then
         table.insert(absent, package)
      elseif not ok then
         table.insert(reasons, package .. ': ' .. tostring(reason):match('^[^\n]*'))
      end
   end
   local names = missing(classes)
   if #names > 0 then
      if #absent > 0 then table.insert(reasons, 'without ' .. table.concat(absent, ', ')) end
      error('no class ' .. table.concat(names, ', ') .. ' in the packages of this Torch7 (' .. table.concat(reasons, '; ')
         .. '); install the package, or compare with its Lua sources (--lua-path); your own class needs its Lua file (--lua)', 0)
   end
end

-- makes a Torch7 without cutorch read CUDA tensors as CPU tensors with the same elements
local function read_cuda_tensors()
   for cuda, cpu in pairs{[''] = 'Float', Double = 'Double', Long = 'Long', Int = 'Int', Short = 'Short', Byte = 'Byte', Char = 'Char'} do
      for _, kind in ipairs{'Tensor', 'Storage'} do
         local name = 'torch.Cuda' .. cuda .. kind
         if not torch.getmetatable(name) then
            torch.newmetatable(name, nil, nil, nil, function(file) return torch.factory('torch.' .. cpu .. kind)(file) end)
         end
      end
   end
end

-- changes the CUDA types of modules to the CPU types of their tensors
local function without_cuda_types(value, seen)
   if type(value) ~= 'table' or seen[value] then return end
   seen[value] = true
   local cuda = type(rawget(value, '_type')) == 'string' and value._type:match('^torch%.Cuda(%a*)Tensor$')
   if cuda then value._type = 'torch.' .. (cuda == '' and 'Float' or cuda) .. 'Tensor' end
   for _, inner in pairs(value) do without_cuda_types(inner, seen) end
end

-- ---------------------------------------------------------------------- nested values
local function map(value, fn)
   if torch.isTensor(value) then return fn(value) end
   if type(value) ~= 'table' then return value end
   local result = {}
   for k, v in pairs(value) do result[k] = map(v, fn) end
   return result
end

local function copied(value)
   return map(value, function(t) return t:clone() end)
end

local function is_float(t)
   local name = torch.type(t)
   return name == 'torch.FloatTensor' or name == 'torch.DoubleTensor'
end

local function cast(value, kind)
   return map(value, function(t)
      t = t:clone() -- type() of the same type does not copy, and modules may overwrite their inputs
      return kind and is_float(t) and t:type(kind) or t
   end)
end

local function random_like(value)
   return map(value, function(t) return t.new():resize(t:size()):normal() end)
end

-- ---------------------------------------------------------------------- steps
local steps = {}

function steps.load(run, job)
   for _, file in ipairs(job.files or {}) do
      local folder = file:match('^(.*/)') or './'
      package.path = folder .. '?.lua;' .. folder .. '?/init.lua;' .. package.path
      dofile(file)
   end
   require_packages(job.classes or {})
   local has_gpu = pcall(require, 'cutorch')
   if not has_gpu then read_cuda_tensors() end
   local value = torch.load(job.file, job.ascii and 'ascii' or 'binary')
   if not has_gpu then
      local kind = value._type
      without_cuda_types(value, {})
      if value._type ~= kind then value:type(value._type) end -- also changes the types of counts and indices
   end
   for _, key in ipairs(job.keys or {}) do value = value[key] end
   run.module = value
   run.is_criterion = torch.isTypeOf(value, 'nn.Criterion')
   return torch.type(value)
end

-- fills free memory with a number, so that reads of uninitialized memory have visible effects
function steps.garbage(run, job)
   local tensors = {}
   for size = 1, 200 do
      for i = 1, 8 do table.insert(tensors, torch.DoubleTensor(size):fill(job.garbage + i)) end
   end
   tensors = nil
   collectgarbage()
   collectgarbage()
end

-- casts the module by `type`, or without resetting its recurrent states
function steps.cast(run, job)
   if job.type and job.keeps_state then
      cast_in_sequence(run.module, job.type)
   elseif job.type then
      run.module:type(job.type)
   end
   if run.module.heavySerial then run.module:heavySerial() end -- else dpnn.Serial may not save results
end

function steps.mode(run, job)
   local m = run.module
   if job.mode and not run.is_criterion then
      if job.mode == 'train' then m:training() else m:evaluate() end
   end
end

local function forward(run, job, module)
   if job.seed then torch.manualSeed(job.seed) end
   run.input, run.target = cast(job.input, job.type), cast(job.target, job.type)
   local output
   for _ = 1, job.forwards or 1 do
      if run.is_criterion then
         output = module:forward(run.input, run.target)
      else
         output = module:forward(run.input)
      end
   end
   return output
end

function steps.forward(run, job)
   run.output = forward(run, job, run.module)
   if job.reward then run.module:reinforce(cast(job.reward, job.type)) end
   return copied(run.output)
end

function steps.zeroGradParameters(run)
   if run.module.zeroGradParameters then run.module:zeroGradParameters() end
end

function steps.backward(run, job)
   if run.is_criterion then return copied(run.module:backward(run.input, run.target)) end
   if job.gradOutput == nil then torch.manualSeed(2) end
   local gradOutput = job.gradOutput and cast(job.gradOutput, job.type) or random_like(run.output)
   run.result.gradOutput = copied(gradOutput)
   return copied(run.module:backward(run.input, gradOutput, job.scale))
end

local function parameters(module)
   if not module.parameters then return {}, {} end
   local weights, gradients = module:parameters()
   return weights or {}, gradients or {}
end

function steps.params(run)
   local weights = parameters(run.module)
   return copied(weights)
end

steps.given = steps.params -- before any run

function steps.gradParams(run)
   local _, gradients = parameters(run.module)
   return copied(gradients)
end

-- returns for each tensor the position of the first tensor that begins at the same address
function steps.sharing(run)
   local found = {}
   for i, tensors in ipairs{parameters(run.module)} do
      local first, positions = {}, {}
      for j, t in ipairs(tensors) do
         local is_filled = torch.isTensor(t) and t:nElement() > 0 -- gradients of IndexLinear are tables
         local address = is_filled and tonumber(torch.data(t, true)) or -j
         first[address] = first[address] or j
         positions[j] = first[address]
      end
      found[i] = positions
   end
   return found
end

-- runs one step of gradient descent
function steps.step(run, job)
   if not run.module.updateParameters then return end
   run.module:updateParameters(job.rate or 0.1)
   if run.module.forget then run.module:forget() end
end

function steps.again(run, job)
   if run.module.forget then run.module:forget() end
   return copied(forward(run, job, run.module))
end

function steps.clone(run, job)
   local clone = run.module:clone()
   if clone.forget then clone:forget() end
   return copied(forward(run, job, clone))
end

-- returns the flat parameters, the flat gradients, and the output after the parameters are halved
function steps.getParameters(run, job)
   if not run.module.getParameters then return end
   local weights, gradients = run.module:getParameters()
   local result = {weights:clone(), gradients:clone()}
   if is_float(weights) and weights:nElement() > 0 then weights:mul(0.5) end
   if run.module.forget then run.module:forget() end
   table.insert(result, copied(forward(run, job, run.module)))
   return result
end

function steps.type(run, job)
   local m = run.module
   local old = job.type
   job.type = 'torch.DoubleTensor'
   m:type(job.type)
   if m.forget then m:forget() end
   local output = copied(forward(run, job, m))
   job.type = old
   return output
end

-- sets the mode of all modules in evaluation mode again
function steps.modes(run)
   local flags = {}
   run.module:apply(function(m) table.insert(flags, {m, m.train}) end)
   for _, flag in ipairs(flags) do
      if flag[2] == false then
         flag[1]:training()
         flag[1]:evaluate()
      end
   end
end

-- sets the parameters of the module
function steps.assign(run, job)
   local weights = parameters(run.module)
   for i, t in ipairs(weights) do t:copy(job.params[i]) end
end

-- copies the normalization constant Z from another file
function steps.normaliser(run, job)
   run.module.Z:copy(torch.load(job.other).Z)
end

-- removes clones and tables of gradients of earlier sequences
function steps.anew(run)
   run.module:apply(function(m)
      if m.sharedClones then m.sharedClones = {m.recurrentModule} end
      if type(m.gradInput) == 'table' then m.gradInput = {} end
   end)
end

function steps.after(run)
   return run.module
end

local function run_job(job)
   local run = {result = {}}
   for _, name in ipairs(job.steps) do
      local ok, value = pcall(steps[name], run, job)
      run.result[name] = ok and {value = value} or {error = tostring(value)}
      if not ok and name == 'load' then break end
   end
   return run.result
end

local jobs, folder = ...
for i, job in ipairs(jobs) do
   torch.save(folder .. '/' .. i .. '.t7', run_job(job))
   collectgarbage()
end
