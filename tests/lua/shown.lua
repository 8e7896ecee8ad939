-- Values whose text real th printed (shown.txt, trepl's print on no terminal); SHOW is the function under test.
local inf, nan = math.huge, 0 / 0
local types = {'Byte', 'Char', 'Short', 'Int', 'Long', 'Float', 'Double'}
local values = {
   {1}, {-0.5}, {1e10}, {1e-10}, {inf}, {-inf}, {true}, {false}, {'text'}, {''}, {1, 2, 'three', true}, {'a\nb'}, {2 ^ 53}, {1 / 3}, {100000},
   {{}}, {{1, 2, 3}}, {{a = 1}}, {{a = 'x'}}, {{a = {b = {c = 1}}}}, {{{{{{{1}}}}}}}, {{{}}}, {{1, {2, {3}}}}, {{'a', {true}}}, {{a = torch.ones(2, 3)}},
   {{torch.Tensor()}}, {{torch.LongStorage {1, 2}}}, {{torch.FloatTensor(2)}}, {{-0.25, 1e100, inf}}, {{[3] = 'gap'}}, {{1}, {2}}, {{}, 1}, {1, {}},
   {torch.Tensor()}, {torch.DoubleTensor {inf, 1, -2}}, {torch.DoubleTensor {1.5, -inf}}, {torch.DoubleTensor {1e-5, 1e5}}, {torch.DoubleTensor {1e-3, 2e-3}},
   {torch.DoubleTensor {1e6, 2.5e6}}, {torch.DoubleTensor {123456.5, 1}}, {torch.DoubleTensor {0.001, 1000}}, {torch.DoubleTensor {-1, 0, 1}},
   {torch.DoubleTensor {{1, -2}, {3, 40}}}, {torch.DoubleTensor {{0.1, -0.2}, {0.3, 0.4}}}, {torch.DoubleTensor {1e300, 1e-300}}, {torch.DoubleTensor {0, 0}},
   {torch.range(1, 12):view(2, 3, 2)}, {torch.range(1, 16):view(2, 2, 2, 2):div(8)}, {torch.range(1, 60):view(2, 30)}, {torch.range(1, 40):view(1, 40):div(1000)},
   {torch.range(1, 3):view(3, 1)}, {torch.range(1, 6):view(2, 3):t()}, {torch.DoubleTensor(2, 2, 1):fill(1e7)}, {torch.DoubleStorage {1, 2.5}},
   {torch.LongStorage()}, {torch.ByteStorage {255}}, {torch.range(1, 3), 4, torch.range(1, 2)}, {torch.DoubleTensor {1e9, 1}}, {torch.DoubleTensor {1e10, 1}},
   {torch.DoubleTensor {99999, 0.5}}, {torch.DoubleTensor(1):fill(-1e-20)}, {torch.DoubleTensor {{1e-8, 1}, {1, 1}}}, {torch.FloatTensor {0.1, 0.2}},
}
for _, ty in ipairs(types) do
   values[#values + 1] = {torch[ty .. 'Tensor'] {1, 2, 100}}
   values[#values + 1] = {torch[ty .. 'Tensor'](2, 2):fill(7)}
end
for i, value in ipairs(values) do
   io.write('-- ', i, '\n')
   SHOW(unpack(value))
end
