// A CUDA device and the memory that a context keeps on it, through the driver API, which is loaded at run time.
#ifndef LIT_DEPLOY_RUNTIME_CUDA_DRIVER_H_
#define LIT_DEPLOY_RUNTIME_CUDA_DRIVER_H_

#include <cuda.h>

#include <cstddef>
#include <new>
#include <string>

namespace lit_deploy::runtime {

// Everything that is used of libcuda.so.1. All of it is in CUDA 11.8 and newer.
#define LIT_CUDA_FUNCTIONS(X)                                                                               \
  X(cuInit) X(cuDriverGetVersion) X(cuGetErrorName)                                                         \
  X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetAttribute)                             \
  X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) X(cuCtxPushCurrent) X(cuCtxPopCurrent)           \
  X(cuMemAlloc) X(cuMemFree) X(cuMemAllocHost) X(cuMemFreeHost) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync)   \
  X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamBeginCapture) X(cuStreamEndCapture) \
  X(cuGraphInstantiate) X(cuGraphLaunch) X(cuGraphDestroy) X(cuGraphExecDestroy)

// The driver's functions, under the names (and so of the versions) that cuda.h gives them.
struct CudaDriver {
#define LIT_CUDA_MEMBER(name) decltype(&::name) name;
  LIT_CUDA_FUNCTIONS(LIT_CUDA_MEMBER)
#undef LIT_CUDA_MEMBER

  // Throws LIT_OUT_OF_MEMORY, LIT_NO_DEVICE or LIT_RUN_FAILED for every status but CUDA_SUCCESS; `call` is for the
  // sentence.
  void check(CUresult result, const char* call) const;
};

// The driver, loaded and initialised by the first call that succeeds. Throws LIT_NO_DEVICE.
const CudaDriver& cuda_driver();

// What a device is, as lit_deploy.machine.cuda.Gpu.
struct Gpu {
  std::string name;
  std::string compute_capability;  // "9.0"
  std::string driver_cuda;         // newest CUDA version that the driver knows, "13.0"
};

// Throws LIT_NO_DEVICE, also where there are fewer devices.
Gpu describe_gpu(int index);

// A device's primary context: the one that TensorRT, and every library on the CUDA runtime, works in.
class Device {
 public:
  explicit Device(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  CUcontext context() const { return context_; }

 private:
  CUdevice handle_ = 0;
  CUcontext context_ = nullptr;
};

// Makes a device's context the calling thread's, and gives the thread its own back at the end.
class Current {
 public:
  explicit Current(const Device& device) { cuda_driver().check(push(device), "cuCtxPushCurrent"); }
  // For destructors: after a failure on the GPU nothing can be made current, and the rest is let go of all the same.
  Current(const Device& device, std::nothrow_t) { push(device); }
  ~Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  CUresult push(const Device& device);
  bool pushed_ = false;
};

// A stream that does not wait for the default one. Made, used and destroyed with the context current.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  CUstream get() const { return stream_; }

 private:
  CUstream stream_ = nullptr;
};

// Memory of one tensor: on the device and, if wanted, pinned on the host to copy from or to. Grows as needed.
class Buffer {
 public:
  explicit Buffer(bool pinned) : pinned_(pinned) {}
  ~Buffer() { free(); }
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&&) = delete;

  // Has room for `size` bytes. Nothing may be using the buffer; its contents are lost when it grows.
  void reserve(size_t size);
  void upload(size_t size, const Stream& stream) const;
  void download(size_t size, const Stream& stream) const;

  void* device() const { return reinterpret_cast<void*>(device_); }
  void* host() const { return host_; }  // nullptr where not pinned

 private:
  void free();

  bool pinned_;
  CUdeviceptr device_ = 0;
  void* host_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_CUDA_DRIVER_H_
