// The CUDA kernels as plain C functions, for ctypes and the like: no ONNX Runtime, no TensorRT. The operators' own lie
// in their folders.
#include <cuda_runtime_api.h>

#include <cstdint>

// What a number that one of them returns means, in English; never null.
extern "C" __attribute__((visibility("default"))) const char* lit_deploy_cuda_error_string(int32_t error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
