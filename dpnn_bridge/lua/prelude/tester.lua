-- torch.Tester and torch.TestSuite, the unit-test framework of Torch7.
local Tester = torch.class('torch.Tester')

function Tester:__init()
   self.errors, self.warnings, self.tests, self.disabledTests = {}, {}, {}, {}
   self._warningCount, self._currentTestName = {}, ''
   self._assertTensorEqIgnoresDims = true
end

function Tester:setEarlyAbort(on) self.earlyAbort = on end
function Tester:setRethrowErrors(on) self.rethrow = on end
function Tester:setSummaryOnly(on) self.summaryOnly = on end

-- outcomes ------------------------------------------------------------------------------------------------------
function Tester:_addDebugInfo(message)
   local trace = debug and debug.traceback('', 2) or ''
   local where = trace:match('.-\n([^\n]+\n[^\n]+)\n[^\n]+xpcall') or ''  -- the lines of the test
   local name = self._currentTestName
   return (name ~= '' and name .. '\n' or '') .. message .. '\n' .. where
end

function Tester:_assert_sub(condition, message)
   if condition then return self:_success() end
   return self:_failure(message)
end

function Tester:_success()
   local name = self._currentTestName
   self.assertionPass[name] = self.assertionPass[name] + 1
   return true
end

function Tester:_failure(message)
   if self.rethrow then error(message, 2) end
   local name = self._currentTestName
   self.assertionFail[name] = self.assertionFail[name] + 1
   self.errors[#self.errors + 1] = self:_addDebugInfo(message)
   return false
end

function Tester:_warning(message)
   local name = self._currentTestName
   self._warningCount[name] = (self._warningCount[name] or 0) + 1
   self.warnings[#self.warnings + 1] = self:_addDebugInfo(message)
end

local function only_message(...)
   local message, extra = ...
   assert(extra == nil, 'Unexpected arguments passed to test function')
   if not message then return '' end
   assert(type(message) == 'string', 'message parameter must be a string')
   return message == '' and '' or message .. '\n'
end

-- tolerance and message, in either order
local function options(default, ...)
   local tolerance, message
   for _, value in ipairs {...} do
      if type(value) == 'string' then
         assert(not message, 'Unexpected string argument; already have message')
         message = value .. '\n'
      elseif type(value) == 'number' then
         assert(not tolerance, 'Unexpected number argument; already have tolerance')
         assert(value >= 0, 'tolerance cannot be negative')
         tolerance = value
      else
         error('Unrecognized argument; should be a tolerance or message')
      end
   end
   return tolerance or default, message or ''
end

-- equality ------------------------------------------------------------------------------------------------------
local areEq

local function sameContent(a, b, tolerance, negate, what)
   if not a.abs then a, b = a:double(), b:double() end
   local difference = a:clone():add(-1, b):abs():max()
   local success = difference <= tolerance
   if negate then success = not success end
   if success then return true end
   return false, string.format('%s%s violation: max diff=%s, tolerance=%s', what, negate and 'NE(==)' or 'EQ(==)',
                               tostring(difference), tostring(tolerance))
end

local function areTensorsEq(a, b, tolerance, negate, ignoreDims)
   if not ignoreDims and a:dim() ~= b:dim() then return negate, 'The tensors have different dimensions' end
   if a:type() ~= b:type() then return negate, 'The tensors have different types' end
   if a:dim() == 0 and b:dim() == 0 then return not negate, 'Both tensors are empty' end
   local same = a:isSameSizeAs(b)
   if ignoreDims then same = a:nElement() == b:nElement() end
   if not same then return negate, 'The tensors have different sizes' end
   return sameContent(a, b, tolerance, negate, 'Tensor')
end

local function areStoragesEq(a, b, tolerance, negate)
   if a:size() ~= b:size() then return negate, 'The storages have different sizes' end
   if torch.type(a) ~= torch.type(b) then return negate, 'The storages have different types' end
   local tensor = torch.getconstructortable((torch.type(a):gsub('Storage$', 'Tensor')))
   return sameContent(tensor(a), tensor(b), tolerance, negate, 'Storage')
end

-- breadth first, so that the message reports the shallowest difference
local function areTablesEq(a, b, tolerance, negate)
   local queue, head = {{a, b, ''}}, 1
   while queue[head] do
      local first, second, prefix = unpack(queue[head])
      head = head + 1
      for key, value in pairs(first) do
         local at, other = prefix .. tostring(key), second[key]
         if other == nil then return negate, string.format('Entry %s missing in second table (is %s in first)', at, tostring(value)) end
         if type(value) == 'table' and type(other) == 'table' then
            queue[#queue + 1] = {value, other, at .. '.'}
         else
            local same, message = areEq(value, other, tolerance, false)
            if not same then return negate, 'At table location ' .. at .. ': ' .. message end
         end
      end
      for key, value in pairs(second) do
         if first[key] == nil then
            return negate, string.format('Entry %s missing in first table (is %s in second)', prefix .. tostring(key), tostring(value))
         end
      end
   end
   return not negate, 'The tables are equal'
end

function areEq(got, expected, tolerance, negate)
   local kind = type(got)
   if kind ~= type(expected) then
      return negate, not negate and string.format('EQ failed: values have different types (first: %s, second: %s)', kind, type(expected)) or nil
   end
   if kind == 'table' then return areTablesEq(got, expected, tolerance, negate) end
   if torch.isTensor(got) then return areTensorsEq(got, expected, tolerance, negate) end
   if torch.isStorage(got) then return areStoragesEq(got, expected, tolerance, negate) end
   local is_number = kind == 'number'
   local success = is_number and math.abs(got - expected) <= tolerance or not is_number and got == expected
   if negate then success = not success end
   if success then return true end
   local function shown(x) return is_number and tostring(x) or string.format('%s (%s)', tostring(x), type(x)) end
   local message = (negate and 'NE failed: %s == %s' or 'EQ failed: %s ~= %s'):format(shown(got), shown(expected))
   return false, message .. (is_number and tolerance > 0 and ' with tolerance=' .. tostring(tolerance) or '')
end

function Tester:_eqOrNeq(got, expected, negate, ...)
   local tolerance, message = options(0, ...)
   local success, detail = areEq(got, expected, tolerance, negate)
   return self:_assert_sub(success, message .. (detail or ''))
end

function Tester:_assertTensorEqOrNeq(a, b, negate, ...)
   assert(torch.isTensor(a), 'First argument should be a Tensor')
   assert(torch.isTensor(b), 'Second argument should be a Tensor')
   local tolerance, message = options(0, ...)
   local success, detail = areTensorsEq(a, b, tolerance, negate, self._assertTensorEqIgnoresDims)
   if self._assertTensorEqIgnoresDims and not negate and success and not a:isSameSizeAs(b) then
      self:_warning('Tensors have the same content but different dimensions. For backwards compatibility, they are considered equal, '
                    .. 'but this may change in the future. Consider using :eq to check for equality instead.')
   end
   return self:_assert_sub(success, message .. (detail or ''))
end

function Tester:_assertTableEqOrNeq(a, b, negate, ...)
   assert(type(a) == 'table', 'First argument should be a Table')
   assert(type(b) == 'table', 'Second argument should be a Table')
   return self:_eqOrNeq(a, b, negate, ...)
end

function Tester:assertGeneralEq(got, expected, ...) return self:_eqOrNeq(got, expected, false, ...) end
function Tester:assertGeneralNe(got, expected, ...) return self:_eqOrNeq(got, expected, true, ...) end
function Tester:eq(got, expected, ...) return self:assertGeneralEq(got, expected, ...) end
function Tester:ne(got, expected, ...) return self:assertGeneralNe(got, expected, ...) end
function Tester:assertTensorEq(a, b, ...) return self:_assertTensorEqOrNeq(a, b, false, ...) end
function Tester:assertTensorNe(a, b, ...) return self:_assertTensorEqOrNeq(a, b, true, ...) end
function Tester:assertTableEq(a, b, ...) return self:_assertTableEqOrNeq(a, b, false, ...) end
function Tester:assertTableNe(a, b, ...) return self:_assertTableEqOrNeq(a, b, true, ...) end

function Tester:assert(condition, ...)
   local message = only_message(...)
   if type(condition) ~= 'boolean' then
      self:_warning(' :assert should only be used for boolean conditions. To check for non-nil variables, do this explicitly: Tester:assert(var ~= nil).')
   end
   return self:_assert_sub(condition, string.format('%sBOOL violation condition=%s', message, tostring(condition)))
end

local function comparison(name, symbol, opposite, holds)
   Tester['assert' .. name] = function(self, a, b, ...)
      local message = only_message(...)
      return self:_assert_sub(holds(a, b), string.format('%s%s failed: %s %s %s', message, symbol, tostring(a), opposite, tostring(b)))
   end
end
comparison('lt', 'LT', '>=', function(a, b) return a < b end)
comparison('gt', 'GT', '<=', function(a, b) return a > b end)
comparison('le', 'LE', '>', function(a, b) return a <= b end)
comparison('ge', 'GE', '<', function(a, b) return a >= b end)
comparison('eq', 'EQ', '~=', function(a, b) return a == b end)
comparison('ne', 'NE', '==', function(a, b) return a ~= b end)
local assertne = Tester.assertne
function Tester:assertne(a, b, ...)
   if type(a) == 'userdata' or type(a) == 'table' and type(b) == 'table' then
      self:_warning(' :assertne should only be used to compare basic lua objects (numbers, booleans, etc). Consider using either :assertGeneralNe or :assert(a ~= b).')
   end
   return assertne(self, a, b, ...)
end

function Tester:assertalmosteq(a, b, ...)
   local tolerance, message = options(1e-16, ...)
   return self:_assert_sub(math.abs(a - b) <= tolerance, string.format('%sALMOST_EQ failed: %s ~= %s with tolerance=%s',
                      message, tostring(a), tostring(b), tostring(tolerance)))
end

-- errors --------------------------------------------------------------------------------------------------------
function Tester:assertErrorObj(f, matches, ...)
   local message = only_message(...)
   local ok, problem = pcall(f)
   return self:_assert_sub(not ok and matches(problem), string.format('%sERROR violation: err=%s', message, tostring(problem)))
end
function Tester:assertError(f, ...) return self:assertErrorObj(f, function() return true end, ...) end
function Tester:assertErrorMsg(f, text, ...) return self:assertErrorObj(f, function(e) return e == text end, ...) end
function Tester:assertErrorPattern(f, pattern, ...)
   return self:assertErrorObj(f, function(e) return string.find(e, pattern) ~= nil end, ...)
end
function Tester:assertNoError(f, ...)
   local message = only_message(...)
   local ok, problem = pcall(f)
   return self:_assert_sub(ok, string.format('%sERROR violation: err=%s', message, tostring(problem)))
end

-- the set of tests ----------------------------------------------------------------------------------------------
local SETUP_NAMES = {_setUp = 'set-up', _tearDown = 'tear-down'}
function Tester:add(f, name)
   if type(f) == 'table' then
      assert(name == nil, 'Name parameter is forbidden for a table of tests, since its use is ambiguous')
      if f.__isTestSuite then f = f.__tests else self:_warning('Should use TestSuite rather than plain lua table') end
      for key, test in pairs(f) do
         assert(type(test) ~= 'table', 'Nested sets of tests are not supported')
         self:add(test, key)
      end
      return self
   end
   assert(type(f) == 'function', 'Only tables of functions and functions supported')
   if SETUP_NAMES[name] then
      assert(not self[name], 'Only one ' .. SETUP_NAMES[name] .. ' function allowed')
      self[name] = f
      return self
   end
   name = name or 'unknown'
   if self.tests[name] then error('Test with name ' .. name .. ' already exists!') end
   self.tests[name] = f
   return self
end

function Tester:disable(names)
   if type(names) == 'string' then names = {names} end
   assert(type(names) == 'table', 'Expecting name or list for disable')
   for _, name in ipairs(names) do
      assert(self.tests[name], "Unrecognized test '" .. name .. "'")
      self.disabledTests[name] = true
   end
   return self
end

function Tester:_getTests(names)
   if names == nil then return self.tests end
   if type(names) == 'string' then names = {names} end
   assert(type(names) == 'table', 'Only accept a name or table of test names (or nil for all tests)')
   local chosen = {}
   for _, pattern in ipairs(names) do
      local found = false
      for name, f in pairs(self.tests) do
         if name:match(pattern) then chosen[name], found = f, true end
      end
      assert(found, "Couldn't find test '" .. pattern .. "'")
   end
   return chosen
end

local function count_of(n, word) return n .. ' ' .. word .. (n == 1 and '' or 's') end
local WIDTH = 80

function Tester:_pcall(f)
   local before = #self.errors
   local ok, result = xpcall(f, debug and debug.traceback or tostring)
   if not ok then
      self.errors[#self.errors + 1] = self._currentTestName .. '\n Function call failed\n' .. tostring(result) .. '\n'
   end
   return ok, ok and before == #self.errors
end

function Tester:_runOne(name, f)
   if self.disabledTests[name] then return 'SKIP' end
   if self._setUp then self._setUp(name) end
   local before, ok, passed = #self.errors, true, nil
   if self.rethrow then
      f()
      passed = before == #self.errors
   else
      ok, passed = self:_pcall(f)
   end
   if not ok then self.testError[name] = 1 end
   if self._tearDown then self._tearDown(name) end
   return not ok and 'ERROR' or passed and 'PASS' or 'FAIL'
end

function Tester:run(names)
   local tests = self:_getTests(names)
   self.assertionPass, self.assertionFail, self.testError, self.haveWarning = {}, {}, {}, {}
   for name in pairs(tests) do
      self.assertionPass[name], self.assertionFail[name], self.testError[name], self._warningCount[name] = 0, 0, 0, 0
   end
   self:_run(tests)
   self:_report(tests)
   for name in pairs(tests) do
      assert(self.assertionFail[name] == 0 and self.testError[name] == 0, 'An error was found while running tests!')
   end
   return 0
end

function Tester:_run(tests)
   local total = 0
   for _ in pairs(tests) do total = total + 1 end
   io.write('Running ' .. count_of(total, 'test') .. '\n')
   local width, i = #tostring(total), 0
   for name, f in pairs(tests) do
      i = i + 1
      self._currentTestName = name
      local counter = string.format('%' .. width .. 'd/%d ', i, total)
      local line = counter .. name .. ' ' .. string.rep('.', WIDTH - 8 - 2 * width - 2 - #name) .. ' '
      io.write(line .. '[WAIT]')
      io.flush()
      local outcome = self:_runOne(name, f)
      io.write('\r' .. line .. '[' .. outcome .. ']')
      if outcome == 'PASS' and self._warningCount[name] > 0 then
         io.write('\n' .. string.rep(' ', WIDTH - 10) .. '[+warning]')
      end
      io.write('\n')
      io.flush()
      if self.earlyAbort and i < total and (outcome == 'ERROR' or outcome == 'FAIL') then
         io.write('Aborting on first error, not all tests have been executed\n')
         break
      end
      collectgarbage()
   end
end

function Tester:_report(tests)
   local total, failed, broken, warned, skipped = 0, 0, 0, self._warningCount[''] or 0, 0
   self.countasserts = 0
   for name in pairs(tests) do
      total = total + 1
      self.countasserts = self.countasserts + self.assertionPass[name] + self.assertionFail[name]
      if self.assertionFail[name] > 0 then failed = failed + 1 end
      if self.testError[name] > 0 then broken = broken + 1 end
      if self._warningCount[name] > 0 then warned = warned + 1 end
      if self.disabledTests[name] then skipped = skipped + 1 end
   end
   io.write('Completed ' .. count_of(self.countasserts, 'assert') .. ' in ' .. count_of(total, 'test') .. ' with '
            .. count_of(failed, 'failure') .. ' and ' .. count_of(broken, 'error'))
   if warned > 0 then io.write(' and ' .. count_of(warned, 'warning')) end
   if skipped > 0 then io.write(' and ' .. skipped .. ' disabled') end
   io.write('\n')
   if self.summaryOnly then return end
   local rule, first = string.rep('-', WIDTH) .. '\n', true
   for _, list in ipairs {self.errors, self.warnings} do
      for _, text in ipairs(list) do
         io.write((first and rule or '') .. text .. '\n' .. rule)
         first = false
      end
   end
end

-- TestSuite: a table of tests in which a name cannot be reused ---------------------------------------------------
function torch.TestSuite()
   local tests = {}
   return setmetatable({__tests = tests, __isTestSuite = true}, {
      __index = tests,
      __newindex = function(_, name, f)
         if tests[name] ~= nil then error('Test ' .. tostring(name) .. ' is already defined.', 2) end
         if type(f) == 'table' then error('Nested tables of tests are not supported', 2) end
         if type(f) ~= 'function' then error('Only functions are supported as members of a TestSuite', 2) end
         tests[name] = f
      end,
   })
end
