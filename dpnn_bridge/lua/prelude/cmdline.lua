-- torch.CmdLine: command-line options of a script.
local CmdLine = torch.class('torch.CmdLine')

local function without_dashes(key) return key:match('%-*(.*)') end

function CmdLine:__init(argseparator, keyseparator)
   self.argseparator, self.keyseparator = argseparator or ',', keyseparator or '='
   self.options, self.arguments, self.helplines = {}, {}, {}
   self.silentio = false
end

function CmdLine:error(message)
   print('')
   io.stderr:write(message)
   print('')
   self:help()
   os.exit(1)
end

function CmdLine:silent() self.silentio = true end

function CmdLine:addTime(name, format)
   format = format or '%Y-%m-%d %H:%M:%S'
   if type(format) ~= 'string' then error('Argument has to be string') end
   self.dateformat = format .. (name and '[' .. name .. ']: ' or '')
end

function CmdLine:argument(key, help, kind)
   self.arguments[#self.arguments + 1] = {key = key, help = help, type = kind}
   self.helplines[#self.helplines + 1] = self.arguments[#self.arguments]
end

function CmdLine:option(key, default, help, kind)
   if default == nil then error('option ' .. key .. ' has no default value') end
   kind = kind or type(default)
   if type(default) ~= kind then error('option ' .. key .. ' has wrong default type value') end
   self.options[key] = {key = key, default = default, help = help, type = kind}
   self.helplines[#self.helplines + 1] = self.options[key]
end

function CmdLine:text(text)
   assert(text == nil or type(text) == 'string')
   self.helplines[#self.helplines + 1] = text or ''
end

function CmdLine:default()
   local values = {}
   for key, option in pairs(self.options) do values[without_dashes(key)] = option.default end
   return values
end

local function read_option(self, values, arg, i)
   local key = arg[i]
   local option = self.options[key]
   if option.type == 'boolean' then
      values[without_dashes(key)] = not option.default
      return 1
   end
   local value = arg[i + 1]
   if value == nil then self:error('missing argument for option ' .. key) end
   if option.type == 'number' then
      value = tonumber(value)
   elseif option.type ~= 'string' then
      self:error('unknown required option type ' .. tostring(option.type))
   end
   if value == nil then self:error('invalid type for option ' .. key .. ' (should be ' .. option.type .. ')') end
   values[without_dashes(key)] = value
   return 2
end

function CmdLine:parse(arg)
   local values, i, count = self:default(), 1, 0
   while i <= #arg do
      local word = arg[i]
      if word == '-help' or word == '-h' or word == '--help' then
         self:help(arg)
         os.exit(0)
      elseif self.options[word] then
         i = i + read_option(self, values, arg, i)
      else
         count = count + 1
         local argument = self.arguments[count]
         if not argument then self:error('invalid argument: ' .. tostring(word)) end
         if argument.type and type(word) ~= argument.type then
            self:error('invalid argument type for argument ' .. argument.key .. ' (should be ' .. argument.type .. ')')
         end
         values[without_dashes(argument.key)] = word
         i = i + 1
      end
   end
   if count ~= #self.arguments then self:error('not enough arguments') end
   return values
end

-- a name for an experiment: prefix, arguments, and the options that differ from their defaults
function CmdLine:string(prefix, values, ignore)
   local parts, given, numbers = {}, {}, {}
   for i, argument in ipairs(self.arguments) do numbers[without_dashes(argument.key)] = i end
   for name, value in pairs(values) do
      local option = self.options['-' .. name]
      if ignore[name] then
         print('-- ignore option ' .. name)
      elseif option then
         if value ~= option.default or ignore[name] == false then
            if type(value) == 'boolean' then value = value and 't' or 'f' end
            parts[#parts + 1] = name .. self.keyseparator .. value
            print(name, value, option.default)
         end
      elseif numbers[name] then
         given[numbers[name]] = name .. self.keyseparator .. value
      else
         print('WARNING: unknown option/argument: ' .. name .. ' IGNORING for DIRECTORY NAME')
      end
   end
   table.sort(parts)
   local text = table.concat(parts, self.argseparator)
   if #given > 0 then text = table.concat(given, self.argseparator) .. self.argseparator .. text end
   prefix = prefix or ''
   return text == '' and prefix or prefix .. self.argseparator .. text
end

-- also write everything that is printed to a file, until the next call of log
local original
function CmdLine:log(file, values)
   local f = io.type(file) == 'file' and file or assert(io.open(file, 'w'))
   original = original or print
   local this = self
   function print(...)
      if not this.silentio then original(...) end
      local words = {}
      if this.dateformat then words[1] = os.date(this.dateformat) end
      for i = 1, select('#', ...) do words[#words + 1] = tostring((select(i, ...))) end
      words[#words + 1] = '\n'
      f:write(table.concat(words, ' '))
      f:flush()
   end
   print('[program started on ' .. os.date() .. ']')
   print('[command line arguments]')
   for key, value in pairs(values or {}) do print(key, value) end
   print('[----------------------]')
end

function CmdLine:help(arg)
   io.write('Usage: ' .. (arg and arg[0] and arg[0] .. ' ' or '') .. '[options]')
   for _, argument in ipairs(self.arguments) do io.write(' <' .. without_dashes(argument.key) .. '>') end
   io.write('\n')
   local width = 0
   local function shown(line) return line.default == nil and '<' .. without_dashes(line.key) .. '>' or line.key end
   for _, line in ipairs(self.helplines) do
      if type(line) == 'table' then width = math.max(width, #shown(line)) end
   end
   for _, line in ipairs(self.helplines) do
      if type(line) ~= 'table' then
         io.write(line .. '\n')
      else
         local name = shown(line)
         io.write('  ' .. name .. string.rep(' ', width - #name))
         if line.help then io.write(' ' .. line.help) end
         if line.default ~= nil then io.write(' [' .. tostring(line.default) .. ']') end
         io.write('\n')
      end
   end
end
