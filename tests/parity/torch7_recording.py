"""For tests with real Torch7: the end of Lua programs that return a network before its run, and a reference."""

_RUN = """
if mode == 'train' then net:training() else net:evaluate() end
local before = torch.deserialize(torch.serialize(net))
local function copy(v) return torch.deserialize(torch.serialize(v)) end
local function normal(v)
   if torch.isTensor(v) then v:normal() else for _, part in ipairs(v) do normal(part) end end
   return v
end
local reference = {mode = mode, input = torch.randn(size)}
local x = copy(reference.input)
reference.output = copy(net:forward(x))
reference.gradOutput = normal(copy(reference.output))
net:zeroGradParameters()
reference.gradInput = copy(net:backward(x, copy(reference.gradOutput)))
reference.gradParams = copy(select(2, net:parameters()))
"""
#: a reference for ``net`` in ``mode``, with an input of ``size``
RECORD = f"{_RUN}return before, reference\n"
#: the same with the module after the run
RECORD_WITH_MODULE = f"{_RUN}reference.after = net\nreturn before, reference\n"
