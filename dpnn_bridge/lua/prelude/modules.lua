-- Functions of the bridge that Python calls: to run code, and for modules and criterions.
local bridge, py = ...
bridge.torch = torch

-- describe an error object that is not a string: the result of its __tostring, or its fields
local function description(object)
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

-- the message of an error object of any type, with a traceback unless in a sandbox
local traceback = not py.sandbox and bridge.debug.traceback
local function error_message(object)
   local is_text = type(object) == 'string' or type(object) == 'number'
   local ok, text = true, object
   if not is_text then ok, text = pcall(description, object) end
   if not ok then text = 'the error object is a ' .. type(object) .. ', which cannot be converted to text' end
   return traceback and traceback(text, 2) or text
end

-- call f(...) at the same depth of the stack as a script in th, because nngraph reads stack level 6
function bridge.run(f, ...)
   local n, arguments = select('#', ...), {...}
   local function same(...) return ... end
   local function results(ok, ...)
      if not ok then error((...), 0) end
      return ...
   end
   local function dofile() return same(same(f)(unpack(arguments, 1, n))) end  -- without a name in tracebacks
   return results(xpcall(dofile, error_message))
end

-- pairs in an order that does not depend on the process
local function sorted_pairs(object)
   local keys, i = {}, 0
   for key in pairs(object) do keys[#keys + 1] = key end
   table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
   return function()
      i = i + 1
      if i <= #keys then return keys[i], object[keys[i]] end
   end
end

-- call visit(child, path) for each child of a module: first those in its list `modules`, then those in its fields
local function each_child(object, path, visit)
   if type(object.modules) == 'table' then
      for i, child in ipairs(object.modules) do visit(child, path .. 'modules.' .. i .. '.') end
   end
   for key, value in sorted_pairs(object) do
      if type(value) == 'table' and torch.isTypeOf(value, 'nn.Module') then visit(value, path .. tostring(key) .. '.') end
   end
end

-- a string that is equal for tensors with the same elements in memory
local function location(tensor)
   local storage = tensor:storage()
   if not storage then return torch.pointer(tensor) end
   local numbers = {torch.pointer(storage), tensor:storageOffset()}
   for d = 1, tensor:dim() do numbers[2 * d + 1], numbers[2 * d + 2] = tensor:size(d), tensor:stride(d) end
   return table.concat(numbers, ' ')
end

-- module:parameters() with each parameter once, because a module may be in a container twice or share memory with another. The second
-- result is the list of each parameter's gradients, of which there are several if they do not share memory. The third result is the
-- order in which module:parameters() lists them, some several times.
local function parameters(module)
   local weights, gradients = module:parameters()
   local unique, groups, index, seen, order = {}, {}, {}, {}, {}
   for i, weight in ipairs(weights or {}) do
      local at = location(weight)
      if not index[at] then
         index[at] = #unique + 1
         unique[#unique + 1], groups[#groups + 1], seen[#seen + 1] = weight, {}, {}
      end
      order[i] = index[at]
      local group, known, gradient = groups[index[at]], seen[index[at]], gradients and gradients[i]
      local where = gradient and location(gradient)
      if gradient and not known[where] then
         group[#group + 1], known[where] = gradient, true
      end
   end
   return unique, groups, order
end

-- names and tensors of module:parameters(), and their order; a name is the path of the first field that contains the tensor
function bridge.parameters(module)
   local weights, _, order = parameters(module)
   local names, found, seen = {}, {}, {}
   local function search(object, path)
      if seen[object] then return end
      seen[object] = true
      for key, value in sorted_pairs(object) do
         if torch.isTensor(value) then
            local pointer = torch.pointer(value)
            if not found[pointer] then found[pointer] = path .. tostring(key) end
         end
      end
      each_child(object, path, search)
   end
   search(module, '')
   for i, weight in ipairs(weights) do names[i] = found[torch.pointer(weight)] or 'parameter' .. i end
   return names, weights, order
end

-- {name, tensor} of the other tensors of a module's state at any depth, such as running means, without parameters
local scratch = {output = true, gradInput = true, gradWeight = true, gradBias = true}
function bridge.buffers(module)
   local known, result, seen = {}, {}, {}
   for _, weight in ipairs((parameters(module))) do known[location(weight)] = true end
   local function search(object, path)
      if seen[object] then return end
      seen[object] = true
      for key, value in sorted_pairs(object) do
         local name = path .. tostring(key)
         if torch.isTensor(value) and value:nElement() > 0 and type(key) == 'string' and not known[location(value)]
            and not scratch[key] and not key:find('^_') and not key:find('^grad') then
            result[#result + 1] = {name, value}
         end
      end
      each_child(object, path, search)
   end
   search(module, '')
   return result
end

-- {name, tensor} of the tensors that were put into fields of a module since the last call; it may contain other fields too
local before = setmetatable({}, {__mode = 'k'})
local function replaced(module)
   local last, now, result, seen = before[module] or {}, {}, {}, {}
   local function search(object, path)
      if seen[object] then return end
      seen[object] = true
      for key, value in pairs(object) do
         if type(key) == 'string' and not scratch[key] and torch.isTensor(value) then
            local name = path .. key
            now[name] = value
            if not rawequal(last[name], value) and value:nElement() > 0 then result[#result + 1] = {name, value} end
         end
      end
      each_child(object, path, search)
   end
   search(module, '')
   before[module] = now
   return result
end

-- the parameters that a module has now, and, if it has buffers, the tensors that were put into its fields
function bridge.current(module, has_buffers)
   return (parameters(module)), has_buffers and replaced(module) or {}
end

-- {path, class, base class ...} of a module and of each module in it
function bridge.classes(module)
   local result, seen = {}, {}
   local function search(object, path)
      if seen[object] then return end
      seen[object] = true
      local names, name = {path}, torch.typename(object)
      local class = name and torch.getmetatable(name)
      while class do
         names[#names + 1] = bridge.names[class]
         class = bridge.getmetatable(class)
      end
      result[#result + 1] = names
      each_child(object, path, search)
   end
   search(module, '')
   return result
end

-- fill memory that Lua allocates itself with a number; without LuaJIT, Python allocates all memory
bridge.fill_new_memory = bridge.fill_new_memory or function() end

-- run a backward pass by the method backward, or by updateGradInput and accGradParameters: returns the gradient of the input, and
-- the gradients of the parameters of this backward pass alone. updateGradInput gets gradOutput, or `masked`, see nn.MaskZero.
function bridge.backward(module, method, input, gradOutput, masked)
   local weights, groups = parameters(module)
   for _, group in ipairs(groups) do
      for _, g in ipairs(group) do g:zero() end
   end
   local base = torch.getmetatable('nn.Module')
   local zero = module.zeroGradParameters  -- of nn.WeightNorm: also clears gradients of the inner layer that parameters() does not return
   if zero and not (base and zero == base.zeroGradParameters) then zero(module) end
   local gradInput
   if method == 'backward' and module.backward and not (base and module.backward == base.backward) then
      gradInput = module:backward(input, gradOutput, 1)
   else
      local returned = module:updateGradInput(input, masked == nil and gradOutput or masked)
      gradInput = module.gradInput
      -- of a layer for nngraph, which uses what updateGradInput returns
      if torch.isTensor(gradInput) and not torch.isTensor(input) and type(returned) == 'table' then gradInput = returned end
      module:accGradParameters(input, gradOutput, 1)
   end
   local gradients = {}
   weights, groups = parameters(module)  -- as they are now: accGradParameters may put new tensors into gradWeight
   for i, group in ipairs(groups) do
      gradients[i] = group[1] or weights[i].new()  -- empty: there is no gradient
      for j = 2, #group do gradients[i] = torch.add(gradients[i], group[j]) end
   end
   return gradInput, gradients
end

function bridge.method(object, name, ...) return object[name](object, ...) end
