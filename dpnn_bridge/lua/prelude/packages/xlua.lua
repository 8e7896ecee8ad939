-- xlua: named arguments, progress bars, options from the environment, and small tools of strings and tables.
xlua = {log = function() end}

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
function xlua.usage(name, description) return name .. '\n' .. tostring(description or '') end

function xlua.require(package)
   local ok, result = pcall(require, package)
   if ok then return result end
   print(result)
   print('warning: <' .. package .. '> could not be loaded (is it installed?)')
   return false
end
function xlua.installed(package) return pcall(require, package) end
function xlua.trycatch(try, catch)
   local ok, message = pcall(try)
   if not ok then catch(message) end
end
function xlua.error(message, domain, usage)
   error((domain and '<' .. domain .. '> ' or '') .. tostring(message) .. (usage and '\n' .. usage or ''), 2)
end
function xlua.print(value)
   if type(value) ~= 'table' or torch.typename(value) then return print(value) end
   print(xlua.table2string(value, true))
end

local function text_of(value)
   if type(value) == 'string' then return string.format('%q', value) end
   return type(value) == 'table' and not torch.typename(value) and xlua.table2string(value) or tostring(value)
end
function xlua.table2string(values, newline)
   local parts = {}
   for i, value in ipairs(values) do parts[i] = text_of(value) end
   local count = #parts
   for key, value in pairs(values) do
      if not (type(key) == 'number' and key >= 1 and key <= count) then
         local name = type(key) == 'string' and key:match('^[_%a][_%w]*$') or '[' .. text_of(key) .. ']'
         parts[#parts + 1] = name .. (newline and ' : ' or '=') .. text_of(value)
      end
   end
   if newline then return '{\n   ' .. table.concat(parts, '\n   ') .. '\n}' end
   return '{' .. table.concat(parts, ',') .. '}'
end

-- learningRate=0.1 dpnn-lua train.lua sets an option of that name, in the type of its default
function xlua.envparams(defaults)
   local values, booleans = {}, {['true'] = true, True = true, ['false'] = false, False = false}
   for name, default in pairs(defaults) do
      local given = os.getenv and os.getenv(name)
      if given and type(default) == 'number' then given = assert(tonumber(given)) end
      if given and type(default) == 'boolean' and booleans[given] ~= nil then given = booleans[given] end
      if given == nil then given = default end
      values[name] = given
   end
   return values
end

-- the two largest of days, hours, minutes, seconds, milliseconds
function xlua.formatTime(seconds)
   local parts = {}
   for _, unit in ipairs {{'D', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}, {'ms', 0.001}} do
      local count = math.floor(seconds / unit[2])
      seconds = seconds - count * unit[2]
      if count > 0 and #parts < 2 then parts[#parts + 1] = count .. unit[1] end
   end
   return #parts > 0 and table.concat(parts) or '0ms'
end

local WIDTH, started, reached = 46, nil, 0
function xlua.progress(current, goal)
   local done = math.floor(current * WIDTH / goal)
   if not started or done < reached then started = torch.tic() end
   reached = done
   local passed = torch.tic() - started
   local bar = string.rep('=', done - 1) .. (done > 0 and '>' or '') .. string.rep('.', WIDTH - math.max(done, 0))
   local step = current > 0 and passed / current or 0
   local time = done < WIDTH and ' ETA: ' .. xlua.formatTime((goal - current) * step) or ' Tot: ' .. xlua.formatTime(passed)
   io.write('\r [', bar, '] ', current, '/', goal, time, ' | Step: ', xlua.formatTime(step), '   ', done == WIDTH and '\n' or '')
   io.flush()
   if done == WIDTH then started = nil end
end

function string.split(text, pattern)
   local parts, from = {}, 1
   while from <= #text do
      local first, last = text:find(pattern, from)
      if not first or last < first then break end
      if first > 1 then parts[#parts + 1] = text:sub(from, first - 1) end
      from = last + 1
   end
   if from <= #text then parts[#parts + 1] = text:sub(from) end
   return parts
end
function string.tosymbol(text)
   return assert(loadstring('return ' .. text))() or error('symbol "' .. text .. '" does not exist', 2)
end
function table.splice(list, start, length)
   start, length = start or 1, length or 1
   local rest, taken = {}, {}
   for i, value in ipairs(list) do table.insert((i < start or i >= start + length) and rest or taken, value) end
   return rest, taken
end
return xlua
