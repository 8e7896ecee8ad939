-- Print values as th does: show(depth, ...) prints tables with their fields down to a depth, and the sizes of tensors in tables.
local function write(...)
   local _, reason = io.write(...)
   if reason and reason ~= 'Broken pipe' then error('cannot print: ' .. reason, 0) end
end

local function sizes(value)
   local class = torch.typename(value):match('torch%.(.+)')
   if torch.isStorage(value) then return class .. ' - size: ' .. value:size() end
   if value:dim() == 0 then return class .. ' - empty' end
   return class .. ' - size: ' .. table.concat(value:size():totable(), 'x')
end

local function brief(value)
   if type(value) == 'string' then return '"' .. value .. '"' end
   if torch.isTensor(value) or torch.isStorage(value) then return sizes(value) end
   return tostring(value)
end

-- numbers first, then by name; the order in th is undefined
local function sorted_keys(values)
   local keys = {}
   for key in pairs(values) do keys[#keys + 1] = key end
   table.sort(keys, function(a, b)
      local p, q = type(a) == 'number', type(b) == 'number'
      if p and q then return a < b end
      if p ~= q then return p end
      return tostring(a) < tostring(b)
   end)
   return keys
end

local function print_table(values, level, depth)
   local indent = string.rep(' ', 4 * level)
   if next(values) == nil then return write(indent, '{}\n') end
   write(indent, '{\n')
   for _, key in ipairs(sorted_keys(values)) do
      local value = values[key]
      local line = indent .. '  ' .. tostring(key) .. ' : '
      if type(value) ~= 'table' then
         write(line, brief(value), '\n')
      elseif level >= depth - 1 or next(value) == nil then
         write(line, '{...}\n')
      else
         write(line, '\n')
         print_table(value, level + 1, depth)
      end
   end
   write(indent, '}\n')
end

local function is_plain_table(value)
   local mt = type(value) == 'table' and getmetatable(value)
   return type(value) == 'table' and not (type(mt) == 'table' and mt.__tostring)
end

local function show(depth, ...)
   local n = select('#', ...)
   for i = 1, n do
      local value = select(i, ...)
      if is_plain_table(value) then print_table(value, 0, depth)
      elseif type(value) == 'userdata' or type(value) == 'cdata' or type(value) == 'table' then write(tostring(value), '\n')
      else write(tostring(value), '\t', i == n and '\n' or '') end
   end
   io.flush()
end
return show
