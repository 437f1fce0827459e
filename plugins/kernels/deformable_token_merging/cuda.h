// Deformable token merging (operator version 1) on CUDA devices; kernel.h has the CPU kernel.
//
// Plain parameters only: nothing here knows ONNX Runtime, TensorRT or PyTorch.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda_types.h"
#include "deformable_token_merging/kernel.h"

namespace lit_deploy {

// Enqueues the whole operator on `stream` of the current device and returns what the launch returned; an error of the
// kernel itself shows, as always in CUDA, at a later call. Never synchronises, allocates or prints.
//
// Shapes and layout are those of deformable_token_merging(). All pointers are device memory of `element`, aligned to
// one element; y must not overlap the inputs. 16-byte aligned pointers and channels that fill whole 16-byte vectors (a
// multiple of 4 in float32, of 8 otherwise) take the fast path. An empty batch is no work: pointers may then be null.
//
// Returns cudaErrorInvalidValue, without touching the device, for an unknown element, height or width below 2 or above
// 2^30, channels below 1 or above 2^25, a negative batch, more than 2^60 elements, more than 2^31 - 1 tiles of 4 x 4
// outputs, or a null or misaligned pointer.
cudaError_t deformable_token_merging_cuda(const MergingShape& shape, CudaElement element, const void* x,
                                          const void* offset_weight, const void* offset_bias, void* y,
                                          cudaStream_t stream) noexcept;

// Whether the current device can run this build of the kernel: cudaSuccess, or what a launch would return. Loads the
// kernel, which makes the device's context where there is none yet.
cudaError_t check_deformable_token_merging_cuda() noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_H_
