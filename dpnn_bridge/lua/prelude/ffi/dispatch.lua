-- Calls on small tensors without calling Python. Arguments are matched in dispatch.py only: for a new combination of argument
-- types, Lua asks Python for a plan, which contains the family of loops and the source of each argument.
local bridge, py = ...
local native, metatables = bridge.native, bridge.metatables
local states, storages, read, fresh = native.states, native.storages, native.read, native.fresh
local type, select, concat, format, rawequal = type, select, table.concat, string.format, rawequal
local torch, default_type = torch, bridge.default_type

--- name -> f(plan, arguments of the family ...). f returns a function of the results, tensors and other arguments of a signature,
--- which returns nil if Python must compute.
local families = {}
native.families = families

-- descriptions of arguments as codes below 128, of which the key of a plan is composed
local DESCRIPTIONS, TYPES = {[1] = 'number', [2] = 'boolean'}, {}
for letter in ('NVULTSARF'):gmatch '.' do
   DESCRIPTIONS[#DESCRIPTIONS + 1] = letter
   TYPES[letter] = #DESCRIPTIONS
end
for i, ty in ipairs(bridge.element_types) do
   TYPES[ty] = 8 + 8 * i
   for n = 0, 7 do DESCRIPTIONS[TYPES[ty] + n] = ty .. n end
end
local function code_of(x)
   local kind = type(x)
   if kind == 'number' then return 1 end
   if kind == 'userdata' then
      local S = states[x] or (not storages[x] and read(x))
      return S and S.n < 8 and TYPES[S.ty] + S.n or 0
   elseif kind == 'boolean' then return 2
   elseif kind == 'string' then return TYPES[x] or 0
   end
   return 0
end
local MAX_ARGUMENTS = 7
local function key_of(n, a, b, c, d, e, f, g)
   local key = 1
   if n > 0 then key = 128 + code_of(a) end
   if n > 1 then key = 128 * key + code_of(b) end
   if n > 2 then key = 128 * key + code_of(c) end
   if n > 3 then key = 128 * key + code_of(d) end
   if n > 4 then key = 128 * key + code_of(e) end
   if n > 5 then key = 128 * key + code_of(f) end
   if n > 6 then key = 128 * key + code_of(g) end
   return key
end

local LETTERS = {'a', 'b', 'c', 'd', 'e', 'f', 'g'}
-- Source of a call. It passes the states of results, the states of tensors and the other arguments to a function of a family.
local function source_of(plan, n)
   local arguments, lines, results, tensors, plain = concat(LETTERS, ', ', 1, n), {}, {}, {}, {}
   local first, source
   for k = 1, plan.fresh or 0 do  -- results that the family creates
      results[k], tensors[k] = 'n' .. k, 'r' .. k
      lines[k] = format("local n%d, r%d = fresh '%s'", k, k, plan.fresh_types and plan.fresh_types[k] or plan.ty)
   end
   for k, slot in ipairs(plan.slots) do
      local name, given = 's' .. k, LETTERS[slot.source]
      if slot.token == 'L' then  -- sizes: their number, and each size
         plain[#plain + 1] = concat({tostring(n - slot.source + 1), unpack(LETTERS, slot.source, n)}, ', ')
      elseif slot.kind == 'plain' then
         plain[#plain + 1] = given or slot.value == 'last' and source .. '.n'
            or format(type(slot.value) == 'string' and '%q' or '%s', tostring(slot.value))
      else
         if given then
            lines[#lines + 1] = format('local %s = states[%s]', name, given)
            if slot.kind == 'result' then  -- Python writes a result whose elements share memory in Torch7's order
               lines[#lines + 1] = format('if not disjoint(%s) then return slow(%s) end', name, arguments)
            end
         elseif slot.value == 'same' then
            name = first
         else
            given = 'o' .. k
            lines[#lines + 1] = format("local %s, %s = fresh '%s'", given, name, slot.value == 'new' and plan.ty or slot.value)
         end
         first = first or name
         if slot.kind == 'result' then results[#results + 1] = given else source = source or name end
         tensors[#tensors + 1] = name
      end
   end
   if plan.family == 'pointwise' then
      for k = #tensors + 1, 4 do tensors[k] = 'nil' end
   end
   for _, name in ipairs(plain) do tensors[#tensors + 1] = name end
   return format([[
local run, states, fresh, slow, disjoint = ...
return function(%s)
   %s
   local x = run(%s)
   if x ~= nil then return %s end
   return slow(%s)
end]], arguments, concat(lines, '\n   '), concat(tensors, ', '), #results > 0 and concat(results, ', ') or 'x', arguments)
end

-- a function for calls with arguments of these types; `slow`, which calls Python, if there is no loop
local function make(name, ty, slow, n, ...)
   local descriptions, operand = {}, nil
   for i = 1, n do
      local description = DESCRIPTIONS[code_of((select(i, ...)))]
      if not description then return slow end
      descriptions[i] = description
      operand = operand or i < 3 and #description > 1 and description:match '^(%u%a+)%d$'
   end
   local resolved = ty or operand or default_type()
   local plan = resolved and py.plan(name, ty, unpack(descriptions, 1, n))
   if not plan then return slow end
   plan.ty, plan.name = resolved, name
   for _, slot in ipairs(plan.slots) do
      local description = descriptions[slot.source]
      if slot.kind ~= 'plain' then
         slot.ty = description and description:sub(1, -2) or (slot.value == 'Long' or slot.value == 'Byte') and slot.value or plan.ty
      end
   end
   local family = families[plan.family]
   local f = family and family(plan, unpack(plan.needs))
   return f and assert(bridge.load(source_of(plan, n), '=' .. name))(f, states, fresh, slow, native.disjoint) or slow
end

local function caller(name, ty, slow)
   local calls, constructor = {}, torch.Tensor
   return function(...)
      local n, a, b, c, d, e, f, g = select('#', ...), ...
      if n > MAX_ARGUMENTS then return slow(...) end
      if not ty and not rawequal(torch.Tensor, constructor) then calls, constructor = {}, torch.Tensor end
      local key = key_of(n, a, b, c, d, e, f, g)
      local call = calls[key]
      if not call then
         call = make(name, ty, slow, n, ...)
         calls[key] = call
      end
      return call(...)
   end
end

for name, available in pairs(py.loops()) do
   for _, ty in ipairs(available.types) do
      local mt = metatables['torch.' .. ty .. 'Tensor']
      mt[name] = caller(name, ty, mt[name])
   end
   if available['function'] then torch[name] = caller(name, nil, torch[name]) end
end
