-- Time every method of a tensor type, on one size and layout: see bench_lua.py, which runs this in the bridge and in Torch7.
local ty, n, transposed, pattern = ...
local T, big = torch[ty .. 'Tensor'], n > 100
torch.manualSeed(1)

-- Operands. x, y: n x n, 1 .. 9; r: a result; v, w, s: n elements; m, p: matrices for products and other cubic work, at most
-- 100 x 100; a: positive definite; i: places; g: places for gather; b: mask. Where `transposed`, no one is contiguous.
local function matrix(rows, columns, class)
   local t = (class or T)(transposed and columns or rows, transposed and rows or columns)
   return transposed and t:t() or t
end
local function vector(count, class)
   return transposed and (class or T)(count, 2):select(2, 1) or (class or T)(count)
end
local function random(t, last) return t:copy(torch.LongTensor():resize(t:size()):random(1, last or 9)) end
local k = math.min(n, 100)
local o = {
   n = n, k = k, x = random(matrix(n, n)), y = random(matrix(n, n)), r = random(matrix(n, n)), v = random(vector(n)), w = random(vector(n)), s = random(vector(n)),
   m = random(matrix(k, k)), p = random(matrix(k, k)), q = random(matrix(k, k)), u = random(vector(k)), h = random(vector(k)),
   a = matrix(k, k), kernel = random(matrix(3, 3)), row = random(T(1, n)), z = T(), c = random(matrix(n, 3)), e = random(matrix(n, 3)),
   i = random(vector(n, torch.LongTensor), n), g = random(matrix(n, n, torch.LongTensor), n),
   b = random(matrix(n, n, torch.ByteTensor), 2):add(-1), T = T, f = function() return 1 end, f2 = function(_, t) return t end, d = matrix(n, n, torch.DoubleTensor):fill(0.5),
   file = torch.MemoryFile(), other = matrix(n, n, ty == 'Double' and torch.FloatTensor or torch.DoubleTensor):fill(1),
}
o.three, o.four, o.five = random(T(4, k, k)), random(T(4, k, k)), random(T(4, k, k))
o.cube = random(T(3, 3, 3))
if ty == 'Float' or ty == 'Double' then
   local t = torch.randn(k, k)
   o.a:copy(t * t:t() + torch.eye(k) * k)
   o.l = torch.potrf(o.a)
   o.reflected, o.tau = torch.geqrf(o.a)
   o.prob = o.v:clone():div(o.v:sum())
   if ty == 'Float' or ty == 'Double' then o.alias = torch.multinomialAliasSetup(o.prob) end
end

