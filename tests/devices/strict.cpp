// A device with memory of its own, in the place that PyTorch keeps for devices of others (PrivateUse1).
//
// It is eager and has strides, as CUDA, and refuses what devices refuse:
//  - the host touches its memory: every allocation has pages of its own, which are locked but while a kernel runs;
//  - tensors of two devices in one operation, where a CPU tensor without dimensions and CPU indices are allowed, as on CUDA;
//  - a change of the device in place: its tensors are not shallow-copy compatible with those of the CPU.
// Its kernels are those of the CPU, so that results are equal to the last bit.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <cstring>
#include <mutex>
#include <unordered_map>

namespace {

using at::IntArrayRef;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr auto kStrict = c10::DeviceType::PrivateUse1;
constexpr auto kKey = c10::DispatchKey::PrivateUse1;

// ---------------------------------------------------------------------------------------------------------- memory
std::mutex guard;
std::unordered_map<void*, size_t> blocks;

void lock(void* start, bool open) {
  std::lock_guard<std::mutex> held(guard);
  auto block = blocks.find(start);
  if (block != blocks.end()) mprotect(start, block->second, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void release(void* start) {
  std::lock_guard<std::mutex> held(guard);
  auto block = blocks.find(start);
  if (block == blocks.end()) return;
  munmap(start, block->second);
  blocks.erase(block);
}

// Opens blocks of memory while it lives.
struct Opened {
  explicit Opened(std::initializer_list<const void*> starts) {
    for (auto start : starts) all.push_back(const_cast<void*>(start));
    for (auto start : all) lock(start, true);
  }
  ~Opened() {
    for (auto start : all) lock(start, false);
  }
  std::vector<void*> all;
};

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    c10::Device device(kStrict, 0);
    if (bytes == 0) return {nullptr, nullptr, &release, device};
    void* start = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(start != MAP_FAILED, "strict: out of memory (", bytes, " bytes)");
    std::lock_guard<std::mutex> held(guard);
    blocks[start] = bytes;
    return {start, start, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* target, const void* source, size_t bytes) const override {
    Opened open({target, source});
    std::memcpy(target, source, bytes);
  }
};

Memory memory;
REGISTER_ALLOCATOR(c10::DeviceType::PrivateUse1, &memory);

void grow(const c10::Storage& storage, size_t bytes) {
  auto* impl = storage.unsafeGetStorageImpl();
  auto fresh = memory.allocate(bytes);
  if (auto kept = std::min(bytes, storage.nbytes())) memory.copy_data(fresh.get(), impl->data(), kept);
  impl->set_data_ptr_noswap(std::move(fresh));
  impl->set_nbytes(bytes);
}

// -------------------------------------------------------------------------------------------------- tensors, views
Tensor empty(IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  auto type = c10::dtype_or_default(dtype);
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(kKey), type, format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  auto type = c10::dtype_or_default(dtype);
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(kKey), type);
}

Tensor strided(const Tensor& self, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> start) {
  at::AutoDispatchBelowADInplaceOrView below;
  auto offset = start.value_or(self.storage_offset());
  auto needed = at::detail::computeStorageNbytes(size, stride, self.itemsize(), offset);
  TORCH_CHECK(c10::multiply_integers(size) == 0 || needed <= self.storage().nbytes(),
              "as_strided: out of bounds for storage of size ", self.storage().nbytes());
  auto view = at::detail::make_tensor<c10::TensorImpl>(c10::TensorImpl::VIEW, c10::Storage(self.storage()),
                                                       self.key_set(), self.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, std::optional<int64_t>(offset));
  return view;
}

Tensor view(const Tensor& self, IntArrayRef size) {
  auto full = at::infer_size_dv(size, self.numel());
  auto stride = at::detail::computeStride(self.sizes(), self.strides(), full);
  TORCH_CHECK(stride.has_value(), "view size is not compatible with input tensor's size and stride (at least one "
              "dimension spans across two contiguous subspaces). Use .reshape(...) instead.");
  return strided(self, full, *stride, self.storage_offset());
}

Tensor reshape_alias(const Tensor& self, IntArrayRef size, IntArrayRef stride) {
  return strided(self, size, stride, std::nullopt);
}

Tensor unfold(const Tensor& self, int64_t dim, int64_t size, int64_t step) {
  dim = at::maybe_wrap_dim(dim, self.dim(), true);
  auto sizes = self.sizes().vec(), strides = self.strides().vec();
  auto length = self.dim() ? sizes[dim] : 1, stride = self.dim() ? strides[dim] : 1;
  TORCH_CHECK(size <= length, "maximum size for tensor at dimension ", dim, " is ", length, " but size is ", size);
  if (self.dim()) {
    sizes[dim] = (length - size) / step + 1;
    strides[dim] = step * stride;
  }
  sizes.push_back(size);
  strides.push_back(stride);
  return strided(self, sizes, strides, std::nullopt);
}

const Tensor& resize_(const Tensor& self, IntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  size_t needed = (impl->numel() + impl->storage_offset()) * self.itemsize();
  if (impl->numel() && needed > self.storage().nbytes()) grow(self.storage(), needed);
  return self;
}

Tensor& set_storage_part(Tensor& self, at::Storage source, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  auto whole = c10::contiguous_strides(size);
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_and_strides(size, stride.empty() ? IntArrayRef(whole) : stride, std::optional<int64_t>(offset));
  return self;
}

Tensor& set_storage(Tensor& self, at::Storage source) {
  auto elements = static_cast<int64_t>(source.nbytes() / self.itemsize());
  return set_storage_part(self, std::move(source), 0, {elements}, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage_part(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

Tensor& set_empty(Tensor& self) {
  return set_tensor(self, empty({0}, self.scalar_type(), {}, {}, {}, {}));
}

// --------------------------------------------------------------------------------------- between the host and here
// The memory of a tensor as a CPU tensor, to be used while the memory is open.
Tensor on_host(const Tensor& tensor) {
  if (tensor.device().type() != kStrict) return tensor;
  auto* data = const_cast<void*>(tensor.storage().data());
  c10::Storage storage(c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
                       c10::DataPtr(data, c10::Device(c10::kCPU)), nullptr, false);
  auto host = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                       tensor.dtype());
  host.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                    std::optional<int64_t>(tensor.storage_offset()));
  return host;
}

Tensor copy_from(const Tensor& self, const Tensor& target, bool) {
  Opened open({self.storage().data(), target.storage().data()});
  on_host(target).copy_(on_host(self));
  return target;
}

Tensor copy_from_and_resize(const Tensor& self, const Tensor& target) {
  at::native::resize_output(target, self.sizes());
  return copy_from(self, target, false);
}

at::Scalar element(const Tensor& self) {
  Opened open({self.storage().data()});
  return on_host(self).item();
}

// --------------------------------------------------------------------------------------------------------- kernels
bool may_be_elsewhere(const std::string& name, size_t argument, const Tensor& tensor) {
  if (tensor.dim() == 0) return true;
  bool indexes = name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_";
  return indexes && argument == 1 && !tensor.is_privateuseone();
}

void check_here(const std::string& name, size_t argument, const Tensor& tensor) {
  if (!tensor.defined() || tensor.is_privateuseone() || may_be_elsewhere(name, argument, tensor)) return;
  TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, strict:0 and ",
              tensor.device(), "! (argument ", argument, " of ", name, ")");
}

void on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& name = op.schema().name();
  auto count = op.schema().arguments().size(), first = stack->size() - count;
  for (size_t i = 0; i < count; i++) {
    const auto& value = (*stack)[first + i];
    if (value.isTensor()) check_here(name, i, value.toTensor());
    if (value.isTensorList())
      for (const Tensor& tensor : value.toTensorList()) check_here(name, i, tensor);
    if (value.isOptionalTensorList())
      for (OptionalTensor tensor : value.toOptionalTensorList()) check_here(name, i, tensor.value_or(Tensor()));
  }
  at::native::cpu_fallback(op, stack, /*error_on_views=*/true);
}


