-- xlua: named arguments, where there is no checkout; progress bars become silence.
xlua = {progress = function() end, log = function() end}

-- arguments in order, or one table of named ones, as the definitions {arg=, type=, default=, req=} say
local function read(args, name, definitions)
   local values, named = {}, #args <= 1 and type(args[1]) == 'table' and not torch.typename(args[1]) and args[1]
   for i, definition in ipairs(definitions) do
      local value
      if named then value = named[definition.arg] else value = args[i] end
      if value == nil then value = definition.default end
      if value == nil and definition.defaulta then value = values[definition.defaulta] end
      if value == nil and definition.req then error(name .. ': missing argument ' .. definition.arg, 3) end
      values[definition.arg] = value
   end
   return values
end
function xlua.unpack(args, name, description, ...)
   local definitions = {...}
   local values, ordered = read(args, name, definitions), {}
   for i, definition in ipairs(definitions) do ordered[i] = values[definition.arg] end
   return values, unpack(ordered, 1, #definitions)
end
function xlua.unpack_class(object, args, name, description, ...)
   for key, value in pairs(read(args, name, {...})) do object[key] = value end
end
return xlua