-- What is timed: `r:f(...)` stands for the function torch.f(...) too; others are as they are
local forms = {
   add = {'x:add(1)', 'r:add(x, y)', 'r:add(x, 2, y)'}, csub = {'x:csub(1)', 'r:csub(x, y)'}, mul = {'x:mul(1)', 'r:mul(x, 3)'}, div = {'x:div(1)', 'r:div(x, 3)'},
   cmul = {'r:cmul(x, y)'}, cdiv = {'r:cdiv(x, y)'}, cpow = {'r:cpow(x, y)'}, cmax = {'r:cmax(x, y)', 'r:cmax(x, 3)'}, cmin = {'r:cmin(x, y)', 'r:cmin(x, 3)'},
   fmod = {'r:fmod(x, 3)'}, mod = {'r:mod(x, 3)'}, remainder = {'r:remainder(x, 3)'}, cfmod = {'r:cfmod(x, y)'}, cmod = {'r:cmod(x, y)'}, cremainder = {'r:cremainder(x, y)'},
   bitand = {'r:bitand(x, 3)'}, bitor = {'r:bitor(x, 3)'}, bitxor = {'r:bitxor(x, 3)'}, cbitand = {'r:cbitand(x, y)'}, cbitor = {'r:cbitor(x, y)'}, cbitxor = {'r:cbitxor(x, y)'},
   lshift = {'r:lshift(x, 1)'}, rshift = {'r:rshift(x, 1)'}, clshift = {'r:clshift(x, y)'}, crshift = {'r:crshift(x, y)'},
   clamp = {'r:clamp(x, 2, 5)'}, addcmul = {'r:addcmul(x, 2, x, y)'}, addcdiv = {'r:addcdiv(x, 2, x, y)'}, atan2 = {'r:atan2(x, y)'}, lerp = {'r:lerp(x, y, 0.5)'},
   pow = {'r:pow(x, 2)', 'r:pow(x, 2.5)', 'r:pow(2, x)'}, sign = {'r:sign(x)'},
   fill = {'r:fill(2)'}, zero = {'r:zero()'}, copy = {'r:copy(x)', 'r:copy(other)'}, clone = {'x:clone()'}, contiguous = {'x:contiguous()'},
   equal = {'x:equal(x)'}, dist = {'x:dist(y)'}, trace = {'x:trace()'}, numel = {'x:numel()'}, dot = {'v:dot(w)', 'x:dot(y)'},
   prod = {'x:prod()', 'x:prod(1)', 'x:prod(2)'}, norm = {'x:norm()', 'x:norm(1)', 'x:norm(2, 1)', 'x:norm(2, 2)', 'x:norm(3, 1)'}, cumsum = {'r:cumsum(x, 1)', 'r:cumsum(x, 2)'},
   cumprod = {'r:cumprod(x, 1)', 'r:cumprod(x, 2)'}, sort = {'x:sort(1)', 'x:sort(2, true)', 'v:sort()'}, topk = {'x:topk(3)', 'x:topk(3, 1, true, true)'}, kthvalue = {'x:kthvalue(2)', 'x:kthvalue(2, 1)'},
   median = {'x:median()', 'x:median(1)'}, mode = {'x:mode()', 'x:mode(1)'}, renorm = {'r:renorm(x, 2, 1, 3)', 'r:renorm(x, 1, 2, 3)'}, histc = {'x:histc(10)'}, bhistc = {'x:bhistc(10)'},
   match = {'q:match(m, p, 1)'}, mm = {'q:mm(m, p)'}, mv = {'s:mv(x, v)'}, ger = {'r:ger(v, w)'}, addmm = {'q:addmm(0.5, m, p)', 'q:addmm(m, p)'}, addmv = {'s:addmv(0, 1, x, v)'},
   addr = {'r:addr(0, 1, v, w)'}, bmm = {'five:bmm(three, four)'}, addbmm = {'q:addbmm(0, 1, three, four)'}, baddbmm = {'five:baddbmm(0, 1, three, four)'}, cross = {'c:cross(e, 2)'},
   index = {'x:index(1, i)', 'x:index(2, i)'}, indexCopy = {'r:indexCopy(1, i, x)', 'r:indexCopy(2, i, x)'}, indexFill = {'r:indexFill(1, i, 2)', 'r:indexFill(2, i, 2)'},
   indexAdd = {'r:indexAdd(1, i, x)', 'r:indexAdd(2, i, x)'}, gather = {'x:gather(1, g)', 'x:gather(2, g)'}, scatter = {'r:scatter(1, g, x)', 'r:scatter(2, g, 3)'},
   maskedFill = {'r:maskedFill(b, 2)'}, maskedSelect = {'x:maskedSelect(b)'}, maskedCopy = {'r:maskedCopy(b, y)'}, nonzero = {'x:nonzero()'},
   narrow = {'x:narrow(1, 2, 2)'}, select = {'x:select(1, 2)', 'x:select(2, 2)'}, sub = {'x:sub(2, 3)', 'x:sub(2, 3, 2, 3)'}, transpose = {'x:transpose(1, 2)'}, unfold = {'x:unfold(1, 2, 1)'},
   view = {'r:view(n * n)'}, viewAs = {'r:viewAs(x)'}, expand = {'row:expand(n, n)'}, expandAs = {'row:expandAs(x)'}, repeatTensor = {'x:repeatTensor(2, 1)'}, reshape = {'x:reshape(n * n)'},
   permute = {'x:permute(2, 1)'}, split = {'x:split(5)'}, chunk = {'x:chunk(3)'}, resize = {'z:resize(n, n)'}, resizeAs = {'z:resizeAs(x)'}, set = {'z:set(x)'},
   type = {'x:type()', "x:type('torch.FloatTensor')"}, typeAs = {'x:typeAs(other)'}, isSetTo = {'x:isSetTo(y)'}, isSize = {'x:isSize(x:size())'}, isSameSizeAs = {'x:isSameSizeAs(y)'},
   size = {'x:size()', 'x:size(1)'}, stride = {'x:stride()', 'x:stride(1)'}, cat = {'torch.cat(x, y, 1)', 'torch.cat({x, y, x}, 2)'}, new = {'x.new()', 'x.new(3, 4)', 'x.new(x)'},
   random = {'r:random()', 'r:random(1, 9)'}, bernoulli = {'r:bernoulli()', 'r:bernoulli(d)'}, geometric = {'r:geometric(0.5)'}, exponential = {'r:exponential(1)'},
   range = {'r:range(1, n * n)'}, linspace = {'r:linspace(0, 1, n * n)'}, logspace = {'r:logspace(0, 1, n * n)'}, zeros = {'r:zeros(n, n)'}, ones = {'r:ones(n, n)'}, eye = {'r:eye(n, n)'},
   rand = {'r:rand(n, n)'}, randn = {'r:randn(n, n)'}, randperm = {'s:randperm(n)'}, multinomial = {'torch.multinomial(prob, 5)', 'torch.multinomial(prob, 50, true)'},
   multinomialAliasSetup_ = {'torch.multinomialAliasSetup(prob)'}, multinomialAlias_ = {}, diag = {'v:diag()', 'x:diag()'}, tril = {'r:tril(x)'}, triu = {'r:triu(x)'},
   conv2 = {'m:conv2(kernel)', "m:conv2(kernel, 'F')"}, xcorr2 = {'m:xcorr2(kernel)'}, conv3 = {'three:conv3(cube)'}, xcorr3 = {'three:xcorr3(cube)'},
   apply = {'r:apply(f)'}, map = {'r:map(x, f2)'}, map2 = {'r:map2(x, y, f2)'}, totable = {'x:totable()'}, storage = {'x:storage()', 'x:storage():size()'},
   all = {'b:all()'}, any = {'b:any()'}, read = {}, write = {'file:seek(1) file:writeObject(m)'}, retain = {}, free = {}, storageOffset = {'x:storageOffset()'},
   __tostring__ = {'tostring(m)'}, __tostring = {}, __gc = {}, __factory = {}, __eq = {'z = x == y'}, __le = {}, __lt = {}, __pow = {}, __concat = {}, __call = {},
   __add__ = {'z = x + 1', 'z = x + y', 'z = 1 + x'}, __sub__ = {'z = x - 1', 'z = x - y'}, __mul__ = {'z = x * 2', 'z = m * p', 'z = m * u', 'z = v * w'}, __div__ = {'z = x / 2'}, __mod__ = {'z = x % 3'},
   __unm__ = {'z = -x'}, __len__ = {'z = #x'}, __index__ = {'z = x[2]', 'z = v[2]', 'z = x[2][3]', 'z = x[{2, 3}]', 'z = x[{2, {1, 3}}]', 'z = x[b]'},
   __newindex__ = {'v[2] = 1', 'r[2] = 1', 'r[2][3] = 1', 'r[2] = v', 'r[{2, 3}] = 1', 'r[{{}, 2}] = 1', 'r[b] = 2'},
   gesv = {'torch.gesv(p, a)'}, trtrs = {'torch.trtrs(p, l)'}, gels = {'torch.gels(p, a)'}, symeig = {'torch.symeig(a)', "torch.symeig(a, 'V')"}, eig = {"torch.eig(m, 'V')"}, svd = {'torch.svd(m)'},
   inverse = {'torch.inverse(a)'}, potrf = {'torch.potrf(a)'}, potri = {'torch.potri(l)'}, potrs = {'torch.potrs(p, l)'}, pstrf = {'torch.pstrf(a)'}, qr = {'torch.qr(m)'}, geqrf = {'torch.geqrf(m)'},
   orgqr = {'torch.orgqr(reflected, tau)'}, ormqr = {'torch.ormqr(reflected, tau, p)'}, serialize = {'torch.serialize(m)'},
}
local operators = {__add = 1, __sub = 1, __mul = 1, __div = 1, __mod = 1, __unm = 1, __len = 1, __index = 1, __newindex = 1}
for _, name in ipairs {'max', 'min', 'mean', 'sum', 'var', 'std'} do forms[name] = {'x:' .. name .. '()', 'x:' .. name .. '(1)', 'x:' .. name .. '(2)'} end
for _, name in ipairs {'lt', 'gt', 'le', 'ge', 'eq', 'ne'} do forms[name] = {'x:' .. name .. '(3)', 'x:' .. name .. '(y)', 'b:' .. name .. '(x, y)', 'r:' .. name .. '(x, 3)'} end
for _, name in ipairs {'acos', 'asin', 'atan', 'ceil', 'cinv', 'cos', 'cosh', 'exp', 'floor', 'frac', 'log', 'log1p', 'neg', 'round', 'rsqrt', 'sigmoid', 'sin', 'sinh', 'sqrt', 'tan', 'tanh', 'trunc', 'abs'} do
   forms[name] = {'r:' .. name .. '(x)'}