Tensor host(const char* name, size_t argument, const OptionalTensor& tensor) {
  if (!tensor || !tensor->defined()) return {};
  check_here(name, argument, *tensor);
  return tensor->cpu();
}

Tensor here(const Tensor& tensor) { return tensor.defined() ? tensor.to(c10::Device(kStrict, 0)) : tensor; }

std::tuple<Tensor, Tensor, Tensor> here(const std::tuple<Tensor, Tensor, Tensor>& of) {
  return {here(std::get<0>(of)), here(std::get<1>(of)), here(std::get<2>(of))};
}

Tensor convolution(const Tensor& input, const Tensor& weight, const OptionalTensor& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding,
                   int64_t groups) {
  auto name = "aten::convolution";
  return here(at::convolution(host(name, 0, input), host(name, 1, weight), host(name, 2, bias), stride, padding,
                              dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                                                        bool transposed, IntArrayRef output_padding, int64_t groups,
                                                        std::array<bool, 3> mask) {
  auto name = "aten::convolution_backward";
  auto outputs = transposed ? weight.size(1) * groups : weight.size(0);
  return here(at::convolution_backward(host(name, 0, grad), host(name, 1, input), host(name, 2, weight),
                                       IntArrayRef({outputs}), stride, padding, dilation, transposed, output_padding,
                                       groups, mask));
}

// its schema does not say that it changes the running statistics
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& input, const OptionalTensor& weight,
                                              const OptionalTensor& bias, const OptionalTensor& mean,
                                              const OptionalTensor& variance, bool training, double momentum,
                                              double eps) {
  auto name = "aten::native_batch_norm";
  auto mean_there = host(name, 3, mean), variance_there = host(name, 4, variance);
  auto results = at::native_batch_norm(host(name, 0, input), host(name, 1, weight), host(name, 2, bias), mean_there,
                                       variance_there, training, momentum, eps);
  if (training && mean_there.defined()) mean->copy_(mean_there);
  if (training && variance_there.defined()) variance->copy_(variance_there);
  return here(results);
}

Tensor plus(const Tensor& gates, const OptionalTensor& bias) { return bias && bias->defined() ? gates + *bias : gates; }

std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input, const Tensor& hidden, const Tensor& cell,
                                             const OptionalTensor& input_bias, const OptionalTensor& hidden_bias) {
  auto gates = plus(input, input_bias) + plus(hidden, hidden_bias);
  auto parts = gates.chunk(4, 1);
  auto next = parts[1].sigmoid() * cell + parts[0].sigmoid() * parts[2].tanh();
  return {parts[3].sigmoid() * next.tanh(), next, gates};
}

