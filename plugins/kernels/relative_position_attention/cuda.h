// Attention with a relative position bias (operator version 1) on CUDA devices; kernel.h has the CPU kernel.
//
// Plain parameters only: nothing here knows ONNX Runtime, TensorRT or PyTorch.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"
#include "relative_position_attention/kernel.h"

namespace lit_deploy {

// The largest head_dim that the CUDA kernel takes: a tile of keys and values has to fit into shared memory.
constexpr int64_t kMaxCudaAttentionHeadDim = 128;

// Enqueues the whole operator on `stream` of the current device and returns what the launch returned; an error of the
// kernel itself shows, as always in CUDA, at a later call. Never synchronises, allocates or prints, and needs no memory
// beside the arrays, whatever the number of tokens.
//
// Shapes and layout are those of relative_position_attention(): qkv and y of `element`, which is widened, computed in
// float32 and rounded once; the table float32 whatever it is, and null where shape.rows is 0. Of half types with heads of
// 32 or 64, in arrays aligned to 16 bytes, the products are of the tensor cores: exact, summed up in float32, with each
// weight rounded to the element first. All pointers are device
// memory, aligned to one element; y must not overlap the inputs. No images or no tokens are no work: pointers may then
// be null.
//
// Returns cudaErrorInvalidValue, without touching the device, for an unknown element, a negative batch or number of
// tokens, heads below 1, head_dim below 1 or above kMaxCudaAttentionHeadDim, rows and columns that do not make the
// tokens (and are not both 0), a tensor above kMaxElements (sizes.h), 2^31 tokens or elements of one head's table and
// more, more than 2^31 - 1 thread blocks, or a null or misaligned pointer.
cudaError_t relative_position_attention_cuda(const AttentionShape& shape, CudaElement element, float scale,
                                             const void* qkv, const float* table, void* y,
                                             cudaStream_t stream) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_H_
