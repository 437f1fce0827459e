// Class-aware non-maximum suppression (operator version 1) on CUDA devices; kernel.h has the CPU kernel.
//
// Plain parameters only: nothing here knows ONNX Runtime, TensorRT or PyTorch.
#ifndef LIT_DEPLOY_KERNELS_NMS_CUDA_H_
#define LIT_DEPLOY_KERNELS_NMS_CUDA_H_

#include <cuda_runtime_api.h>

#include <cstddef>

#include "cuda_types.h"
#include "nms/kernel.h"

namespace lit_deploy {

// The most boxes of one call: what is launched grows with their number, whatever the scores are.
constexpr int64_t kMaxCudaNmsBoxes = int64_t{1} << 24;

// Sets `bytes` to the device memory that nms_cuda() needs for its work on so many boxes: about 16 bytes a box, 20 a box
// that can be kept, and 2 MiB. Asks the current device, as the sort's part depends on it; cudaErrorInvalidValue for
// numbers that nms_cuda() refuses.
cudaError_t nms_cuda_workspace(const NmsOptions& options, int64_t count, size_t& bytes) noexcept;

// Enqueues the whole operator on `stream` of the current device and returns what the launches returned; an error of a
// kernel itself shows, as always in CUDA, at a later call. Never synchronises, allocates or prints; the result is the
// CPU kernel's, index by index.
//
// Arrays and options are those of nms(), in device memory, each aligned to one element. `workspace` is device memory of
// at least nms_cuda_workspace() bytes, aligned to 256, which must stay until the work is done; without boxes it may be
// null, and so may the inputs.
//
// Returns cudaErrorInvalidValue, without touching the device, for a negative number of boxes, more than
// kMaxCudaNmsBoxes, max_output below 0 or above kNmsMaxBoxes, or a null or misaligned pointer; and for a workspace that is
// too small.
cudaError_t nms_cuda(const NmsOptions& options, int64_t count, const float* boxes, const float* scores,
                     const int64_t* classes, int64_t* indices, void* workspace, size_t workspace_bytes,
                     cudaStream_t stream) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_NMS_CUDA_H_
