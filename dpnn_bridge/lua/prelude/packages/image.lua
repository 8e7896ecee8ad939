-- image: loading, saving and the commonest operations on pictures, channels x height x width.
local bridge, py = ...
image = {}
local load, save, scale = bridge.bind(py.image_load), bridge.bind(py.image_save), bridge.bind(py.image_scale)

local function element_type(name)
   name = name or torch.getdefaulttensortype()
   return ({float = 'Float', double = 'Double', byte = 'Byte'})[name] or name:match('torch%.(%a+)Tensor') or 'Double'
end
function image.load(path, depth, ty) return load(path, depth, element_type(ty)) end
for _, format in ipairs {'PNG', 'JPG', 'PPM', 'PGM'} do
   image['load' .. format], image['save' .. format] = image.load, function(path, picture) return save(path, picture) end
end
function image.save(path, picture) return save(path, picture) end
function image.getSize(path)
   local picture = image.load(path)
   return torch.LongStorage {picture:size(1), picture:size(2), picture:size(3)}
end

-- (src, width, height [, mode]) | (src, size [, mode]) | (dst, src [, mode]); a size is a number, 'WxH', '^N' or '*N'
local function wanted_size(src, size)
   local h, w = src:size(src:dim() - 1), src:size(src:dim())
   if type(size) == 'number' then size = tostring(size) end
   local width, height = size:match('^(%d+)x(%d+)$')
   if width then return tonumber(width), tonumber(height) end
   local sign, n = size:match('^([%^%*]?)(%d+)$')
   if not n then error('Bad size for generated image', 3) end
   n = tonumber(n)
   local factor = sign == '^' and math.max(n / w, n / h) or sign == '*' and math.sqrt(n * n / (w * h)) or math.min(n / w, n / h)
   return math.max(1, math.floor(w * factor + 0.5)), math.max(1, math.floor(h * factor + 0.5))
end
function image.scale(...)
   local a, b, c, d = ...
   if torch.isTensor(b) then
      local n = a:dim()
      return a:copy(scale(b, a:size(n), a:size(n - 1), c or 'bilinear'))
   end
   if type(b) == 'number' and type(c) == 'number' then return scale(a, b, c, d or 'bilinear') end
   local width, height = wanted_size(a, b)
   return scale(a, width, height, c or 'bilinear')
end

-- (src, x1, y1 [, x2, y2]) with corners counted from 0, the second one outside; or (src, format, width, height)
function image.crop(...)
   local arguments = {...}
   local dst
   if torch.isTensor(arguments[2]) then dst = table.remove(arguments, 1) end
   local src, x1, y1, x2, y2 = unpack(arguments)
   local n = src:dim()
   local h, w = src:size(n - 1), src:size(n)
   if type(x1) == 'string' then
      local format, width, height = x1, y1, x2
      x1 = ({c = math.floor((w - width) / 2), tl = 0, bl = 0, tr = w - width, br = w - width})[format]
      y1 = ({c = math.floor((h - height) / 2), tl = 0, tr = 0, bl = h - height, br = h - height})[format]
      if not x1 then error('crop type must be "c"|"tl"|"tr"|"bl"|"br"', 2) end
      x2, y2 = x1 + width, y1 + height
   elseif dst and not x2 then
      x2, y2 = x1 + dst:size(n), y1 + dst:size(n - 1)
   end
   local part = src:narrow(n, x1 + 1, x2 - x1):narrow(n - 1, y1 + 1, y2 - y1)
   return dst and dst:copy(part) or part:clone()
end

local function reversed(src, d)
   local n = src:size(d)
   return src:index(d, torch.range(n, 1, -1):long())
end
local function flipped(d)
   return function(a, b)
      local src = b or a
      local result = reversed(src, src:dim() - d)
      return b and a:copy(result) or result
   end
end
image.hflip, image.vflip = flipped(0), flipped(1)
function image.flip(a, b, c)
   if torch.isTensor(b) then return a:copy(reversed(b, c)) end
   return reversed(a, b)
end

-- between 0 and 1
function image.minmax(options)
   local tensor = options.tensor
   local low, high = options.min or tensor:min(), options.max or tensor:max()
   local result = options.inplace and tensor or tensor:clone()
   if options.min then result[result:lt(low)] = low end
   if options.max then result[result:gt(high)] = high end
   result:add(-low)
   if high ~= low then result:div(high - low) end
   return result
end

