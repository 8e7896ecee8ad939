-- image: loading, saving and common operations on images, which are channels x height x width.
local bridge, py = ...
image = {}
local load, save, scale = bridge.bind(py.image_load), bridge.bind(py.image_save), bridge.bind(py.image_scale)
local luminance = bridge.bind(py.image_luminance)

local function element_type(name)
   name = name or torch.getdefaulttensortype()
   return ({float = 'Float', double = 'Double', byte = 'Byte'})[name] or name:match('torch%.(%a+)Tensor') or 'Double'
end
function image.load(path, depth, ty) return load(path, depth, element_type(ty)) end
function image.save(path, picture) return save(path, picture) end
function image.getSize(path)
   local picture = image.load(path)
   return torch.LongTensor {picture:size(1), picture:size(2), picture:size(3)}
end

-- (src, width, height [, mode]) | (src, size [, mode]) | (dst, src [, mode]). A size is a number (the longer side), 'WxH', '^' and the
-- shorter side, or '*' and a factor or fraction
local function target_size(src, size)
   if type(size) ~= 'string' and type(size) ~= 'number' then error('image.scale: incorrect arguments', 3) end
   local h, w = src:size(src:dim() - 1), src:size(src:dim())
   local longer = tonumber(size)
   if longer then return w * longer / math.max(w, h), h * longer / math.max(w, h) end
   local width, height = size:match('(%d+)x(%d+)')
   if width then return tonumber(width), tonumber(height) end
   local shorter = tonumber(size:match('%^(%d+)'))
   if shorter then return w * shorter / math.min(w, h), h * shorter / math.min(w, h) end
   local numerator, denominator = size:match('%*(%d+)/(%d+)')
   if numerator then return w * numerator / denominator, h * numerator / denominator end
   local factor = tonumber(size:match('%*(.+)'))
   if not factor then error('could not find valid dest size', 3) end
   return w * factor, h * factor
end
function image.scale(...)
   local a, b, c, d = ...
   if torch.isTensor(b) then
      local n = a:dim()
      return a:copy(scale(b, a:size(n), a:size(n - 1), c or 'bilinear'))
   end
   if type(c) == 'number' then return scale(a, b, c, d or 'bilinear') end
   local width, height = target_size(a, b)
   return scale(a, width, height, c or 'bilinear')
end

-- ([dst,] src, x1, y1 [, x2, y2]) with corners counted from 0, of which the second is exclusive; or ([dst,] src, format, width,
-- height). Without a second corner, the size of dst is cropped; otherwise the part is scaled to the size of dst
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
      if not x1 then error('crop format must be "c"|"tl"|"tr"|"bl"|"br"', 2) end
      x2, y2 = x1 + width, y1 + height
   elseif not x2 then
      if not dst then error('image.crop: incorrect arguments', 2) end
      x2, y2 = x1 + dst:size(n), y1 + dst:size(n - 1)
   end
   if x1 < 0 or y1 < 0 or x2 > w or y2 > h then error('image.crop: crop goes outside bounds of src', 2) end
   local part = src:narrow(n, x1 + 1, x2 - x1):narrow(n - 1, y1 + 1, y2 - y1)
   part = part:clone():float():typeAs(src)  -- a copy; libimage copies in single precision
   if not dst then return part end
   return dst:isSameSizeAs(part) and dst:copy(part) or image.scale(dst, part)
end

local function reversed(src, d)
   local n = src:size(d)
   return src:index(d, torch.range(n, 1, -1):long())
end
local function copied_to(dst, result) return dst and dst:resizeAs(result):copy(result) or result end
local function flipped(d)
   return function(a, b)
      local src = b or a
      return copied_to(b and a, reversed(src, src:dim() - d))
   end
end
image.hflip, image.vflip = flipped(0), flipped(1)
function image.flip(a, b, c)
   if torch.isTensor(b) then return copied_to(a, reversed(b, c)) end
   return reversed(a, b)
end

-- scale elements to 0 .. 1; options: tensor, min, max, symm, inplace, saturate, tensorOut
function image.minmax(options)
   local tensor, low, high = options.tensor, options.min, options.max
   local result = options.inplace and tensor or torch.Tensor()
   if options.tensorOut then result = options.tensorOut end
   if result ~= tensor then result:resize(tensor:size()):copy(tensor) end
   local symmetric = options.symm and math.max(math.abs(result:min()), math.abs(result:max()))
   local span
   low = low or symmetric and -symmetric or result:min()
   if low ~= 0 then result:add(-low) end
   if high then span = high - low else span = symmetric and 2 * (options.min and 0 or symmetric) or result:max() end
   if span ~= 0 then result:div(span) end
   if options.saturate and (options.min or high) then
      result[result:lt(0)] = 0
      result[result:gt(1)] = 1
   end
   return result
