-- xlua: progress bars, parameters from environment variables, and tools for strings and tables. Named arguments are in
-- xlua_arguments.lua, command-line options in xlua_options.lua.
local bridge, py = ...
xlua = {}
local protected = {}
for name in pairs(_G) do protected[name] = true end
local colors = py.run_prelude('packages/xlua_arguments.lua')

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
   if domain then message = '<' .. domain .. '> ' .. message end
   error(colors.Red .. tostring(message) .. colors.none .. (usage and '\n' .. usage or ''), 2)
end

-- print the first value in a short form, and the others with print
local function brief(value)
   if type(value) == 'userdata' then return '<userdata>' end
   local text = tostring(value):gsub('\n', '\\n')
   return #text > 40 and text:sub(1, 40) .. colors.none .. ' ... ' or text
end
local function fields(values)
   local lines = {}
   for key, value in pairs(values) do lines[#lines + 1] = '[' .. tostring(key) .. '] = ' .. brief(value) end
   return '{' .. table.concat(lines, ',\n ') .. '}'
end
function xlua.print(value, ...)
   local mt = type(value) == 'table' and getmetatable(value)
   if type(value) ~= 'table' then io.write(tostring(value))
   elseif mt and mt.__tostring__ then io.write(mt.__tostring__(value))
   else
      local text = tostring(value)
      if text:find('table: ', 1, true) then text = ''
      elseif type(value.usage) == 'string' then text = value.usage .. '\n\nFIELDS:\n'
      else text = text .. ':\n' end
      io.write(text, fields(value))
   end
   if select('#', ...) == 0 then return io.write('\n') end
   io.write('    ')
   print(...)
end
xprint, xerror, xrequire = xlua.print, xlua.error, xlua.require

-- also write the output of io.write and print to a file
function xlua.log(path, append)
   if paths.dirname(path) ~= '' then paths.mkdir(paths.dirname(path)) end
   local file, write = assert(io.open(path, append and 'a' or 'w')), io.write
   io._write, _print, print = write, print, xlua.print
   function io.write(...)
      for i = 1, select('#', ...) do file:write((select(i, ...))) end
      file:flush()
      return write(...)
   end
end

-- clear or list globals that were created after xlua was loaded
function xlua.clear(name)
   _G[name] = nil
   collectgarbage()
end
function xlua.clearall()
   for name in pairs(_G) do
      if not protected[name] then _G[name], package.loaded[name] = nil, nil end
   end
   collectgarbage()
end
function xlua.who()
   local libraries, variables = {}, {}
   for name, value in pairs(_G) do
      if package.loaded[name] and name ~= '_G' then libraries[#libraries + 1] = name
      elseif not protected[name] then variables[name] = value end
   end
   for _, part in ipairs {'', 'Global Libs:', libraries, '', 'Global Vars:', variables, ''} do xlua.print(part) end
end

local function text_of(value)
   if type(value) == 'string' then
      value = value:gsub('\n', '\\n')
      if value:gsub('[^"\']', ''):match('^"+$') then return "'" .. value .. "'" end
      return '"' .. value:gsub('"', '\\"') .. '"'
   end
   return type(value) == 'table' and not torch.typename(value) and xlua.table2string(value) or tostring(value)
end
function xlua.table2string(values, newline)
   local parts = {}
   for i, value in ipairs(values) do parts[i] = text_of(value) end
   local count = #parts
   for key, value in pairs(values) do
      if not (type(key) == 'number' and key % 1 == 0 and key >= 1 and key <= count) then
         local name = type(key) == 'string' and key:match('^[_%a][_%w]*$') or '[' .. text_of(key) .. ']'
         parts[#parts + 1] = name .. (newline and ' : ' or '=') .. text_of(value)
      end
   end
   if newline then return '{\n   ' .. table.concat(parts, '\n   ') .. '\n}' end
   return '{' .. table.concat(parts, ',') .. '}'
end

-- options from environment variables, such as learningRate=0.1 dpnn-lua train.lua, converted to the types of the defaults
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
   for _, unit in ipairs {{'D', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}, {'ms'}} do
      local count = math.floor(unit[2] and seconds / unit[2] or seconds * 1000)  -- 0.043 / 0.001 is less than 43
      seconds = seconds - count * (unit[2] or 0)
      if count > 0 and #parts < 2 then parts[#parts + 1] = count .. unit[1] end
   end
   return #parts > 0 and table.concat(parts) or '0ms'
end

local WIDTH, REST, RECENT_STEPS = 46, 30, 100  -- for a terminal of 80 columns, which xlua assumes if it cannot determine the width
local done, reached, timer, times, counts = true, -1, nil, nil, nil
-- a progress bar with the remaining time, estimated from the recent steps; a complete bar is not changed until `current` decreases
function xlua.progress(current, goal)
   local position = math.floor(current * WIDTH / goal)
   if not done or reached ~= -1 and position >= reached then
      io.write('\r')
      if done then return end
   else
      timer = torch.Timer()
      done, times, counts = false, {timer:time().real}, {current}
   end
   reached = position
   local passed = timer:time().real
   local step = current == counts[1] and 0 or (passed - times[1]) / (current - counts[1])
   table.insert(times, passed)
   table.insert(counts, current)
   if #counts > RECENT_STEPS then times, counts = table.splice(times), table.splice(counts) end
   local head = position >= 1 and position <= WIDTH and '>' or ''
   local bar = string.rep('=', math.min(position - 1, WIDTH)) .. head
   local text = position < WIDTH and ' ETA: ' .. xlua.formatTime(math.max(0, (goal - current) * step)) or ' Tot: ' .. xlua.formatTime(passed)
   text = text .. ' | Step: ' .. xlua.formatTime(step)
   io.write(' [', bar, string.rep('.', WIDTH - #bar), '] ', string.rep(' ', REST), string.rep('\b', REST), text)
   io.write(string.rep('\b', 5 + #text + WIDTH / 2), ' ', current, '/', goal, ' ')
   done = position == WIDTH
   io.write(done and '\n\r' or '\r')
   io.flush()
end

string.split = bridge.split
function string.tosymbol(text)
   return assert(loadstring('return ' .. text))() or error('symbol "' .. text .. '" does not exist', 2)
end
function table.splice(list, start, length)
   start, length = start or 1, length or 1
   local rest, removed = {}, {}
   for i, value in ipairs(list) do table.insert((i < start or i >= start + length) and rest or removed, value) end
   return rest, removed
end
function table.prune(list, hash, merge)
   local kept, result = {}, {}
   for _, value in ipairs(list) do
      local key = value
      if hash then key = hash(value) end
      kept[key] = merge and kept[key] and merge(value, kept[key]) or value
   end
   for _, value in pairs(kept) do result[#result + 1] = value end
   return result
end
py.run_prelude('packages/xlua_options.lua')
return xlua
