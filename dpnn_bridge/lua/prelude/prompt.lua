-- The prompt of dpnn-lua: what a line means, how values show (tables with their fields), which names may follow.
local keywords = {}
for word in ('and break do else elseif end false for function if in local nil not or repeat return then true until while'):gmatch('%a+') do
   keywords[word] = true
end

local function brief(value)
   if type(value) == 'string' then return string.format('%q', value) end
   if torch.isTensor(value) then
      return torch.type(value):match('[^.]+$') .. ' - ' .. (value:dim() == 0 and 'empty' or 'size: ' .. table.concat(value:size():totable(), 'x'))
   end
   if torch.typename(value) and type(value) == 'table' then return torch.typename(value) end
   return tostring(value)
end

local function fields(value)
   local keys = {}
   for key in pairs(value) do keys[#keys + 1] = key end
   table.sort(keys, function(a, b)
      if type(a) == type(b) and (type(a) == 'number' or type(a) == 'string') then return a < b end
      return type(a) == 'number' and type(b) ~= 'number' or tostring(a) < tostring(b)
   end)
   return keys
end

local function show(value, indent, seen)
   if type(value) ~= 'table' then return indent == '' and tostring(value) or brief(value) end
   if torch.typename(value) then return indent == '' and tostring(value) or brief(value) end
   if seen[value] then return '{...}' end
   if next(value) == nil then return '{}' end
   seen[value] = true
   local parts = {}
   for _, key in ipairs(fields(value)) do
      if #parts == 100 then parts[#parts + 1] = indent .. '  ...' break end
      local inner = #indent < 8 and show(value[key], indent .. '  ', seen) or brief(value[key])
      parts[#parts + 1] = indent .. '  ' .. tostring(key) .. ' : ' .. inner
   end
   seen[value] = nil
   return '{\n' .. table.concat(parts, '\n') .. '\n' .. indent .. '}'
end

local function print_all(...)
   for i = 1, select('#', ...) do
      local text = show((select(i, ...)), '', {})
      io.write(text, text:sub(-1) == '\n' and '' or '\n')
   end
   io.flush()
end

-- what to run for a text, or nil and whether more lines may complete it, and the message
local function compile(text)
   local f = loadstring('return ' .. text, '=stdin')
   local message
   if not f then f, message = loadstring(text, '=stdin') end
   if f then return function() print_all(f()) end end
   return nil, message:find("'<eof>'", 1, true) ~= nil, message
end

-- names that may follow what stands before the cursor, such as torch.ran or net:for
local function complete(word)
   local path, last = word:match('^(.-)([%w_]*)$')
   local at, calls = _G, path:sub(-1) == ':'
   for name in path:gmatch('[%w_]+') do
      local ok, value = pcall(function() return at[name] end)
      if not ok or value == nil then return {} end
      at = value
   end
   local found, names = {}, {}
   local function take(holder)
      for key in pairs(holder) do
         if type(key) == 'string' and key:match('^[%a_][%w_]*$') and key:sub(1, #last) == last and not found[key]
            and (last:sub(1, 1) == '_' or key:sub(1, 1) ~= '_') then
            found[key] = true
            names[#names + 1] = key
         end
      end
   end
   if type(at) == 'table' then take(at) end
   local mt = torch.getmetatable(torch.typename(at) or '') or (type(at) == 'string' and {__index = string}) or nil
   local depth = 0
   while type(mt) == 'table' and depth < 20 do
      take(mt)
      if type(mt.__index) == 'table' then take(mt.__index) end
      mt, depth = getmetatable(mt), depth + 1
   end
   if path == '' then
      for key in pairs(keywords) do if key:sub(1, #last) == last then names[#names + 1] = key end end
   end
   table.sort(names)
   return names
end
return compile, complete
