#include "cuda_driver.h"

#include <dlfcn.h>

#include <utility>

#include "error.h"

namespace lit_deploy::runtime {
namespace {

constexpr char kLibrary[] = "libcuda.so.1";

CudaDriver load() {
  // The driver comes with the machine: by its own name alone, so that no other file can take its place.
  void* handle = dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw Error(LIT_NO_DEVICE, std::string("no NVIDIA driver was found (") + (reason ? reason : kLibrary) +
                                   "); install the driver, or run on a machine with a GPU");
  }
  CudaDriver driver;
#define LIT_CUDA_TEXT(name) #name
#define LIT_CUDA_LOAD(name)                                                                                            \
  driver.name = reinterpret_cast<decltype(driver.name)>(dlsym(handle, LIT_CUDA_TEXT(name)));                           \
  if (driver.name == nullptr) {                                                                                        \
    throw Error(LIT_WRONG_VERSION, std::string("the NVIDIA driver lacks ") + LIT_CUDA_TEXT(name) +                     \
                                       ", so it is older than CUDA 11.8; update the driver");                          \
  }
  LIT_CUDA_FUNCTIONS(LIT_CUDA_LOAD)
#undef LIT_CUDA_LOAD
#undef LIT_CUDA_TEXT
  try {
    driver.check(driver.cuInit(0), "cuInit");
  } catch (const Error& error) {
    throw Error(LIT_NO_DEVICE, std::string("no CUDA device can be used here (") + error.what() +
                                   "); run on a machine with a GPU");
  }
  return driver;
}

}  // namespace

void CudaDriver::check(CUresult result, const char* call) const {
  if (result == CUDA_SUCCESS) return;
  const char* name = nullptr;
  cuGetErrorName(result, &name);
  lit_status status = LIT_RUN_FAILED;
  if (result == CUDA_ERROR_OUT_OF_MEMORY) status = LIT_OUT_OF_MEMORY;
  for (const CUresult missing : {CUDA_ERROR_NO_DEVICE, CUDA_ERROR_INVALID_DEVICE, CUDA_ERROR_DEVICE_UNAVAILABLE,
                                 CUDA_ERROR_SYSTEM_DRIVER_MISMATCH}) {
    if (result == missing) status = LIT_NO_DEVICE;
  }
  throw Error(status, std::string("the CUDA driver says ") + (name ? name : std::to_string(result)) + " to " + call);
}

const CudaDriver& cuda_driver() {
  static const CudaDriver driver = load();  // one that throws is tried again by the next call
  return driver;
}

Gpu describe_gpu(int index) {
  const CudaDriver& cuda = cuda_driver();
  int count = 0;
  cuda.check(cuda.cuDeviceGetCount(&count), "cuDeviceGetCount");
  if (index < 0 || index >= count) {
    throw Error(LIT_NO_DEVICE, "CUDA device " + std::to_string(index) + " was asked for, but this machine shows " +
                                   std::to_string(count) + " of them");
  }
  CUdevice device;
  char name[256] = {};
  int major = 0, minor = 0, version = 0;
  cuda.check(cuda.cuDeviceGet(&device, index), "cuDeviceGet");
  cuda.check(cuda.cuDeviceGetName(name, sizeof name - 1, device), "cuDeviceGetName");
  cuda.check(cuda.cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device),
             "cuDeviceGetAttribute");
  cuda.check(cuda.cuDeviceGetAttribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device),
             "cuDeviceGetAttribute");
  cuda.check(cuda.cuDriverGetVersion(&version), "cuDriverGetVersion");
  return {name, std::to_string(major) + "." + std::to_string(minor),
          std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10)};
}

Device::Device(int index) {
  const CudaDriver& cuda = cuda_driver();
  cuda.check(cuda.cuDeviceGet(&handle_, index), "cuDeviceGet");
  cuda.check(cuda.cuDevicePrimaryCtxRetain(&context_, handle_), "cuDevicePrimaryCtxRetain");
}

// The last one in the process to let go of the context destroys it.
Device::~Device() { cuda_driver().cuDevicePrimaryCtxRelease(handle_); }

CUresult Current::push(const Device& device) {
  const CUresult result = cuda_driver().cuCtxPushCurrent(device.context());
  pushed_ = result == CUDA_SUCCESS;
  return result;
}

Current::~Current() {
  CUcontext popped;
  if (pushed_) cuda_driver().cuCtxPopCurrent(&popped);
}

Stream::Stream() {
  const CudaDriver& cuda = cuda_driver();
  cuda.check(cuda.cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
}

Stream::~Stream() { cuda_driver().cuStreamDestroy(stream_); }

Buffer::Buffer(Buffer&& other) noexcept
    : pinned_(other.pinned_),
      device_(std::exchange(other.device_, 0)),
      host_(std::exchange(other.host_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

void Buffer::reserve(size_t size) {
  if (size <= size_) return;
  free();
  const CudaDriver& cuda = cuda_driver();
  cuda.check(cuda.cuMemAlloc(&device_, size), "cuMemAlloc");
  if (pinned_) cuda.check(cuda.cuMemAllocHost(&host_, size), "cuMemAllocHost");
  size_ = size;
}

void Buffer::upload(size_t size, const Stream& stream) const {
  const CudaDriver& cuda = cuda_driver();
  cuda.check(cuda.cuMemcpyHtoDAsync(device_, host_, size, stream.get()), "cuMemcpyHtoDAsync");
}

void Buffer::download(size_t size, const Stream& stream) const {
  const CudaDriver& cuda = cuda_driver();
  cuda.check(cuda.cuMemcpyDtoHAsync(host_, device_, size, stream.get()), "cuMemcpyDtoHAsync");
}

// Answers are dropped: after a failure on the GPU every call fails.
void Buffer::free() {
  if (device_ != 0) cuda_driver().cuMemFree(device_);
  if (host_ != nullptr) cuda_driver().cuMemFreeHost(host_);
  device_ = 0;
  host_ = nullptr;
  size_ = 0;
}

}  // namespace lit_deploy::runtime
