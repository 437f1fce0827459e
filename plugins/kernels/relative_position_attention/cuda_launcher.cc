// The CUDA kernel as a plain C function, for ctypes and the like: no ONNX Runtime, no TensorRT.
#include "relative_position_attention/cuda.h"

// Returns 0, or a cudaError_t. `element` is 0 for float32, 1 for float16, 2 for bfloat16; the pointers are device
// memory and `stream` is a cudaStream_t (null: the default stream). See relative_position_attention_cuda().
extern "C" __attribute__((visibility("default"))) int32_t lit_deploy_relative_position_attention(
    int32_t element, int64_t batch, int64_t tokens, int64_t heads, int64_t head_dim, int64_t rows, int64_t columns,
    float scale, const void* qkv, const float* table, void* y, void* stream) {
  return lit_deploy::relative_position_attention_cuda(
      lit_deploy::AttentionShape{batch, tokens, heads, head_dim, rows, columns},
      static_cast<lit_deploy::CudaElement>(element), scale, qkv, table, y, static_cast<cudaStream_t>(stream));
}
