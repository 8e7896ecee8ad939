-- What LuaModule and LuaCriterion need of a Lua module.
local bridge, py = ...
bridge.torch = torch

-- an object that is no text, in words: what it says of itself, or what it holds
local function in_words(object)
   local ok, text = pcall(tostring, object)
   local own = type(object) == 'table' and bridge.getmetatable(object) or type(object) == 'userdata'
   if ok and type(text) == 'string' and (own == true or own and own.__tostring) then return text end
   if type(object) == 'table' then
      local fields, count = {}, 0
      for key, value in next, object do
         count = count + 1
         if count > 10 then
            fields[count] = '...'
            break
         end
         fields[count] = tostring(key) .. ' = ' .. (type(value) == 'table' and not torch.typename(value) and '{...}' or tostring(value))
      end
      text = '{' .. table.concat(fields, ', ') .. '}'
   end
   return 'the error object is ' .. (object == nil and 'nil' or 'a ' .. type(object) .. ': ' .. text)
end

-- the message of an error, whatever its object, with the stack where a script may see it
local traceback = not py.sandbox and bridge.debug.traceback
local function said(object)
   local plain = type(object) == 'string' or type(object) == 'number'
   local ok, text = true, object
   if not plain then ok, text = pcall(in_words, object) end
   if not ok then text = 'the error object is a ' .. type(object) .. ', which does not say what it holds' end
   return traceback and traceback(text, 2) or text
end

-- f(...) as deep in the stack as in a script that th runs: nngraph looks at level 6 of it, whatever is there
function bridge.run(f, ...)
   local n, arguments = select('#', ...), {...}
   local function same(...) return ... end
   local function results(ok, ...)
      if not ok then error((...), 0) end
      return ...
   end
   local function dofile() return same(same(f)(unpack(arguments, 1, n))) end -- called by no name, so that a traceback has none
   return results(xpcall(dofile, said))
end

-- pairs in an order that is the same in every process
local function in_order(object)
   local keys, i = {}, 0
   for key in pairs(object) do keys[#keys + 1] = key end
   table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
   return function()
      i = i + 1
      if i <= #keys then return keys[i], object[keys[i]] end
   end
end

-- visit(child, path) for the modules that a module holds: those of its list, then those of its fields
local function each_child(object, path, visit)
   if type(object.modules) == 'table' then
      for i, child in ipairs(object.modules) do visit(child, path .. 'modules.' .. i .. '.') end
   end
   for key, value in in_order(object) do
      if type(value) == 'table' and torch.isTypeOf(value, 'nn.Module') then visit(value, path .. tostring(key) .. '.') end
   end
end

-- one string for all tensors on the same elements
local function place(tensor)
   local storage = tensor:storage()
   if not storage then return torch.pointer(tensor) end
   local numbers = {torch.pointer(storage), tensor:storageOffset()}
   for d = 1, tensor:dim() do numbers[2 * d + 1], numbers[2 * d + 2] = tensor:size(d), tensor:stride(d) end
   return table.concat(numbers, ' ')
end

-- module:parameters(), with each parameter once: a module may be in a container twice, or share memory with another.
-- The third result has the list of a parameter's gradients, which may share memory or not.
local function parameters(module)
   local weights, gradients = module:parameters()
   local own, groups, index, places = {}, {}, {}, {}
   for i, weight in ipairs(weights or {}) do
      local at = place(weight)
      if not index[at] then
         index[at] = #own + 1
         own[#own + 1], groups[#groups + 1], places[#places + 1] = weight, {}, {}
      end
      local group, known, gradient = groups[index[at]], places[index[at]], gradients and gradients[i]
      local where = gradient and place(gradient)
      if gradient and not known[where] then
         group[#group + 1], known[where] = gradient, true
      end
   end
   return own, groups
end

-- the tensors of module:parameters() with names: the path of the field that holds each, the first where several do
function bridge.parameters(module)
   local weights, groups = parameters(module)
   local names, gradients, found, seen = {}, {}, {}, {}
   for i, group in ipairs(groups) do gradients[i] = group[1] or weights[i].new() end
   local function search(object, path)
      if seen[object] then return end
      seen[object] = true
      for key, value in in_order(object) do
         if torch.isTensor(value) then
            local pointer = torch.pointer(value)
            if not found[pointer] then found[pointer] = path .. tostring(key) end
         end
      end
      each_child(object, path, search)
   end
   search(module, '')
   for i, weight in ipairs(weights) do names[i] = found[torch.pointer(weight)] or 'parameter' .. i end
   return names, weights, gradients
end

-- other tensors that make up the state of a module: running means and the like, at any depth; no second names of parameters
local scratch = {output = true, gradInput = true, gradWeight = true, gradBias = true}
function bridge.buffers(module)
   local known, result, seen = {}, {}, {}
   for _, weight in ipairs((parameters(module))) do known[place(weight)] = true end
   local function search(object, path)
      if seen[object] then return end
      seen[object] = true
      for key, value in in_order(object) do
         local name = path .. tostring(key)
         if torch.isTensor(value) and value:nElement() > 0 and type(key) == 'string' and not known[place(value)]
            and not scratch[key] and not key:find('^_') and not key:find('^grad') then
            result[#result + 1] = {name, value}
         end
      end
      each_child(object, path, search)
   end
   search(module, '')
   return result
end

-- one backward: the gradient of the input, and those of the parameters for this backward alone
function bridge.backward(module, input, gradOutput)
   local weights, groups = parameters(module)
   for _, group in ipairs(groups) do
      for _, g in ipairs(group) do g:zero() end
   end
   local base = torch.getmetatable('nn.Module')
   local zero = module.zeroGradParameters  -- of nn.WeightNorm, gradients of the layer inside that it does not list
   if zero and not (base and zero == base.zeroGradParameters) then zero(module) end
   local gradInput
   if module.backward then
      gradInput = module:backward(input, gradOutput, 1)
   else
      module:updateGradInput(input, gradOutput)
      gradInput = module.gradInput
      module:accGradParameters(input, gradOutput, 1)
   end
   local gradients = {}
   for i, group in ipairs(groups) do
      gradients[i] = group[1] or weights[i].new()  -- without elements: there is none
      for j = 2, #group do gradients[i] = torch.add(gradients[i], group[j]) end
   end
   return gradInput, gradients
end

function bridge.method(object, name, ...) return object[name](object, ...) end
