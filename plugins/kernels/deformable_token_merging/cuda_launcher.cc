// The CUDA kernel as plain C functions, for ctypes and the like: no ONNX Runtime, no TensorRT.
#include "deformable_token_merging/cuda.h"

// Returns 0, or a cudaError_t. `element` is 0 for float32, 1 for float16, 2 for bfloat16; the pointers are device
// memory and `stream` is a cudaStream_t (null: the default stream). See deformable_token_merging_cuda().
extern "C" __attribute__((visibility("default"))) int32_t lit_deploy_deformable_token_merging(
    int32_t element, int64_t batch, int64_t height, int64_t width, int64_t channels, const void* x,
    const void* offset_weight, const void* offset_bias, void* y, void* stream) {
  return lit_deploy::deformable_token_merging_cuda(
      lit_deploy::MergingShape{batch, height, width, channels}, static_cast<lit_deploy::CudaElement>(element), x,
      offset_weight, offset_bias, y, static_cast<cudaStream_t>(stream));
}