std::tuple<Tensor, Tensor> gru_cell(const Tensor& input, const Tensor& hidden, const Tensor& state,
                                    const OptionalTensor& input_bias, const OptionalTensor& hidden_bias) {
  auto from_input = plus(input, input_bias).chunk(3, 1), from_hidden = plus(hidden, hidden_bias).chunk(3, 1);
  auto reset = (from_input[0] + from_hidden[0]).sigmoid(), update = (from_input[1] + from_hidden[1]).sigmoid();
  auto fresh = (from_input[2] + reset * from_hidden[2]).tanh();
  return {(1 - update) * fresh + update * state, input};
}

// ---------------------------------------------------------------------------------------------------------- device
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kStrict; }
  c10::Device exchangeDevice(c10::Device) const override { return {kStrict, 0}; }
  c10::Device getDevice() const override { return {kStrict, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isAvailable() const override { return true; }
  bool isBuilt() const override { return true; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override { grow(storage, bytes); }
};
Hooks hooks;
[[maybe_unused]] const bool registered = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&on_cpu>()); }
TORCH_LIBRARY_IMPL(_, AutogradPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", strided);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", unfold);
  m.impl("resize_", resize_);
  m.impl("set_.source_Storage_storage_offset", set_storage_part);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_", set_empty);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", element);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("native_batch_norm", batch_norm);
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_gru_cell", gru_cell);
}
// made of operations that have gradients
TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_gru_cell", gru_cell);
}

// --------------------------------------------------------------------------------------- autocast, as it is on CUDA
namespace at::autocast {
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define SINGLE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(SINGLE)
  AT_FORALL_PROMOTE(WIDEST)
}
}  // namespace at::autocast
