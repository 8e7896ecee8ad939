-- The prompt of dpnn-lua: compiles input lines and completes names. Values are printed as in th.
local show = ...
_RESULTS = {}
local keywords = {}
for word in ('and break do else elseif end false for function if in local nil not or repeat return then true until while'):gmatch('%a+') do
   keywords[word] = true
end

local function keep(...) _RESULT = {n = select('#', ...), ...} end

-- Python handles Ctrl-C when Lua calls Python. Input therefore calls Python after each INSTRUCTIONS instructions, and is not compiled by
-- the JIT, because compiled loops do not count instructions.
local INSTRUCTIONS = 100000
local call_python = torch.tic
local sethook, disable_jit = debug and debug.sethook, jit and jit.off or function() end
local function make_interruptible(f)
   if not sethook then return end
   disable_jit(f, true)
   sethook(function() call_python() end, '', INSTRUCTIONS)
end

-- the function for an input text; or nil, whether the input is incomplete, and the error message
local function compile(text)
   local command = text:match('^%s*%$(.*)')
   if command then return function() os.execute(command) end end
   text = text:gsub('^%s*=', '')  -- as in Lua's own prompt
   local expression = not text:find(';%s*$') and not text:find('^%s*print') and loadstring('return ' .. text)
   local f, message = loadstring(expression and 'local keep = ... keep(' .. text .. '\n)' or text, '=stdin')
   if f then
      make_interruptible(f)
      return function()
         if not expression then return f() end
         f(keep)
         _LAST = _RESULT[1]
         if _LAST ~= nil then _RESULTS[#_RESULTS + 1] = _LAST end
         show(5, unpack(_RESULT, 1, _RESULT.n))
      end
   end
   return nil, message:find("'<eof>'", 1, true) ~= nil, message
end

-- completions of the word before the cursor, such as torch.ran or net:for
local function complete(word)
   local path, last = word:match('^(.-)([%w_]*)$')
   local at = _G
   for name in path:gmatch('[%w_]+') do
      local ok, value = pcall(function() return at[name] end)
      if not ok or value == nil then return {} end
      at = value
   end
   local seen, names = {}, {}
   local function add_names(container)
      for key in pairs(container) do
         if type(key) == 'string' and key:match('^[%a_][%w_]*$') and key:sub(1, #last) == last and not seen[key]
            and (last:sub(1, 1) == '_' or key:sub(1, 1) ~= '_') then
            seen[key] = true
            names[#names + 1] = key
         end
      end
   end
   if type(at) == 'table' then add_names(at) end
   local mt = torch.getmetatable(torch.typename(at) or '') or (type(at) == 'string' and {__index = string}) or nil
   local depth = 0
   while type(mt) == 'table' and depth < 20 do
      add_names(mt)
      if type(mt.__index) == 'table' then add_names(mt.__index) end
      mt, depth = getmetatable(mt), depth + 1
   end
   if path == '' then
      for key in pairs(keywords) do if key:sub(1, #last) == last then names[#names + 1] = key end end
   end
   table.sort(names)
   return names
end
return compile, complete