end
for _, name in ipairs {'uniform', 'normal', 'cauchy', 'logNormal'} do forms[name] = {'r:' .. name .. '()'} end

-- every method that Torch7 has, and the functions of torch that work on tensors without being methods
local names, seen = {}, {}
local function note(name) if not seen[name] and not operators[name] then seen[name] = true names[#names + 1] = name end end
for name, f in pairs(torch.getmetatable('torch.' .. ty .. 'Tensor')) do if type(f) == 'function' then note(name) end end
if ty == 'Float' or ty == 'Double' then
   for _, name in ipairs {'gesv', 'trtrs', 'gels', 'symeig', 'eig', 'svd', 'inverse', 'potrf', 'potri', 'potrs', 'pstrf', 'qr', 'geqrf', 'orgqr', 'ormqr'} do note(name) end
end
note 'serialize'
table.sort(names)

local declared = {}
for name in pairs(o) do declared[#declared + 1] = name end
local list, clock = table.concat(declared, ', '), os.clock
local source = 'local o, count = ... local ' .. list .. ' = o.' .. list:gsub(', ', ', o.') .. ' for _ = 1, count do %s end'

-- seconds for one run of a form, or nothing where it raises
local function seconds(form)
   local run = loadstring(source:format(form))
   if not run or not pcall(run, o, 1) then return nil end
   local least, count, passed, most, begun = big and 0.003 or 0.001, 1, nil, nil, clock()
   for _ = 1, 40 do  -- what LuaJIT compiles it compiles in the first hundreds of calls
      if clock() - begun < 0.03 then run(o, 25) end
   end
   repeat
      collectgarbage()
      local start = clock()
      run(o, count)
      passed = clock() - start
      most = big and passed / count > 1e-5 and 200 or 1e6  -- fewer where a new tensor may be large
      if passed < least then count = math.min(math.ceil(count * math.max(1.5, math.min(20, least / math.max(passed, 1e-7)))), most) end
   until passed >= least or count >= most
   local times = {passed / count}
   for round = 1, passed > 0.3 and 0 or passed > 0.05 and 2 or 2 do
      if big then collectgarbage() end
      local start = clock()
      run(o, count)
      times[#times + 1] = (clock() - start) / count
   end
   table.sort(times)
   return times[math.ceil(#times / 2)]
end

local results = {}
local function measure(name, form)
   if pattern and pattern ~= '' and not (name:find(pattern) or form == pattern) then return end
   for letter in ('xyrvws'):gmatch('.') do if o[letter] then random(o[letter]) end end
   local passed = seconds(form)
   if passed then results[#results + 1] = form .. '\t' .. passed end
end
for _, name in ipairs(names) do
   local given = forms[name] or {'x:' .. name .. '()'}
   for _, form in ipairs(given) do
      measure(name, form)
      local arguments = form:match('^[rsq]:' .. name .. '(%(.*%))$') or form:match('^x(:' .. name .. '%(.*%))$')
      if arguments and torch[name] and not (name == 'random' or name == 'fill' or name == 'zero') then
         if arguments:sub(1, 1) == ':' then arguments = '(x' .. (arguments:find('%(%)') and '' or ', ') .. arguments:match('%((.*)$') end
         measure(name, 'torch.' .. name .. arguments)
      end
   end
end
return table.concat(results, '\n')
