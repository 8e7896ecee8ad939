-- xlua.OptionParser: command-line options. xlua.Profiler: measures the time of parts of a program.
local Options = {}

local function is_stored(description) return description.action == nil or description.action == 'store' end

-- {'-n', '--name', dest=, default=, help=, action='store' | 'store_true' | 'store_false', metavar=, req=}
function Options:option(description)
   table.insert(self.option_descriptions, description)
   for _, flag in ipairs(description) do self.option_of[flag] = description end
end

function Options:fail(message)
   io.stderr:write(message, '\n')
   self:help()
   os.exit(1)
end

-- split '--input=file' into '--input', 'file'
local function words_of(arguments)
   local words = {}
   for _, word in ipairs(arguments) do
      local flag, value = word:match('^(%-%-%w+)=(.*)')
      words[#words + 1] = flag or word
      words[#words + 1] = value
   end
   return words
end

function Options:parse(options)
   options = options or {}
   local rest = {}
   for _, description in ipairs(self.option_descriptions) do
      if description.default ~= nil and options[description.dest] == nil then options[description.dest] = description.default end
   end
   self.options, options.__main__ = options, arg ~= nil
   if not arg then return options, rest end
   local words, i = words_of(arg), 1
   while i <= #words do
      local word = words[i]
      local description = self.option_of[word]
      if not description then
         if word:match('^%-') then self:fail('invalid option ' .. word) end
         rest[#rest + 1] = word
      elseif is_stored(description) then
         i = i + 1
         options[description.dest] = words[i] or description.default or self:fail('option requires an argument ' .. word)
      else
         local values = {store_true = true, store_false = false}
         local value = values[description.action]
         if value == nil then value = description.default end
         options[description.dest] = value
      end
      i = i + 1
   end
   for flag, description in pairs(self.option_of) do
      if description.req and not options[description.dest] then self:fail('option ' .. flag .. ' requires an argument ') end
   end
   if options.help then
      self:help()
      os.exit()
   end
   return options, rest
end

function Options:flags(description)
   local flags = {}
   for i, flag in ipairs(description) do
      local name = is_stored(description) and (description.metavar or description.dest:upper())
      flags[i] = not name and flag or #flag == 2 and flag .. ' ' .. name or flag .. '=' .. name
   end
   return table.concat(flags, ', ')
end

function Options:help()
   local program = arg[-1] and arg[-1] .. ' ' .. arg[0] or arg[0] or 'THISPROG'
   io.write('Usage: ', (self.usage:gsub('%%prog', (program:gsub('%%', '%%%%')))), '\n\nOptions:\n')
   local width = 0
   for _, description in ipairs(self.option_descriptions) do width = math.max(width, #self:flags(description)) end
   for _, description in ipairs(self.option_descriptions) do
      local note = description.req and ' [REQUIRED]' or description.default and ' [default = ' .. tostring(description.default) .. ']'
      local flags = self:flags(description)
      io.write('  ', flags, string.rep(' ', width - #flags), '  ', description.help, note or '', '\n')
   end
end

-- a list of the options; for_file: as a part of a file name, with the options in `chosen`, or all if it is empty
function Options:tostring(for_file, chosen)
   local parts, is_chosen = {}, {}
   if not for_file then
      for name, value in pairs(self.options) do parts[#parts + 1] = ' + ' .. name .. ' = ' .. tostring(value) .. '\n' end
      return '<' .. (arg and arg[0] or 'interpreted.lua'):gsub('.lua', '') .. '> configuration:\n' .. table.concat(parts)
   end
   for _, flag in ipairs(chosen) do is_chosen[flag] = true end
   for _, description in ipairs(self.option_descriptions) do
      local value = self.options[description.dest]
      if value and (#chosen == 0 or is_chosen[description[1]]) then parts[#parts + 1] = description[1] .. '=' .. tostring(value) end
   end
   return (table.concat(parts, ','):gsub('/', '|'):gsub(' ', '_'))
end
function Options:summarize(...) io.write(self:tostring(...)) end

local function object_of(methods, fields)
   for name, f in pairs(methods) do fields[name] = f end
   return fields
end
function xlua.OptionParser(usage)
   local parser = object_of(Options, {usage = usage, option_descriptions = {}, option_of = {}})
   parser:option {'-h', '--help', action = 'store_true', dest = 'help', help = 'show this help message and exit'}
   return parser
end

-- events: start times (cpu, real) and last durations (cpud, reald) in seconds
local Profiler = {}
function Profiler:start(name, fps)
   local event = self.events[name]
   if not event then
      event = {name = name}
      self.events[name] = event
      table.insert(self.list, event)
   end
   event.cpu, event.real, event.fps = os.clock(), torch.tic(), event.fps or fps == 'fps' or nil
   if self.verbose then
      io.write('<', name, '>')
      io.flush()
   end
end
function Profiler:setColor(name, color)
   if not self.events[name] then error('# ERROR: There is no such profiler - ' .. name .. ', create it first') end
   self.events[name].color = color
end
for field, clock in pairs {cpu = os.clock, real = torch.tic} do
   Profiler[field] = function(self, name, divider)
      local event = self.events[name]
      event[field .. 'd'] = (clock() - event[field]) / (divider or 1)
      return event[field .. 'd']
   end
end
function Profiler:lap(name, divider)
   local real, cpu = self:real(name, divider), self:cpu(name, divider)
   if self.verbose then
      io.write('\r')
      self:print(name)
   end
   return real, cpu
end
function Profiler:format(name)
   local event = self.events[name]
   return ('$ real | cpu: %f | %f <%s>'):format(event.reald or -1, event.cpud or -1, name)
end
function Profiler:formatAll()
   local lines = {'$ profiler report:'}
   for i, event in ipairs(self.list) do
      local line = ('$ real %f | cpu %f <%s>'):format(event.reald or -1, event.cpud or -1, event.name)
      lines[i + 1] = event.fps and line .. (' = %f fps'):format(1 / event.reald) or line
   end
   return table.concat(lines, '\n')
end
function Profiler:print(name) if not self.off then print(self:format(name)) end end
function Profiler:printAll() if not self.off then print(self:formatAll()) end end
function xlua.Profiler(mode, verbose)
   return object_of(Profiler, {events = {}, list = {}, off = mode == 'off', verbose = verbose or false})
end
