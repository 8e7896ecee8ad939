-- Random sequences of tensor operations, and what came of each, as text: one block for each sequence.
--
--    th sequences.lua SEED FIRST LAST       dpnn-lua sequences.lua SEED FIRST LAST
--
-- Four tensors live in t; each step runs a line of Lua and prints the line, what it returned or that it failed, and every
-- tensor that is another than before: type, sizes, strides, offset, elements, which of them share memory.
local SEED, FIRST, LAST = tonumber(arg[1]), tonumber(arg[2]), tonumber(arg[3])
local STEPS = 8
io.stdout:setvbuf 'line'
local function print(text) io.write(text, '\n') end

local state
local function draw(n)  -- 1 … n
   state = state * 16807 % 2147483647
   return state % n + 1
end
local function pick(list) return list[draw(#list)] end
local function chance(percent) return draw(100) <= percent end

-- values --------------------------------------------------------------------------------------------------------------
local INTEGERS = {Byte = true, Char = true, Short = true, Int = true, Long = true}
local function kind(x) return x:type():match('torch%.(%a+)Tensor') end

local function element(ty)
   if ty == 'Byte' then return draw(9) - 1 end
   if INTEGERS[ty] then return draw(9) - 5 end
   if chance(3) then return pick {'1/0', '-1/0', '0/0', '-0.0'} end
   return (draw(17) - 9) / 2
end

local function sizes()
   local n, list = pick {1, 1, 2, 2, 2, 3, 3, 4}, {}
   for i = 1, n do list[i] = pick {1, 2, 2, 3, 3, 4} end
   return list
end

local function fresh(ty, size)
   ty = ty or pick {'Double', 'Double', 'Double', 'Double', 'Double', 'Float', 'Float', 'Long', 'Int', 'Byte', 'Short', 'Char'}
   if not size and chance(4) then return 'torch.' .. ty .. 'Tensor()' end
   size = size or sizes()
   local count, values = 1, {}
   for _, n in ipairs(size) do count = count * n end
   for i = 1, count do values[i] = element(ty) end
   return ('torch.%sTensor({%s}):view(%s)'):format(ty, table.concat(values, ','), table.concat(size, ','))
end

-- text ----------------------------------------------------------------------------------------------------------------
local function number(v)
   if v ~= v then return 'nan' end
   if v == 0 then return 1 / v < 0 and '-0' or '0' end
   return ('%.5g'):format(v * (1 + 1e-9))  -- the nudge: printf's of different years break ties in different ways
end

local function pointer(x) return x:storage() and torch.pointer(x:storage()) end

local function geometry(x)
   return ('%s[%s|%s|%d]'):format(kind(x), table.concat(x:size():totable(), ' '), table.concat(x:stride():totable(), ' '), x:storageOffset())
end

local function text(x)
   local values = {}
   if x:dim() > 0 then
      for i, v in ipairs(x:clone():view(-1):totable()) do values[i] = number(v) end
   end
   return geometry(x) .. '{' .. table.concat(values, ' ') .. '}'
end

local function describe(value)
   if type(value) == 'number' then return number(value) end
   if type(value) == 'table' then
      local parts = {}
      for i, v in ipairs(value) do parts[i] = describe(v) end
      return '{' .. table.concat(parts, ', ') .. '}'
   end
   if torch.isTensor(value) then
      for i, other in ipairs(t) do
         if torch.pointer(value) == torch.pointer(other) then return 't' .. i end
      end
      local shared = ''
      for i, other in ipairs(t) do
         if pointer(value) and pointer(value) == pointer(other) then shared = shared .. '@' .. i end
      end
      return text(value) .. shared
   end
   if torch.isStorage(value) then return 'storage{' .. table.concat(value:totable(), ' ') .. '}' end
   return tostring(value)
end

-- arguments: text of Lua, for t[i] -----------------------------------------------------------------------------------
local function dim(x) return chance(92) and x:dim() > 0 and draw(x:dim()) or pick {0, -1, 1, 2, 5} end
local function any() return 't[' .. draw(#t) .. ']' end
local function scalar(x) return INTEGERS[kind(x)] and pick {1, 2, 3} or pick {0.5, 1, 2, -1.5, -2, 3, '0'} end

-- a tensor of the type and number of elements of x, mostly
local function like(x)
   if chance(8) then return any() end
   local same = {}
   for i, other in ipairs(t) do
      if kind(other) == kind(x) and other:nElement() == x:nElement() then same[#same + 1] = 't[' .. i .. ']' end
   end
   if #same > 0 and chance(60) then return pick(same) end
   local size = x:size():totable()
   if #size == 0 then return any() end
   if chance(25) and #size > 1 then  -- transposed
      size[1], size[2] = size[2], size[1]
      return fresh(kind(x), size) .. ':transpose(1,2)'
   end
   if chance(15) then size = {x:nElement()} end
   return fresh(kind(x), size)
end

local function integers(count, most)
   local values = {}
   for i = 1, count do values[i] = chance(97) and draw(math.max(most, 1)) or pick {0, most + 1, -1} end
   return 'torch.LongTensor({' .. table.concat(values, ',') .. '})'
end

-- distinct indices: the order of work does not matter
local function distinct(count, most)
   local values, pool = {}, {}
   for i = 1, most do pool[i] = i end
   for i = 1, math.min(count, most) do values[i] = table.remove(pool, draw(#pool)) end
   return 'torch.LongTensor({' .. table.concat(values, ',') .. '})', #values
end

local function mask(x)
   local size = x:size():totable()
   if #size == 0 then return 'torch.ByteTensor()' end
   local count, values = x:nElement(), {}
   for i = 1, count do values[i] = draw(2) - 1 end
   return ('torch.ByteTensor({%s}):view(%s)'):format(table.concat(values, ','), table.concat(size, ','))
end

local function factors(x)
   local n, list = x:nElement(), {}
   if n == 0 then return pick {'0', '1', '2,3', '-1'} end
   if chance(6) then return pick {'-1', '-1,-1', '0', '2,3', '7'} end
   for f = 1, n do if n % f == 0 then list[#list + 1] = f end end
   local f = pick(list)
   return pick {n .. '', f .. ',' .. n / f, f .. ',1,' .. n / f, '-1,' .. f, f .. ',-1'}
end

local function matrix(x, rows, columns) return fresh(kind(x), {rows, columns}) end

-- steps: f(name of a tensor, the tensor) gives Lua -------------------------------------------------------------------------
local steps = {}
local function step(weight, f) for _ = 1, weight do steps[#steps + 1] = f end end

-- views, kept in t
local function view(a, x)
   local d = dim(x)
   local n = x:dim() > 0 and d >= 1 and d <= x:dim() and x:size(d) or 3
   local first = chance(92) and draw(n) or pick {0, -1, n + 1}
   local text = pick {
      function() return ('%s:narrow(%s,%s,%s)'):format(a, d, first, chance(92) and draw(math.max(1, n - first + 1)) or draw(4)) end,
      function() return ('%s:select(%s,%s)'):format(a, d, first) end,
      function() return ('%s[%d]'):format(a, first) end,
      function() return ('%s[{{%d,%d}}]'):format(a, first, pick {first, n, -1}) end,
      function() return ('%s[{{},%d}]'):format(a, first) end,
      function() return ('%s:sub(%d,%d)'):format(a, first, pick {first, n, -1}) end,
      function() return ('%s:transpose(%s,%s)'):format(a, d, dim(x)) end,
      function() return a .. ':t()' end,
      function() return ('%s:unfold(%s,%s,%s)'):format(a, d, draw(n), draw(2)) end,
      function() return a .. ':squeeze(' .. pick {'', '', d} .. ')' end,
      function() return ('%s:view(%s)'):format(a, factors(x)) end,
      function() return ('%s:reshape(%s)'):format(a, factors(x)) end,
      function() return ('%s:viewAs(%s)'):format(a, like(x)) end,
      function() return ('%s:expandAs(%s)'):format(a, like(x)) end,
      function()
         local to = x:size():totable()
         for i, m in ipairs(to) do if m == 1 then to[i] = draw(3) elseif chance(5) then to[i] = draw(3) end end
         return ('%s:expand(%s)'):format(a, #to == 0 and pick {'1', '2,3', ''} or table.concat(to, ','))
      end,
      function()
         local order, pool = {}, {}
         for i = 1, x:dim() do pool[i] = i end
         while #pool > 0 do order[#order + 1] = table.remove(pool, draw(#pool)) end
         return ('%s:permute(%s)'):format(a, table.concat(order, ','))
      end,
      function() return ('%s:repeatTensor(%s)'):format(x:dim() > 0 and a or fresh(), pick {'2', '1,2', '2,1,2', '2,1,1,2', '1,2,1,1,1'}) end,
      function() return a .. ':contiguous()' end,
      function() return a .. ':clone()' end,
      function() return ("%s:type('torch.%sTensor')"):format(a, pick {'Double', 'Float', 'Double', 'Long'}) end,
      function() return ('%s.new(%s)'):format('torch.' .. kind(x) .. 'Tensor', a) end,
      function() return ('%s:index(%s,%s)'):format(a, d, integers(draw(3), n)) end,
      function() return ('%s:maskedSelect(%s)'):format(a, mask(x)) end,
      function() return ('%s:gather(%s,%s)'):format(a, d, integers(n, n)) end,
      function() return ('torch.cat(%s,%s,%s)'):format(a, like(x), d) end,
      function() return ('torch.cat({%s,%s})'):format(a, like(x)) end,
      function() return ('%s:diag(%s)'):format(a, draw(3) - 2) end,
      function() return ('%s:tril(%s)'):format(a, draw(3) - 2) end,
      function() return ('%s:triu(%s)'):format(a, draw(3) - 2) end,
      function() return ('grown(%s, function(s) return torch.%sTensor(s,%s,%s) end)'):format(a, kind(x), draw(3), pick {'1', '2', '2,1', '2,2,1,1', '1,0'}) end,
      function() return fresh() end,
   }()
   return ('local r = %s; if torch.isTensor(r) then t[%d] = r end; return r'):format(text, draw(#t)), text
end
step(14, view)

-- geometry in place; new memory is zero
step(3, function(a, x)
   return pick {
      ('return %s:set(%s)'):format(a, like(x)),
      ('return grown(%s, function() return %s:resizeAs(%s) end)'):format(a, a, like(x)),
      ('return %s:resize(%s)'):format(a, factors(x)),
      ('return grown(%s, function() return %s:resize(%s) end)'):format(a, a, table.concat(sizes(), ',')),
      ('return grown(%s, function(s) return %s:set(s, %s, %s) end)'):format(like(x), a, draw(3), pick {'1', '2,1', '2,1,2,1', '2,0'}),
      ('return %s:view(%s, %s)'):format(a, any(), factors(x)),
      ('return %s:expand(%s, %s)'):format(a, any(), pick {'2', '2,3', '3,1', '2,2,2'}),
      ('return %s:squeeze()'):format(a),
   }
end)

-- element by element
local UNARY = {'abs', 'neg', 'sign', 'floor', 'ceil', 'round', 'trunc', 'frac', 'sqrt', 'exp', 'log', 'sigmoid', 'tanh', 'rsqrt', 'cinv', 'sin', 'atan', 'log1p'}
step(4, function(a, x)
   local f = pick(UNARY)
   return pick {('return %s:%s()'):format(a, f), ('return %s:%s(%s)'):format(a, f, like(x)), ('return torch.%s(%s)'):format(f, a), ('return torch.%s(%s, %s)'):format(f, a, like(x))}
end)
step(5, function(a, x)
   local v = scalar(x)
   local f = pick {'add', 'mul', 'div', 'sub', 'fmod', 'remainder', 'csub', 'cmax', 'cmin', 'pow', 'fill', 'clamp', 'lshift'}
   if f == 'clamp' then v = pick {'0, 2', '-1, 1', '1, -1'} end
   if INTEGERS[kind(x)] and (f == 'pow' or f == 'lshift') then f = 'add' end
   if f == 'lshift' then f = 'mul' end
   if v == '0' and INTEGERS[kind(x)] then v = 1 end
   return pick {
      ('return %s:%s(%s)'):format(a, f, v), ('return %s:%s(%s, %s)'):format(a, f, like(x), v),
      ('return torch.%s(%s, %s)'):format(f, a, v), ('return torch.%s(%s, %s, %s)'):format(f, a, like(x), v),
      f == 'pow' and ('return %s:pow(2)'):format(a) or ('return %s:fill(%s)'):format(a, v),
   }
end)
step(6, function(a, x)
   local f = pick {'add', 'cmul', 'cdiv', 'csub', 'cmax', 'cmin', 'cpow', 'cfmod', 'cremainder', 'atan2', 'copy', 'copy', 'sub'}
   if INTEGERS[kind(x)] and (f == 'cdiv' or f == 'cfmod' or f == 'cremainder' or f == 'cpow' or f == 'atan2') then f = 'cmul' end
   local b, c = like(x), like(x)
   if f == 'copy' then return pick {('return %s:copy(%s)'):format(a, b), ('return %s:copy(%s)'):format(a, any())} end
   return pick {
      ('return %s:%s(%s)'):format(a, f, b), ('return %s:%s(%s, %s)'):format(a, f, b, c),
      ('return torch.%s(%s, %s)'):format(f, a, b), ('return torch.%s(%s, %s, %s)'):format(f, a, b, c),
      f == 'add' and ('return %s:add(%s, %s)'):format(a, scalar(x), b) or ('return %s:%s(%s)'):format(a, f, b),
      f == 'add' and ('return %s:add(%s, %s, %s)'):format(a, b, scalar(x), c) or ('return %s:%s(%s)'):format(a, f, a),
   }
end)
step(2, function(a, x)
   local f = pick {'addcmul', 'addcdiv', 'lerp'}
   if INTEGERS[kind(x)] then f = 'addcmul' end
   local b, c, d = like(x), like(x), like(x)
   if f == 'lerp' then return ('return %s:lerp(%s, %s, 0.5)'):format(a, b, c) end
   return pick {
      ('return %s:%s(%s, %s)'):format(a, f, b, c), ('return %s:%s(%s, %s, %s)'):format(a, f, scalar(x), b, c),
      ('return %s:%s(%s, %s, %s, %s)'):format(a, f, b, scalar(x), c, d), ('return torch.%s(%s, %s, %s)'):format(f, a, b, c),
   }
end)
step(1, function(a, x)
   local f = pick {'eq', 'ne', 'lt', 'le', 'gt', 'ge'}
   return pick {('return %s:%s(%s)'):format(a, f, like(x)), ('return %s:%s(%s)'):format(a, f, scalar(x)), ('return torch.%s(%s, %s)'):format(f, a, like(x))}
end)
step(2, function(a, x)
   local op = pick {'+', '-', '*', '/'}
   if op == '/' and INTEGERS[kind(x)] then return ('return %s / %s'):format(a, 2) end
   return pick {('return %s %s %s'):format(a, op == '/' and '+' or op, like(x)), ('return %s %s %s'):format(a, op, scalar(x)), op == '/' and ('return -%s'):format(a) or ('return %s %s %s'):format(scalar(x), op, a)}
end)

-- reductions
step(4, function(a, x)
   local f = pick {'sum', 'prod', 'max', 'min', 'mean', 'std', 'var', 'norm', 'cumsum', 'cumprod', 'sort', 'median', 'mode', 'kthvalue', 'topk', 'all', 'any', 'trace', 'dist', 'dot', 'nonzero', 'equal', 'renorm', 'numel', 'sign'}
   local d = dim(x)
   if f == 'norm' then return ('return %s:norm(%s)'):format(a, pick {'', '1', '2, ' .. d, '0, ' .. d}) end
   if f == 'kthvalue' then return ('return {%s:kthvalue(%s, %s)}'):format(a, draw(3), d) end
   if f == 'topk' then return ('return {%s:topk(%s, %s, %s, true)}'):format(a, draw(3), d, pick {'true', 'false'}) end
   if f == 'dist' or f == 'dot' or f == 'equal' then return ('return %s:%s(%s)'):format(a, f, like(x)) end
   if f == 'renorm' then return ('return %s:renorm(2, %s, 2)'):format(a, d) end
   if f == 'trace' or f == 'nonzero' or f == 'numel' or f == 'sign' then return ('return %s:%s()'):format(a, f) end
   if f == 'sort' then return ('return {%s:sort(%s)}'):format(a, pick {d, d .. ', true', ''}) end  -- a result of other strides gets nonsense in Torch7
   return pick {('return {%s:%s(%s)}'):format(a, f, d), ('return {%s:%s()}'):format(a, f), ('return {torch.%s(%s, %s)}'):format(f, a, d), ('return {torch.%s(%s, %s, %s)}'):format(f, chance(50) and a or like(x), a, d)}
end)

-- indices
step(3, function(a, x)
   local d = dim(x)
   local real = x:dim() > 0 and d >= 1 and d <= x:dim()
   local n = real and x:size(d) or 3
   local list, count = distinct(draw(3), n)
   local size = x:size():totable()
   if real then size[d] = count end
   local source = #size > 0 and fresh(kind(x), size) or any()
   return pick {
      function() return ('return %s:indexFill(%s, %s, %s)'):format(a, d, list, scalar(x)) end,
      function() return ('return %s:indexCopy(%s, %s, %s)'):format(a, d, list, source) end,
      function() return ('return %s:indexAdd(%s, %s, %s)'):format(a, d, list, source) end,
      function() return ('return %s:index(%s, %s, %s)'):format(a, like(x), d, list) end,
      function() return ('return %s:maskedFill(%s, %s)'):format(a, mask(x), scalar(x)) end,
      function() return ('return %s:maskedCopy(%s, %s)'):format(a, mask(x), like(x)) end,
      function() return ('%s[%s] = %s'):format(a, draw(n), pick {scalar(x), like(x)}) end,
      function() return ('%s[{{%s,%s}}] = %s'):format(a, 1, draw(n), pick {scalar(x), like(x)}) end,
      function() return ('%s[%s] = %s'):format(a, mask(x), scalar(x)) end,
      function() return ('return %s[%s]'):format(a, mask(x)) end,
      function() return ('return %s:apply(function(v) return v + 1 end)'):format(a) end,
      function() return ('return %s:map(%s, function(v, w) return v * 2 - w end)'):format(a, like(x)) end,
      function() return ('return %s:split(%s, %s)'):format(a, draw(3), d) end,
      function() return ('return %s:chunk(%s, %s)'):format(a, draw(3), d) end,
      function() return ('return %s:%s(%s)'):format(a, pick {'isSameSizeAs', 'isSetTo'}, like(x)) end,
      function() return ('return %s:%s()'):format(a, pick {'isContiguous', 'nElement', 'nDimension', 'storageOffset', 'totable', 'zero'}) end,
      function() return ('return %s:%s(%s)'):format(a, pick {'size', 'stride'}, d) end,
      function() return ('return %s:scatter(%s, %s, %s)'):format(a, d, x:dim() == 1 and list or any(), x:dim() == 1 and pick {scalar(x), fresh(kind(x), {count})} or any()) end,
   }()
end)

-- products
step(4, function(a, x)
   local ty = kind(x)
   local m, k, n, b = draw(3), draw(3), draw(3), draw(2)
   local function M(r, c)
      if chance(25) then return any() end
      return chance(30) and fresh(ty, {c, r}) .. ':t()' or fresh(ty, {r, c})
   end
   local function V(c) return chance(15) and any() or fresh(ty, {c}) end
   local function B(r, c) return fresh(ty, {b, r, c}) end
   if x:dim() == 2 then m, n = x:size(1), x:size(2) elseif x:dim() == 1 then m = x:size(1) elseif x:dim() == 3 then b, m, n = x:size(1), x:size(2), x:size(3) end
   if chance(20) then  -- the result is a source
      local f = pick {'addmm', 'mm', 'mv', 'addmv', 'addr', 'ger', 'bmm', 'baddbmm', 'addbmm'}
      return pick {('return %s:%s(%s, %s)'):format(a, f, a, a), ('return %s:%s(%s, %s)'):format(a, f, a, M(n, n)), ('return %s:%s(%s, %s)'):format(a, f, a, V(n)), ('return %s:%s(%s, %s, %s)'):format(a, f, like(x), a, M(n, n))}
   end
   if x:dim() == 3 then
      return pick {
         ('return %s:bmm(%s, %s)'):format(a, B(m, k), B(k, n)), ('return %s:baddbmm(%s, %s)'):format(a, B(m, k), B(k, n)),
         ('return %s:baddbmm(%s, %s, %s, %s)'):format(a, scalar(x), scalar(x), B(m, k), B(k, n)), ('return torch.bmm(%s, %s)'):format(a, B(n, k)),
      }
   elseif x:dim() == 1 then
      return pick {
         ('return %s:addmv(%s, %s)'):format(a, M(m, k), V(k)), ('return %s:mv(%s, %s)'):format(a, M(m, k), V(k)),
         ('return %s:addmv(%s, %s, %s, %s)'):format(a, scalar(x), scalar(x), M(m, k), V(k)), ('return torch.ger(%s, %s)'):format(a, V(k)),
         ('return torch.addmv(%s, %s, %s, %s)'):format(scalar(x), a, M(m, k), V(k)), ('return %s * %s'):format(M(k, m), a),
      }
   end
   return pick {
      ('return %s:addmm(%s, %s)'):format(a, M(m, k), M(k, n)), ('return %s:mm(%s, %s)'):format(a, M(m, k), M(k, n)),
      ('return %s:addmm(%s, %s, %s, %s)'):format(a, scalar(x), scalar(x), M(m, k), M(k, n)),
      ('return %s:addmm(%s, %s, %s)'):format(a, like(x), M(m, k), M(k, n)),
      ('return torch.addmm(%s, %s, %s)'):format(a, M(m, k), M(k, n)),
      ('return %s:addr(%s, %s)'):format(a, V(m), V(n)), ('return %s:addr(%s, %s, %s, %s)'):format(a, scalar(x), scalar(x), V(m), V(n)),
      ('return %s:addbmm(%s, %s)'):format(a, B(m, k), B(k, n)), ('return torch.mm(%s, %s)'):format(a, M(n, k)), ('return %s * %s'):format(a, V(n)),
      ('return torch.addr(%s, %s, %s)'):format(a, V(m), V(n)), ('return %s:mv(%s, %s)'):format(a, M(m, k), V(k)),
   }
end)

-- new memory of the storage of x, which f resizes, is zero
function grown(x, f)
   local s = x:storage()
   local before = s and s:size() or 0
   local ok, r = pcall(f, s)
   s = s or x:storage()
   if s then for i = before + 1, s:size() do s[i] = 0 end end
   if not ok then error(r, 0) end
   return r
end

-- run -------------------------------------------------------------------------------------------------------------------
local function states()
   local list = {}
   for i, x in ipairs(t) do
      local shared = ''
      for k = 1, i - 1 do
         if pointer(x) and pointer(x) == pointer(t[k]) then shared = shared .. '@' .. k end
      end
      list[i] = text(x) .. shared
   end
   return list
end

for sequence = FIRST, LAST do
   state = (SEED * 7919 + sequence * 104729) % 2147483646 + 1
   for _ = 1, 5 do draw(2) end
   t = {}
   local main = chance(75) and pick {'Double', 'Double', 'Float', 'Long', 'Int', 'Byte'} or nil
   for i = 1, 4 do t[i] = assert(loadstring('return ' .. fresh(main)))() end
   local before = states()
   print('sequence ' .. sequence .. ' ' .. table.concat(before, ' '))
   for i = 1, STEPS do
      local at = draw(#t)
      local code, shown = pick(steps)('t[' .. at .. ']', t[at])
      local ok, result = pcall(assert(loadstring(code)))
      local now = states()
      local changed = {}
      for k = 1, #t do if now[k] ~= before[k] then changed[#changed + 1] = 't' .. k .. '=' .. now[k] end end
      print(('%s\t%s\t%s'):format(code, ok and describe(result) or 'error', table.concat(changed, ' ')))
      before = now
      for k = 1, #t do if t[k]:nElement() > 200 then t[k] = t[k].new(); before[k] = text(t[k]) end end
   end
end