end

-- a grid of images with padding; arguments in this order, or a table of them
function image.toDisplayTensor(options, padding, columns, each, low, high, symmetric, saturate)
   if torch.isTensor(options) or options.input == nil then
      options = {input = options, padding = padding, nrow = columns, scaleeach = each, min = low, max = high,
                 symmetric = symmetric, saturate = saturate}
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
   local function scaled(t)
      return image.minmax {tensor = t, inplace = true, min = options.min, max = options.max, symm = options.symmetric,
                           saturate = options.saturate ~= false}
   end
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

-- a function of ([output,] input) that multiplies the channels of each pixel by a matrix
local function color_conversion(weights)
   return function(a, b)
      local picture = b or a
      local result = picture.new(#weights, picture:size(2), picture:size(3)):zero()
      for i, row in ipairs(weights) do
         for j, weight in ipairs(row) do result[i]:add(weight, picture[j]) end
      end
      return copied_to(b and a, result)
   end
end
function image.rgb2y(a, b)
   local y = luminance(b or a)
   return copied_to(b and a, y:view(1, y:size(1), y:size(2)))
end
image.rgb2yuv = color_conversion {{0.299, 0.587, 0.114}, {-0.14713, -0.28886, 0.436}, {0.615, -0.51499, -0.10001}}
image.yuv2rgb = color_conversion {{1, 0, 1.13983}, {1, -0.39465, -0.58060}, {1, 2.03211, 0}}

-- options by name or in order. defaults: {name, default}; a string as default is the name of another option
local function options_of(defaults, ...)
   local first, options = ..., {}
   local named = type(first) == 'table' and select('#', ...) == 1
   for i, default in ipairs(defaults) do
      local name = default[1]
      if named then options[name] = first[name] else options[name] = (select(i, ...)) end
      if options[name] == nil then
         if type(default[2]) == 'string' then options[name] = options[default[2]] else options[name] = default[2] end
      end
   end
   return options
end
local function normalized(t, normalize) return normalize and t:div(t:sum()) or t end

-- a 2-D Gaussian function
local GAUSSIAN = {{'size', 3}, {'sigma', 0.25}, {'amplitude', 1}, {'normalize', false}, {'width', 'size'}, {'height', 'size'},
   {'sigma_horz', 'sigma'}, {'sigma_vert', 'sigma'}, {'mean_horz', 0.5}, {'mean_vert', 0.5}, {'tensor'}}
function image.gaussian(...)
   local options = options_of(GAUSSIAN, ...)
   local result = options.tensor or torch.Tensor(options.height, options.width)
   local height, width = result:size(1), result:size(2)
   for i = 1, height do
      for j = 1, width do
         local y = (i - options.mean_vert * height - 0.5) / (options.sigma_vert * height)
         local x = (j - options.mean_horz * width - 0.5) / (options.sigma_horz * width)
         result[i][j] = options.amplitude * math.exp(-(x * x + y * y) / 2)
      end
   end
   return normalized(result, options.normalize)
end

local GAUSSIAN_1D = {{'size', 3}, {'sigma', 0.25}, {'amplitude', 1}, {'normalize', false}, {'mean', 0.5}, {'tensor'}}
function image.gaussian1D(...)
   local options = options_of(GAUSSIAN_1D, ...)
   local result = options.tensor or torch.Tensor(options.size)
   local size = result:size(1)
   local center, width = options.mean * size + 0.5, options.sigma * size
   for i = 1, size do result[i] = options.amplitude * math.exp(-((i - center) / width) ^ 2 / 2) end
   return normalized(result, options.normalize)
end

for _, format in ipairs {'PNG', 'JPG', 'PPM'} do
   image['load' .. format], image['save' .. format], image['get' .. format .. 'size'] = image.load, image.save, image.getSize
end
image.savePGM = image.save

-- these functions need a screen and Qt in Torch7; here they do nothing
function image.display() end
function image.window() end
for name in ('affinetransform colormap compressJPG compressPNG convolve decompress decompressJPG decompressPNG dilate drawRect drawText ' ..
   'erode fabio hsl2rgb hsv2rgb jetColormap lab2rgb laplacian lcn lena logpolar polar rgb2hsl rgb2hsv rgb2lab rgb2nrgb rotate ' ..
   'translate warp y2jet'):gmatch('%w+') do
   image[name] = image[name] or function()
      error('image.' .. name .. ' is not supported by the bridge: do this step in Python', 2)
   end
end
return image
