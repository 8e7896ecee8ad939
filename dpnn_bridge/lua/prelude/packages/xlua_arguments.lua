-- xlua.unpack: parses arguments in order, or a table of named arguments, by definitions {arg=, type=, help=, default=, defaulta=, req=}.
-- xlua.usage: the help text for such definitions.
local colors = setmetatable({}, {__index = function(_, name) return sys and sys.COLORS[name] or '' end})  -- none in a sandbox
local MAX_ARGUMENTS = 64  -- of one function
local COLUMN = 40  -- column where the help starts

local function optional(definition, text) return '    ' .. (definition.req and text or '[' .. text .. ']') end
local function line_of(definition, text)
   local note = ''
   if type(definition.default) == 'table' then note = '  [default = ' .. xlua.table2string(definition.default) .. ']'
   elseif definition.default ~= nil then note = '  [default = ' .. tostring(definition.default) .. ']'
   elseif definition.defaulta then note = '  [default == ' .. definition.defaulta .. ']'
   end
   text = optional(definition, text)
   return text .. (' '):rep(COLUMN - #text) .. '-- ' .. definition.help .. (definition.arg and note or '') .. '\n'
end

-- definitions of named arguments are one list; other definitions are a list per form of the call, separated by ''
function xlua.usage(name, description, example, ...)
   local definitions, parts = {...}, {}
   local function add(...)
      for i = 1, select('#', ...) do parts[#parts + 1] = (select(i, ...)) end
   end
   definitions = definitions[1].tabled or definitions
   local rule = ('+'):rep(69)
   add(rule, '\n', colors.Magenta, name, colors.none, '\n', description and '\n' .. description .. '\n' or '')
   add('\n', colors.blue, '> ', colors.none, 'usage:\n', colors.cyan)
   if definitions[1].arg then
      add(name, '{\n')
      for _, definition in ipairs(definitions) do add(line_of(definition, definition.arg .. ' = ' .. definition.type)) end
      add('}\n')
   else
      add(name, '(\n')
      for _, definition in ipairs(definitions) do
         if definition == '' then add(')\n', name, '(\n') else add(line_of(definition, definition.type)) end
      end
      add(')\n')
   end
   add(colors.none, example and '\n' .. colors.cyan .. example .. colors.none .. '\n' or '', rule)
   return table.concat(parts)
end

local function usage_of(name, description, definitions)
   return setmetatable({}, {__tostring = function()
      local first, second, example = definitions[1], definitions[2], nil
      if second then
         example = ('%s{%s=%s, %s=%s}\n%s(%s, ...)'):format(name, second.arg, second.type, first.arg, first.type, name, first.type)
      end
      return xlua.usage(name, description, example, {tabled = definitions})
   end})
end

function xlua.unpack(args, name, description, ...)
   local definitions = {...}
   local usage, given, values = usage_of(name, description, definitions), {}, {}
   local function fail(...)
      for i = 1, select('#', ...) do print((select(i, ...))) end
      print(usage)
      xlua.error('error')
   end
   if #args == 0 then fail() end
   if #args == 1 and type(args[1]) == 'table' and #args[1] == 0 and not torch.typename(args[1]) then
      given = args[1]
   else
      for i, definition in ipairs(definitions) do given[definition.arg] = args[i] end
   end
   for i, definition in ipairs(definitions) do
      local value = given[definition.arg]
      if value == nil and definition.req then fail(colors.Red .. 'missing argument: ' .. definition.arg .. colors.none) end
      if value == nil then value = definition.default end
      if value == nil and definition.defaulta then value = values[definition.defaulta] end
      values[definition.arg], values[i] = value, value
   end
   values.usage = usage
   if values[MAX_ARGUMENTS + 1] then xlua.error('<xlua.unpack> oups, cant deal with more than 64 arguments :-)') end
   return values, unpack(values, 1, MAX_ARGUMENTS)
end

function xlua.unpack_class(object, ...)
   for key, value in pairs((xlua.unpack(...))) do
      if type(key) ~= 'number' then object[key] = value end
   end
end

function xlua.usage_module(module, name, description)
   local rule = ('+'):rep(69)
   local text = colors.magenta .. rule .. '\nPACKAGE:\n' .. name .. '\n' .. (description and '\nDESC:\n' .. description .. '\n' or '')
      .. rule .. '+' .. colors.none
   local mt = getmetatable(module) or {}
   mt.__tostring = function() return text end
   setmetatable(module, mt)
   return text
end
return colors
