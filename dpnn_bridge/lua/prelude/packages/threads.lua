-- threads: jobs in the order in which they were added, in this one thread, and all in one Lua state. A job that waits for
-- another (for a tds.AtomicCounter) lets it run.
local bridge = ...
local Threads = {}
Threads.__index = Threads

function Threads.new(count, ...)
   local self = setmetatable({N = count, jobs = {}, errors = false, endcallbacks = {n = 0}}, Threads)
   local results = {}  -- of each thread, what its functions returned
   for i = 1, count do
      __threadid, results[i] = i, {}
      for _, prepare in ipairs {...} do
         for _, value in ipairs {prepare(i)} do table.insert(results[i], value) end
      end
   end
   return self, results
end
function Threads.serialization() end
function Threads.isThreadSafe() return true end
function Threads:addjob(...)
   local first = ...
   local arguments = type(first) == 'number' and {n = select('#', ...) - 1, select(2, ...)} or {n = select('#', ...), ...}
   table.insert(self.jobs, {id = type(first) == 'number' and first or #self.jobs % self.N + 1, arguments})
end
function Threads:acceptsjob() return #self.jobs < self.N end
function Threads:hasjob() return #self.jobs > 0 end
local running
function bridge.wait_for_others()
   if running and coroutine.running() == running then coroutine.yield(bridge) end
end
-- whether a job has ended, and what the coroutine answered
local function ended(job, ok, ...)
   if not ok then error((...), 0) end
   if (...) == bridge then return false end
   if type(job.finish) == 'function' then job.finish(...) end
   return true
end
function Threads:dojob()
   while #self.jobs > 0 do
      local job = table.remove(self.jobs, 1)
      local arguments, before = job[1], running
      if not job.thread then job.thread, job.finish = coroutine.create(arguments[1]), arguments[2] end
      __threadid, running = job.id, job.thread
      local answer = {coroutine.resume(job.thread, unpack(arguments, 3, arguments.n))}
      running = before
      if ended(job, unpack(answer, 1, table.maxn(answer))) then return end
      table.insert(self.jobs, job)
   end
end
function Threads:synchronize() while self:hasjob() do self:dojob() end end
function Threads:specific(on)
   if on ~= nil then self.is_specific = on end
   return self.is_specific or false
end
function Threads:haserror() return false end
function Threads:terminate() self:synchronize() end

local threads = {Threads = Threads, safe = function(f) return f end}
function threads.Mutex() return {lock = function() end, unlock = function() end, free = function() end, id = function() return 0 end} end
return setmetatable(threads, {__call = function(_, ...) return Threads.new(...) end, __index = Threads})