-- one picture of many, padded and in a grid; arguments in this order, or a table of them
function image.toDisplayTensor(options, padding, columns, each, low, high)
   if torch.isTensor(options) or options.input == nil then
      options = {input = options, padding = padding, nrow = columns, scaleeach = each, min = low, max = high}
   end
   local pictures, gap = options.input, options.padding or 0
   if not torch.isTensor(pictures) then
      local list = {}
      for i, picture in ipairs(pictures) do
         local channels = picture:dim() == 2 and 1 or picture:size(1)
         list[i] = picture:contiguous():view(1, channels, picture:size(picture:dim() - 1), picture:size(picture:dim()))
      end
      pictures = torch.cat(list, 1)
   end
   local function scaled(t) return image.minmax {tensor = t, inplace = true, min = options.min, max = options.max} end
   local kind = pictures:dim()
   pictures = torch.Tensor():resize(pictures:size()):copy(pictures)
   if kind == 2 or (kind == 3 and (pictures:size(1) == 1 or pictures:size(1) == 3)) then return scaled(pictures) end
   assert(kind == 3 or kind == 4 and (pictures:size(2) == 1 or pictures:size(2) == 3),
          'packed must be a HxW or KxHxW or Kx3xHxW tensor, or a list of tensors')
   local count = pictures:size(1)
   if options.scaleeach then
      for i = 1, count do scaled(pictures[i]) end
   end
   pictures = pictures:view(count, kind == 3 and 1 or pictures:size(2), pictures:size(kind - 1), pictures:size(kind))
   local h, w = pictures:size(3) + gap, pictures:size(4) + gap
   local across = math.min(options.nrow or 6, count)
   local grid = torch.Tensor(pictures:size(2), h * math.ceil(count / across), w * across):fill(pictures:max())
   for i = 1, count do
      local row, column = math.floor((i - 1) / across), (i - 1) % across
      grid:narrow(2, math.floor(row * h + 1 + gap / 2), h - gap):narrow(3, math.floor(column * w + 1 + gap / 2), w - gap):copy(pictures[i])
   end
   if kind == 3 then grid = grid[1] end
   return options.scaleeach and grid or scaled(grid)
end

local function of_pixels(weights)
   return function(picture)
      local result = torch.mm(torch.Tensor(weights):typeAs(picture), picture:contiguous():view(3, -1))
      return result:view(#weights, picture:size(2), picture:size(3))
   end
end
local luma = of_pixels {{0.299, 0.587, 0.114}}
image.rgb2yuv = of_pixels {{0.299, 0.587, 0.114}, {-0.14713, -0.28886, 0.436}, {0.615, -0.51499, -0.10001}}
image.yuv2rgb = of_pixels {{1, 0, 1.13983}, {1, -0.39465, -0.58060}, {1, 2.03211, 0}}
function image.rgb2y(picture) return luma(picture) end

-- a bump of Gaussian shape
function image.gaussian(...)
   local a, sigma, amplitude, normalize = ...
   local options = type(a) == 'table' and a or {size = a, sigma = sigma, amplitude = amplitude, normalize = normalize}
   local width, height = options.width or options.size or 3, options.height or options.size or 3
   local s, high = options.sigma or 0.25, options.amplitude or 1
   local sx, sy, mx, my = options.sigma_horz or s, options.sigma_vert or s, options.mean_horz or 0.5, options.mean_vert or 0.5
   local result = (options.tensor or torch.Tensor(height, width))
   for i = 1, height do
      for j = 1, width do
         local y, x = (i - my * height - 0.5) / (sy * height), (j - mx * width - 0.5) / (sx * width)
         result[i][j] = high * math.exp(-(x * x + y * y) / 2)
      end
   end
   if options.normalize then result:div(result:sum()) end
   return result
end

function image.gaussian1D(...)
   local a, sigma, amplitude, normalize, mean, tensor = ...
   local options = type(a) == 'table' and a or {size = a, sigma = sigma, amplitude = amplitude, normalize = normalize, mean = mean, tensor = tensor}
   local size = options.tensor and options.tensor:size(1) or options.size or 3
   local center, width, high = (options.mean or 0.5) * size + 0.5, (options.sigma or 0.25) * size, options.amplitude or 1
   local result = options.tensor or torch.Tensor(size)
   for i = 1, size do result[i] = high * math.exp(-((i - center) / width) ^ 2 / 2) end
   if options.normalize then result:div(result:sum()) end
   return result
end

for _, format in ipairs {'PNG', 'JPG', 'PPM'} do
   image['load' .. format], image['save' .. format], image['get' .. format .. 'size'] = image.load, image.save, image.getSize
end

-- a window needs a screen and Qt: nothing is shown
function image.display() end
function image.window() end
for name in ('affinetransform colormap compressJPG compressPNG convolve decompress decompressJPG decompressPNG dilate drawRect drawText ' ..
   'erode fabio hsl2rgb hsv2rgb jetColormap lab2rgb laplacian lcn lena logpolar polar rgb2hsl rgb2hsv rgb2lab rgb2nrgb rotate ' ..
   'translate warp y2jet'):gmatch('%w+') do
   image[name] = image[name] or function()
      error('image.' .. name .. ' is not among the functions of image that come with the bridge: do this step in Python', 2)
   end
end
return image
