// Between the entry point and the compilations of the kernel: one .cu file per element type, which build in parallel.
#ifndef LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_LAUNCH_H_
#define LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "multi_level_roi_align/cuda_plan.h"

namespace lit_deploy::cuda {

cudaError_t launch_float32(const RoiAlignCut& cut, const RoiAlign<float>& regions, cudaStream_t stream);
cudaError_t launch_float16(const RoiAlignCut& cut, const RoiAlign<uint16_t>& regions, cudaStream_t stream);

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_LAUNCH_H_
