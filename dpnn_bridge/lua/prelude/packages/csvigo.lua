-- csvigo: tables as comma separated values.
csvigo = {}

local function split(line, separator)
   local cells, at = {}, 1
   repeat
      if line:sub(at, at) == '"' then
         local cell, from = '', at + 1
         repeat
            local quote = line:find('"', from, true) or error('unmatched "', 3)
            cell = cell .. line:sub(from, quote - 1)
            from = quote + 2
            local again = line:sub(quote + 1, quote + 1) == '"'
            if again then cell = cell .. '"' else at = quote + 2 end
         until not again
         cells[#cells + 1] = cell
      else
         local next = line:find(separator, at, true) or #line + 1
         cells[#cells + 1] = line:sub(at, next - 1)
         at = next + 1
      end
   until at > #line + 1
   return cells
end
local function quoted(value, separator)
   local text = tostring(value)
   if not text:find('["\n' .. separator .. ']') then return text end
   return '"' .. text:gsub('"', '""') .. '"'
end

local function told(options)
   return function(...) if options.verbose ~= false then print('<csv>', ...) end end
end

-- options: path, separator, mode ('tidy', 'raw'), header, skip, verbose; tidy gives {column name = values}
function csvigo.load(options, mode)
   if type(options) == 'string' then options = {path = options, mode = mode} end
   local tell = told(options)
   tell('parsing file: ' .. options.path)
   local separator, rows = options.separator or ',', {}
   local skip = options.skip or 0
   for line in assert(io.open(options.path)):lines() do
      if skip > 0 then skip = skip - 1 else rows[#rows + 1] = split((line:gsub('\r$', '')), separator) end
   end
   if (options.mode or 'tidy') ~= 'tidy' then
      tell('parsing done')
      return rows
   end
   tell('tidying up entries')
   local header, first = {}, 1
   local numbers = tonumber(rows[1] and rows[1][1])
   if options.header == false or (options.header ~= true and numbers) then
      for i = 1, #(rows[1] or {}) do header[i] = 'var_' .. i end
   else
      header, first = rows[1] or {}, 2
   end
   local columns = {}
   for i, name in ipairs(header) do
      columns[name] = {}
      for r = first, #rows do columns[name][r - first + 1] = rows[r][i] end
   end
   tell('returning tidy table')
   return columns
end

-- options: path, data (as load gives it), separator, header, verbose
function csvigo.save(options, data)
   if type(options) == 'string' then options = {path = options, data = data} end
   local tell = told(options)
   tell('writing to file: ' .. options.path)
   local file, separator, rows = assert(io.open(options.path, 'w')), options.separator or ',', options.data
   if #rows == 0 then
      tell('exporting tidy table to raw CSV')
      local names = {}
      for name in pairs(rows) do names[#names + 1] = name end
      table.sort(names)
      local columns = rows
      rows = options.header == false and {} or {names}
      for r = 1, #(columns[names[1]] or {}) do
         local row = {}
         for i, name in ipairs(names) do row[i] = columns[name][r] end
         rows[#rows + 1] = row
      end
   end
   for _, row in ipairs(rows) do
      local cells = {}
      for i, value in ipairs(row) do cells[i] = quoted(value, separator) end
      file:write(table.concat(cells, separator), '\n')
   end
   file:close()
   tell('writing done')
end
return csvigo
