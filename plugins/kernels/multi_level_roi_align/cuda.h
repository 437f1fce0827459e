// RoIAlign over a feature pyramid (operator version 1) on CUDA devices; kernel.h has the CPU kernel.
//
// Plain parameters only: nothing here knows ONNX Runtime, TensorRT or PyTorch.
#ifndef LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_H_
#define LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_H_

#include <cuda_runtime_api.h>

#include "cuda_types.h"
#include "multi_level_roi_align/kernel.h"

namespace lit_deploy {

// Enqueues the whole operator on `stream` of the current device and returns what the launch returned; an error of the
// kernel itself shows, as always in CUDA, at a later call. Never synchronises, allocates or prints.
//
// rois[rois, 4] are float32; levels[l][channels, height[l], width[l]] and y[rois, channels, output_size, output_size]
// are of `element`, float32 or float16, which is widened, computed in float32 and rounded once. All pointers are device
// memory, dense and aligned to one element; y must not overlap the others. The regions may hold any values, NaN and
// infinities included. No regions are no work: rois and y may then be null.
//
// Returns cudaErrorInvalidValue, without touching the device, for another element, a negative number of regions, sizes
// below 1 or a tensor above kMaxElements (sizes.h), sides of a map above 2^30, regions of 2^31 elements and more, more
// than 2^31 - 1 thread blocks, or a null or misaligned pointer.
cudaError_t multi_level_roi_align_cuda(const RoiAlignShape& shape, CudaElement element, const float* rois,
                                       const void* const levels[kRoiLevels], void* y, cudaStream_t stream) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_H_
