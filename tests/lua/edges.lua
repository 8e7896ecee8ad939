-- Corners of operations that random programs found: code, and what Torch7 printed of what it returns.
local x = torch.IntTensor{{1, 2^31-1}, {-7, 3}} return torch.xcorr2(x, torch.IntTensor{{-2^31, 5}}, 'F')
--> {5 -5 -2147483648 -35 -2147483633 -2147483648}
local x = torch.LongTensor{{{2^53, 2^53+2}, {3, 4}}, {{1, 2}, {2^40, -9}}} return torch.conv2(x, torch.LongTensor{{{3, 2^13}}, {{2^53, -1}}})
--> {27021597764222984 24588 18014398509481984 -81065892804296704}
local x = torch.ByteTensor(2, 3, 3):fill(200) return torch.conv3(x, torch.ByteTensor(1, 2, 2):fill(77), 'V')
--> {160 160 160 160 160 160 160 160}
return torch.IntTensor{-2^31, -2^31+1, 2^31-1, -7, 7}:cremainder(torch.IntTensor{1000000007, -2^31, 65536, 3, -3})
--> {-147483634 1 131071 2 -2}
return torch.IntTensor{-2^31, 2^31-1, -7}:remainder(1000000007)
--> {-147483634 147483633 -7}
local r = torch.Tensor(3):fill(9) return r:gather(torch.Tensor{1, 2, 3, 4}, 1, torch.LongTensor{4, 2}), r
--> {4 2 9} {4 2 9}
local x = torch.Tensor{1, 2, 3} return pcall(x.maskedSelect, x, x, torch.ByteTensor{0, 1, 1}), x:size(1)
--> false 2
local x = torch.Tensor{1, 2, 3} return (pcall(x.indexFill, x, 1, torch.LongTensor{3, 9, 1}, 7)), x
--> false {1 2 7}
local x = torch.Tensor{{1, 2}, {3, 4}} return (pcall(x.indexCopy, x, 1, torch.LongTensor{2, 0}, torch.Tensor{{8, 9}, {6, 7}})), x
--> false {1 2 8 9}
local x = torch.Tensor{{1, 2}, {3, 4}} return (pcall(x.indexAdd, x, 2, torch.LongTensor{2, 3}, torch.Tensor{{8, 9}, {6, 7}})), x
--> false {1 10 3 10}
local x = torch.Tensor{{1, 2}, {3, 4}}:t() return x:apply(function() return '5' end)
--> {5 5 5 5}
local x = torch.Tensor{1, 2} return (pcall(x.apply, x, function() return '5' end)), x:apply(function() return true end)
--> false {1 1}
local x = torch.Tensor{1, 2} return (pcall(x.map, x, x:clone(), function() return false end)), x
--> true {1 2}
local x = torch.Tensor{{1, 2}, {3, 4}} x[{{}, 1}]='5' return x
--> {5 2 5 4}
local x = torch.Tensor{-7, 2, 6} return x:histc(x, 3)
--> {0 1 2}
local x = torch.Tensor{{-7, 2}, {6, 1}} return x:bhistc(x, 4, -3, 3)
--> {0 0 3 1 0 0 3 1}
return (pcall(torch.bhistc, torch.Tensor{1, 2}))
--> false
local x = torch.Tensor{{1, 7}, {4, -2}} return x:norm(x, 3, 2)
--> {1 6.9999999999999991}
local r = torch.Tensor{1} return (pcall(r.bitand, r, torch.Tensor(2, 2), 1)), r, (pcall(r.cbitor, r, torch.Tensor(2), torch.Tensor(2))), r
--> false {1} false {1}
local x = torch.Tensor{{1, 2, 3}} return (pcall(x.diag, x, x, -1)), x:dim()
--> false 0
return (pcall(torch.repeatTensor, torch.Tensor{1}, 0))
--> false
local n, v, i = 0/0 v, i = torch.Tensor{{n, 3, n}, {1, n, 1}}:mode() return i
--> {1 1}
local x = torch.Tensor(2, 2, 2):fill(1) x[2]:fill(-1) return torch.zeros(2, 2):addbmm(1, 1/0, x, torch.ones(2, 2, 2))
--> {nan nan nan nan}
local x = torch.Tensor{{1, 2}, {3, 4}, {5, 6}}:select(2, 2) return x:maskedCopy(torch.ByteTensor{0, 1, 1}, x)
--> {2 2 4}
return torch.FloatTensor{1.1, 3}:cpow(torch.FloatTensor{3.3, 0.7})
--> {1.3696067333221436 2.1576693058013916}
local t = torch.FloatTensor{{1.1, 2.3}, {3.7, -4.9}, {5.3, 6.1}} return torch.cross(t, t)
--> {0 0 0 0 0 0}
local x, y = torch.IntTensor{2^31-1, 3, 70000}, torch.IntTensor{5, 2^31-1, 70000} return torch.cross(x, y)
--> {280000 420000 -14}
local r = torch.Tensor{3} return (pcall(r.lt, r, torch.Tensor(), torch.Tensor{1})), r, torch.div(torch.ShortTensor(), 0)
--> false {} {}
local x, k = torch.Tensor{{1, 2}, {3, 4}}, torch.Tensor{{1/0, 1}} return torch.conv2(x, k, 'F'), torch.xcorr2(x, k, 'F')
--> {inf inf 2 inf inf 4} {1 inf inf 3 inf inf}
local x, e = torch.IntTensor(), torch.IntTensor() return x:cfmod(e), x:cmod(e), x:cdiv(e), x:cremainder(e), torch.cmod(torch.IntTensor(2), e, e)
--> {} {} {} {} {}
local x, v = torch.Tensor{-1, 0, 2}, 0/0 return torch.clamp(x, 0.5, v), torch.clamp(x, v, 0.5), torch.clamp(x, -1/0, v), torch.clamp(x, 1/0, 1), torch.cmax(x, v), torch.cmin(x, -1/0)
--> {0.5 0.5 2} {-1 0 0.5} {-1 0 2} {inf inf inf} {nan nan nan} {-inf -inf -inf}
local x = torch.Tensor{{1, 2}, {2, 1}} return (pcall(torch.renorm, x, 0/0, 1, 1)), (pcall(torch.pstrf, torch.Tensor{{0/0, 1}, {1, 2}}))
--> false false
local x = torch.Tensor{{4, 1}, {2, 3}} return torch.pstrf(x)[1][2], torch.pstrf(x, 'L')[2][1]
--> 0.5 1
local r, e = torch.Tensor{1, 2}, torch.Tensor() return torch.cat(r, e, e), torch.IntTensor{1, 2}:csub(-2^31, torch.IntTensor{1, 2})
--> {1 2} {-2147483647 2}
local r, x = torch.zeros(2, 2), torch.Tensor{{1, 2}, {3, 4}} return (pcall(r.gather, r, x, 1, torch.LongTensor{{2, 9}, {1, 1}})), r, x:scatter(2, torch.LongTensor{{2, 1}, {1, 1}}, x), (pcall(x.scatter, x, 1, torch.LongTensor{{2, 1}, {1, 3}}, 5)), x
--> false {3 0 1 0} {5 5 5 4} false {5 5 5 4}
local x = torch.Tensor{{1, 2}, {3, 4}} return x.gather(x, x, 1, torch.LongTensor{{2, 2}, {1, 1}})
--> {3 4 3 4}
local x = torch.Tensor{0, -1, 3}:mul(-0.0) return torch.sign(x), torch.FloatTensor{0, 2}:mul(-1):sign()
--> {0 0 0} {0 -1}
return torch.LongTensor{{-1, 0}, {0, -1}}:rshift(1):trace()
--> -2
local x = torch.FloatTensor{{1e30, 2}, {1e10, 3}, {0, 4}} return x:prod(1), x:t():contiguous():prod(2), x:t():prod(2)
--> {nan 24} {0 24} {nan 24}
local x = torch.range(1, 70):view(1, 70):expand(70, 70):clone():fmod(3) local v, i = x:sort(2) return v[3][70], i[3][1], i[3][69], (select(2, x:kthvalue(9)))[1][1], (select(2, x:mode()))[1][1], (select(2, x:topk(2)))[1][2]
--> 2 27 38 42 10 21
local x = torch.ByteTensor(4, 3):fill(200) local y = x:clone():t():clone():t() return x:dot(x), y:dot(y), x:dot(y), x:select(2, 1):dot(x:select(2, 2))
--> 0 768 768 0
local x, n = torch.IntTensor{-5, -5, -5}, torch.IntTensor{1, 31, 33} return torch.clshift(x, n), torch.crshift(x, n)
--> {-10 -2147483648 -10} {2147483645 1 2147483645}
return torch.ByteTensor():range(2^40, 2^40 + 6, 2), torch.CharTensor():range(126, 130)
--> {0 2 4 6} {126 127 -128 -127 -126}
local D = torch.Tensor torch.Tensor = torch.FloatTensor local r = {torch.getdefaulttensortype(), torch.rand(2):type(), torch.zeros(2):type(), torch.range(1, 2):type(), torch.randperm(2):type(), torch.Tensor(1):type(), torch.sqrt(2), torch.typename(torch.Storage()), torch.IntTensor(1):real():type()} torch.Tensor = D return unpack(r)
--> torch.FloatTensor torch.FloatTensor torch.FloatTensor torch.FloatTensor torch.FloatTensor torch.FloatTensor 1.4142135381699 torch.DoubleStorage torch.FloatTensor
torch.setdefaulttensortype('torch.FloatTensor') torch.Tensor = torch.DoubleTensor local r = {torch.getdefaulttensortype(), torch.eye(2):type(), torch.typename(torch.Storage()), torch.sqrt(2)} torch.setdefaulttensortype('torch.DoubleTensor') return torch.zeros(1):type(), unpack(r)
--> torch.DoubleTensor torch.DoubleTensor torch.DoubleTensor torch.FloatStorage 1.4142135623731
local D = torch.Tensor torch.Tensor = torch.IntTensor local r = {torch.zeros(2):type(), (pcall(torch.rand, 2)), (pcall(torch.uniform)), (pcall(torch.sqrt, 2)), torch.random(1), torch.randperm(2):type()} torch.Tensor = D return unpack(r)
--> torch.IntTensor false false false 1 torch.IntTensor
local D = torch.Tensor torch.Tensor = nil local r = {select('#', torch.getdefaulttensortype()), (pcall(torch.zeros, 2)), (pcall(torch.randperm, 2)), (pcall(torch.sqrt, 2)), torch.sum(D{1, 2})} torch.Tensor = D return unpack(r)
--> 0 false false false 3
local D = torch.Tensor local r = {(pcall(torch.setdefaulttensortype, 'torch.LongStorage')), torch.getdefaulttensortype(), torch.Tensor == torch.LongStorage, (pcall(torch.zeros, 2))} torch.Tensor = D return torch.zeros(2):type(), unpack(r)
--> torch.DoubleTensor false torch.LongStorage true false
local D = torch.Tensor torch.Tensor = setmetatable({}, {__index = torch.FloatTensor, __call = function(_, ...) return torch.FloatTensor(...) end}) local r = {select('#', torch.getdefaulttensortype()), (pcall(torch.zeros, 2)), torch.Tensor(1):type()} torch.Tensor = D return unpack(r)
--> 0 false torch.FloatTensor
require 'nn.THNN' local x, y, w, f = torch.range(1, 4):resize(1, 2, 2), torch.Tensor(), torch.range(1, 16):resize(1, 16), torch.Tensor() x.THNN.SpatialConvolutionMM_updateOutput(x:cdata(), y:cdata(), w:cdata(), nil, f:cdata(), f:cdata(), 4, 4, 3, 3, 1, 0) return y, y:size(1), y:size(2), y:size(3)
--> {54} 1 1 1
require 'nn.THNN' local x, y, w, f = torch.range(1, 4):resize(1, 2, 2), torch.Tensor(), torch.range(1, 20):resize(1, 20), torch.Tensor() x.THNN.SpatialConvolutionMM_updateOutput(x:cdata(), y:cdata(), w:cdata(), nil, f:cdata(), f:cdata(), 4, 5, 2, 2, 1, 1) local g, h = torch.Tensor(), torch.zeros(1, 20) local o = y:clone():fill(2) x.THNN.SpatialConvolutionMM_updateGradInput(x:cdata(), o:cdata(), g:cdata(), w:cdata(), f:cdata(), torch.Tensor():cdata(), 4, 5, 2, 2, 1, 1) x.THNN.SpatialConvolutionMM_accGradParameters(x:cdata(), o:cdata(), h:cdata(), nil, f:cdata(), f:cdata(), 4, 5, 2, 2, 1, 1, 1) return y, g, h
--> {94} {12 14 20 22} {0 0 0 0 0 2 4 0 0 6 8 0 0 0 0 0 0 0 0 0}
require 'nn.THNN' local x, y, w, f = torch.range(1, 8):resize(1, 4, 2), torch.Tensor(), torch.range(1, 9):resize(1, 9), torch.Tensor() x.THNN.SpatialConvolutionMM_updateOutput(x:cdata(), y:cdata(), w:cdata(), nil, f:cdata(), f:cdata(), 3, 3, 2, 2, 0, 0) local g, h, o = torch.Tensor(), torch.zeros(1, 9), y:clone():fill(1) x.THNN.SpatialConvolutionMM_updateGradInput(x:cdata(), o:cdata(), g:cdata(), w:cdata(), f:cdata(), torch.Tensor():cdata(), 3, 3, 2, 2, 0, 0) x.THNN.SpatialConvolutionMM_accGradParameters(x:cdata(), o:cdata(), h:cdata(), nil, f:cdata(), f:cdata(), 3, 3, 2, 2, 0, 0, 1) return y, g, h
--> {222} {1 2 7 5 13 8 9 0} {1 2 3 3 4 5 5 6 7}
require 'nn.THNN' local x, y, w, f = torch.range(1, 2):resize(1, 1, 2), torch.Tensor(), torch.range(1, 9):resize(1, 9), torch.Tensor() return (pcall(x.THNN.SpatialConvolutionMM_updateOutput, x:cdata(), y:cdata(), w:cdata(), nil, f:cdata(), f:cdata(), 3, 3, 2, 1, 0, 0)), (pcall(x.THNN.SpatialConvolutionMM_updateOutput, x:cdata(), y:cdata(), w:cdata(), nil, f:cdata(), f:cdata(), 3, 3, 1, 2, 0, 0))
--> false false
require 'nn.THNN' local x, y, w = torch.range(1, 4):resize(1, 2, 2), torch.Tensor(), torch.range(1, 9):resize(1, 1, 3, 3) x.THNN.SpatialDilatedConvolution_updateOutput(x:cdata(), y:cdata(), w:cdata(), nil, torch.Tensor():cdata(), torch.Tensor():cdata(), 3, 3, 2, 2, 0, 0, 1, 1) return y, (pcall(x.THNN.SpatialDilatedConvolution_updateOutput, x:cdata(), y:cdata(), w:cdata(), nil, torch.Tensor():cdata(), torch.Tensor():cdata(), 3, 3, 2, 2, 0, 0, 2, 1))
--> {37} false
require 'nn.THNN' local x, y, w, f = torch.range(1, 8):resize(1, 2, 2, 2), torch.Tensor(), torch.range(1, 60):resize(1, 60), torch.Tensor() x.THNN.VolumetricConvolutionMM_updateOutput(x:cdata(), y:cdata(), w:cdata(), nil, f:cdata(), 3, 4, 5, 2, 2, 2, 0, 1, 1) return y
--> {844}
require 'nn.THNN' local x, y, i = torch.range(1, 3):resize(1, 1, 3), torch.Tensor(), torch.LongTensor() x.THNN.SpatialMaxPooling_updateOutput(x:cdata(), y:cdata(), i:cdata(), 1, 1, 3, 1, 0, 0, true) local a = torch.Tensor() x.THNN.SpatialAveragePooling_updateOutput(x:cdata(), a:cdata(), 1, 1, 3, 1, 0, 0, true, true) local b = torch.Tensor() x.THNN.SpatialAveragePooling_updateOutput(x:cdata(), b:cdata(), 2, 1, 5, 1, 0, 0, true, true) local g = torch.Tensor() x.THNN.SpatialMaxPooling_updateGradInput(x:cdata(), y:clone():fill(5):cdata(), g:cdata(), i:cdata(), 1, 1, 3, 1, 0, 0, true) return y, i, a, b, g
--> {1 -1.7976931348623157e+308} {1 0} {1 nan} {1.5 0} {5 0 0}
require 'nn.THNN' local x, y = torch.ones(1, 1, 2, 2), torch.Tensor() return (pcall(x.THNN.VolumetricAveragePooling_updateOutput, x:cdata(), y:cdata(), 2, 2, 2, 1, 1, 1, 1, 0, 0, false, true))
--> false
require 'nn.THNN' local x, y, f = torch.Tensor{1, 2}, torch.Tensor(), torch.FloatTensor{1, 2} return (pcall(x.THNN.Tanh_updateOutput, f:cdata(), y:cdata())), (pcall(x.THNN.Tanh_updateOutput, x:cdata(), f:cdata())), (pcall(x.THNN.Tanh_updateOutput, f:cdata(), f:cdata())), (pcall(f.THNN.Tanh_updateOutput, f:cdata(), f:cdata())), (pcall(x.THNN.MSECriterion_updateOutput, x:cdata(), f:cdata(), y:resize(1):cdata(), true))
--> false false false true false
require 'nn.THNN' local x, y, t, l, w = torch.Tensor{{1, 2}}, torch.Tensor(1), torch.Tensor{1}, torch.LongTensor{1}, torch.Tensor(1) return (pcall(x.THNN.ClassNLLCriterion_updateOutput, x:cdata(), t:cdata(), y:cdata(), true, nil, w:cdata(), -100)), (pcall(x.THNN.ClassNLLCriterion_updateOutput, x:cdata(), l:int():cdata(), y:cdata(), true, nil, w:cdata(), -100)), (pcall(x.THNN.ClassNLLCriterion_updateOutput, x:cdata(), l:cdata(), l:cdata(), true, nil, w:cdata(), -100)), (pcall(x.THNN.ClassNLLCriterion_updateOutput, x:cdata(), l:cdata(), y:cdata(), true, nil, w:cdata(), -100))
--> false false false true
local x, seen = torch.Tensor{1, 2}, {} x:view(2, 1):expand(2, 3):apply(function(v) seen[#seen + 1] = v return v + 1 end) return x, unpack(seen)
--> {4 5} 1 2 3 2 3 4
local x, seen = torch.LongTensor{1, 2, 3, 4, 5}, {} x:unfold(1, 3, 1):apply(function(v) seen[#seen + 1] = v return v + 10 end) return x, unpack(seen)
--> {11 22 33 24 15} 1 2 3 12 13 4 23 14 5
local x = torch.FloatTensor{1, 2} local e = x:view(1, 2):expand(3, 2) e:map(torch.FloatTensor(3, 2):fill(2), function(a, b) return a * b end) e:map2(e, e, function(a, b, c) return a + b + c end) return x
--> {216 432}
local x = torch.Tensor{1, 2, 3} return (pcall(x.apply, x, function(v) if v == 3 then error 'stop' end return 7 end)), x
--> false {7 7 3}
local x, seen = torch.IntTensor{1, 2, 3}, {} x:apply(function(v) x[3] = 9 seen[#seen + 1] = v return v * 2 end) return x, unpack(seen)
--> {2 4 18} 1 2 9
require 'nn.THNN' local x, y, w, t = torch.ones(1, 2, 2, 2), torch.Tensor(), torch.ones(4, 1, 1), torch.Tensor{{1, 1}, {1, 2}, {2, 1}, {2, 2}} return (pcall(x.THNN.SpatialFullConvolutionMap_updateOutput, x:cdata(), y:cdata(), w:cdata(), torch.zeros(2):cdata(), t:cdata(), 2, 2, 1, 1)), (pcall(x.THNN.SpatialFullConvolutionMap_updateOutput, x[1]:cdata(), y:cdata(), w:cdata(), torch.zeros(2):cdata(), t:cdata(), 2, 2, 1, 1))
--> false true
local x = torch.Tensor{{1, 2}} return (pcall(x.scatter, x, 2, torch.LongTensor{{2, 1}}, torch.Tensor(4, 4):fill(3))), x
--> false {1 2}
local x, i, m = torch.Tensor{1, 2}, torch.LongTensor{2, 1}, torch.ByteTensor{1, 0} return (pcall(x.indexCopy, x, 1, i, torch.Tensor{3, 4}, 1)), (pcall(x.indexAdd, x, 1, i, x:clone(), 'x')), (pcall(x.indexFill, x, 1, i, 7, 8)), (pcall(x.maskedFill, x, m, 7, 8)), (pcall(x.maskedCopy, x, m, x:clone(), true)), x
--> false false false false false {1 2}
local x = torch.ShortTensor() return (pcall(x.bernoulli, x, -2)), x
--> true {}
local x = torch.FloatTensor() return (pcall(x.bernoulli, x, 1.5)), x:size('x'):size(), torch.Tensor(2, 3):stride('x')[1], (pcall(torch.random, 3, nil)), (pcall(torch.IntTensor(2).random, torch.IntTensor(2), 3, nil))
--> true 0 3 false false
local x, n = torch.Tensor{{1, 2, 3}, {4, 5, 6}}, 1/0 return torch.zeros(2, n), torch.ones(n), torch.eye(2, n), x:clone():resize(2, 1, -n), torch.tril(x, n), torch.triu(x, 2^70), torch.range(2, n, n), torch.ShortTensor():range(n, 2), torch.DoubleTensor(1, 0/0):dim(), (pcall(torch.eye, n)), (pcall(x.unfold, x, 1, 2, n)), (pcall(x.narrow, x, 1, 1, n)), (pcall(x.select, x, n, 1)), (pcall(function() return x[n] end)), (pcall(torch.randperm, n))
--> {0 0} {} {1 0 0 1} {1 2} {0 0 0 0 0 0} {1 2 3 4 5 6} {} {} 1 false false false false false false
local x = torch.Tensor{{1, 2, 3}} return x:__len__(2), (#x)[2], (pcall(x.__len__, x, 1/0)), x:__len__('x')[2], (pcall(x.zero, x, {})), (pcall(x.zero, x, nil)), x
--> 3 3 false 3 false false {1 2 3}
local x, e = torch.Tensor{{1, 2}, {3, 4}}, torch.IntTensor() return x:view(4, nil), x:expand(2, 2, nil), x:repeatTensor(1, 2, nil), x:permute(2, 1, nil), x:expand(torch.LongStorage{2, 2}, 1), x:repeatTensor(torch.LongStorage{2, 1}, 'x'), x:viewAs(torch.LongStorage{7, 8, 9, 5}), (pcall(x.viewAs, x, x, 'x')), e:apply(5), e:map(e, 'x'), e:map2(e, e), (pcall(e.map, e, torch.IntTensor{1}, 5)), (pcall(e.map, e))
--> {1 2 3 4} {1 2 3 4} {1 2 1 2 3 4 3 4} {1 3 2 4} {1 2 3 4} {1 2 3 4 1 2 3 4} {1 2 3 4} false {} {} {} false false
local x = torch.Tensor{{1, 2}, {3, 4}} local r, i = torch.zeros(2, 2):t(), torch.LongTensor{2, 9} return (pcall(r.index, r, x, 1, i)), r, (pcall(r.index, r, x, 2, i)), r
--> false {2 4 4 0} false {2 4 4 0}
local x, s, i = torch.Tensor{1, 2}, torch.ones(2, 1), torch.LongTensor{1, 2} return (pcall(x.indexCopy, x, 1, i, s)), (pcall(x.indexAdd, x, 1, i, s)), (pcall(s.indexCopy, s, 1, i, x)), (pcall(s.indexAdd, s, 1, i, x)), x, s
--> false false false false {1 2} {1 1}
local f, x = string.format, 133.716583251953125 return f('%.17g|%-20.17g|%22.17g|%+.17e', x, x, -x, x), f('%.16g %.15g %s%% %#.16g', 1000000000000000.5, 1000000000000005, 'a', 1000000000000000.5), f('%.17g', 0.03125 + 2^-57)
--> 133.71658325195313|133.71658325195313  |   -133.71658325195313|+1.33716583251953125e+02 1000000000000001 1.00000000000001e+15 a% 1000000000000001. 0.031250000000000007
require 'nn.THNN' local x, y, w, e = torch.ones(1, 3, 1), torch.Tensor(), torch.ones(1, 1, 1, 3), torch.Tensor() local f = x.THNN.SpatialDepthWiseConvolution_updateOutput return (pcall(f, x:cdata(), y:cdata(), w:cdata(), nil, e:cdata(), e:cdata(), 3, 1, 1, 1, 0, 0)), (pcall(f, torch.ones(1, 1, 3):cdata(), y:cdata(), w:cdata(), nil, e:cdata(), e:cdata(), 3, 1, 1, 1, 1, 0)), y
--> false true {1 1 1}
require 'nn.THNN' local x, y, w, e, g = torch.ones(1, 5, 1), torch.Tensor(), torch.ones(1, 1, 2, 4), torch.Tensor(), torch.Tensor() x.THNN.SpatialDepthWiseConvolution_updateOutput(x:cdata(), y:cdata(), w:cdata(), nil, e:cdata(), e:cdata(), 4, 2, 3, 3, 1, 0) return y, y:size(2), y:size(3), (pcall(x.THNN.SpatialDepthWiseConvolution_updateGradInput, x:cdata(), y:cdata(), g:cdata(), w:cdata(), e:cdata(), torch.Tensor():cdata(), 4, 2, 3, 3, 1, 0))
--> {3 3} 1 2 false
local x = torch.Tensor{{1, 2}, {3, 4}} return x:permute(0, 2), x:permute(0, 0), (pcall(x.permute, x, 2, 0)), (pcall(x.permute, x, 0, 1))
--> {1 2 3 4} {1 2 3 4} false false
