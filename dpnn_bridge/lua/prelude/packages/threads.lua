-- threads: runs jobs in the order in which they were added, in the current thread and Lua state. A job that reads a tds.AtomicCounter,
-- for example to wait for another job, lets other jobs run.
local bridge = ...
local Threads = {}
Threads.__index = Threads

-- call a function with the number of a thread in __threadid; returns its results in a table
local function as_thread(id, f, ...)
   local previous = __threadid
   __threadid = id
   local results = {f(...)}
   __threadid = previous
   return results
end

local serialization = 'threads.serialize'
function Threads.serialization(name)
   if name == nil then return serialization end
   assert(type(name) == 'string')
   serialization = name
end
function Threads.new(count, ...)
   if type(count) ~= 'number' then error("bad argument #1 to 'Threads' (number expected, got " .. type(count) .. ')', jit and 2 or 3) end
   local self = setmetatable({N = count, jobs = {}, running = true}, Threads)
   local results = {}  -- the results of each thread's last function
   for i = 1, count do results[i] = {} end
   for _, prepare in ipairs {...} do
      for i = 1, count do
         local returned = as_thread(i, xpcall, function() return prepare(i) end, debug.traceback)
         if not returned[1] then error(('[thread %d callback] %s'):format(i, tostring(returned[2])), 2) end
         results[i] = {unpack(returned, 2, table.maxn(returned))}
      end
   end
   return self, results
end
function Threads.isThreadSafe() return true end
function Threads:isrunning() return self.running end
local function check_running(self)
   if not self.running then error('thread system is not running', 3) end
end
function Threads:addjob(...)
   check_running(self)
   local first = ...
   local numbered = type(first) == 'number'
   if self.is_specific and not (numbered and first >= 1 and first <= self.N) then error('thread index expected', 2) end
   local arguments = numbered and {n = select('#', ...) - 1, select(2, ...)} or {n = select('#', ...), ...}
   if type(arguments[1]) ~= 'function' then error('function callback expected', 2) end
   if arguments[2] ~= nil and type(arguments[2]) ~= 'function' then error('function (or nil) endcallback expected', 2) end
   table.insert(self.jobs, {id = numbered and first or #self.jobs % self.N + 1, arguments})
end
function Threads:acceptsjob() return #self.jobs < self.N end
function Threads:hasjob() return #self.jobs > 0 end
local running
function bridge.wait_for_others()
   if running and coroutine.running() == running then coroutine.yield(bridge) end
end
-- whether a job has ended, from the results of coroutine.resume; raises its error, or calls its end callback
local function ended(job, ok, ...)
   if not ok then error(('[thread %d callback] %s'):format(job.id, debug.traceback(job.thread, tostring((...)))), 0) end
   if (...) == bridge then return false end
   local finish = job[1][2]
   if finish then finish(...) end
   return true
end
function Threads:dojob()
   check_running(self)
   while #self.jobs > 0 do
      local job = table.remove(self.jobs, 1)
      local arguments, previous = job[1], running
      job.thread = job.thread or coroutine.create(arguments[1])
      running = job.thread
      local returned = as_thread(job.id, coroutine.resume, job.thread, unpack(arguments, 3, arguments.n))
      running = previous
      if ended(job, unpack(returned, 1, table.maxn(returned))) then return end
      table.insert(self.jobs, job)
   end
end
function Threads:synchronize() while self.running and self:hasjob() do self:dojob() end end
function Threads:specific(on)
   check_running(self)
   if on == nil then return self.is_specific or false end
   assert(type(on) == 'boolean', 'boolean expected')
   self:synchronize()
   self.is_specific = on
end
function Threads:haserror() return false end
function Threads:terminate()
   self:synchronize()
   self.running = false
end

local threads = {Threads = Threads, safe = function(f) return f end}
function threads.Mutex() return {lock = function() end, unlock = function() end, free = function() end, id = function() return 0 end} end
local function create(_, ...) return Threads.new(...) end
setmetatable(Threads, {__call = create})
return setmetatable(threads, {__call = create, __index = Threads})
