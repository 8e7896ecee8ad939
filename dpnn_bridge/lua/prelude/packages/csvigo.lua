-- csvigo: reading and writing of CSV files.
local bridge = ...
require 'dok'
csvigo = {}

local function split(line, separator)
   local cells, at = {}, 1
   line = line .. separator
   repeat
      local cell
      if line:sub(at, at) == '"' then
         local from = at + 1
         repeat  -- find the closing quote, which is not followed by another quote
            local quote = line:find('"', from, true) or error('unmatched "', 0)
            from = quote + 2
         until line:sub(quote + 1, quote + 1) ~= '"'
         cell = line:sub(at + 1, from - 3):gsub('""', '"')
         at = line:find(separator, from - 1, true)  -- ignore text between the closing quote and the separator
      else
         local next = line:find(separator, at, true)
         cell, at = line:sub(at, next - 1), next
      end
      cells[#cells + 1] = cell
      at = at + #separator
   until at > #line
   return cells
end
local function quoted(value, separator)
   local text = tostring(value)
   if not text:find('["\n]') and not text:find(separator, 1, true) then return text end
   return '"' .. text:gsub('"', '""') .. '"'
end

local function logger(verbose)
   return function(...) if verbose then print('<csv>', ...) end end
end
local function expand_home(path) return (path:gsub('^~', function() return os.getenv('HOME') end)) end

local function read_rows(path, separator)
   local file, rows = assert(io.open(path)), {}
   local ok, message = pcall(function()
      for line in file:lines() do rows[#rows + 1] = split((line:gsub('\r$', '')), separator) end
   end)
   file:close()
   if not ok then error(path .. ', line ' .. #rows + 1 .. ': ' .. message, 3) end
   return rows
end

-- mode: 'tidy' returns {column name = values}, 'raw' returns rows
function csvigo.load(...)
   local _, path, separator, mode, header, verbose, skip = dok.unpack({...}, 'csvigo.load', 'Load a CSV file',
      {arg = 'path', type = 'string', help = 'path to file', req = true},
      {arg = 'separator', type = 'string', help = 'separator (one character)', default = ','},
      {arg = 'mode', type = 'string', help = 'load mode: raw | tidy', default = 'tidy'},
      {arg = 'header', type = 'boolean', help = 'file has a header (variable names)', default = true},
      {arg = 'verbose', type = 'boolean', help = 'verbose load', default = true},
      {arg = 'skip', type = 'number', help = 'skip this many lines at start of a tidy file', default = 0})
   if mode ~= 'tidy' and mode ~= 'raw' then error('csvigo.load: the bridge supports the modes raw and tidy, not ' .. mode, 2) end
   local log = logger(verbose)
   path = expand_home(path)
   log('parsing file: ' .. path)
   local rows = read_rows(path, separator)
   if mode == 'raw' then
      log('parsing done')
      return rows
   end
   log('tidying up entries')
   local names, first, columns = rows[1 + skip] or {}, 1 + skip, {}
   if header then
      first = first + 1
   else
      local count = #names
      names = {}
      for i = 1, count do names[i] = 'var_' .. i end
   end
   for _, name in ipairs(names) do columns[name] = {} end
   for r = first, #rows do
      for i, value in ipairs(rows[r]) do
         if not names[i] then error(('%s, line %d: %d values for %d columns'):format(path, r, #rows[r], #names), 2) end
         table.insert(columns[names[i]], value)
      end
   end
   log('returning tidy table')
   return columns
end

local function rows_of(columns, header)
   local names, count, rows = {}, 0, {}
   for name, values in pairs(columns) do
      names[#names + 1] = name
      count = math.max(count, #values)
   end
   table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
   if header then rows[1] = names end
   for r = 1, count do
      local row = {}
      for i, name in ipairs(names) do
         row[i] = columns[name][r]
         if row[i] == nil then row[i] = '' end
      end
      rows[#rows + 1] = row
   end
   return rows
end

-- data: in the form that load returns
function csvigo.save(...)
   local _, path, data, separator, mode, header, verbose = dok.unpack({...}, 'csvigo.save', 'Save a table as a CSV file',
      {arg = 'path', type = 'string', help = 'path to file', req = true},
      {arg = 'data', type = 'table', help = 'table to save as a CSV file', req = true},
      {arg = 'separator', type = 'string', help = 'separator (one character)', default = ','},
      {arg = 'mode', type = 'string', help = 'table to save is represented as: raw | tidy', default = 'autodetect'},
      {arg = 'header', type = 'boolean', help = 'table has a header (variable names)', default = true},
      {arg = 'verbose', type = 'boolean', help = 'verbose save', default = true})
   if mode == 'autodetect' then mode = type(data) == 'table' and (#data == 0 and 'tidy' or 'raw') or 'query' end
   if mode ~= 'tidy' and mode ~= 'raw' then error('csvigo.save: the bridge supports the modes raw and tidy, not ' .. mode, 2) end
   local log = logger(verbose)
   path = expand_home(path)
   log('writing to file: ' .. path)
   if mode == 'tidy' then
      log('exporting tidy table to raw CSV')
      data = rows_of(data, header)
   end
   local lines = {}
   for r, row in ipairs(data) do
      local cells = {}
      for i, value in ipairs(row) do cells[i] = quoted(value, separator) end
      lines[r] = table.concat(cells, separator) .. '\n'
   end
   local file = assert(io.open(path, 'w'))
   file:write(table.concat(lines))
   file:close()
   log('writing done')
end
return csvigo
