// Between the entry point and the compilations of the kernel: one .cu file per element type, which build in parallel.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_LAUNCH_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "deformable_token_merging/cuda_plan.h"

namespace lit_deploy::cuda {

cudaError_t launch_float32(const Plan& plan, const Merging<float>& merging, cudaStream_t stream);
cudaError_t launch_float16(const Plan& plan, const Merging<uint16_t>& merging, cudaStream_t stream);
cudaError_t launch_bfloat16(const Plan& plan, const Merging<uint16_t>& merging, cudaStream_t stream);

// Loads one kernel; all of them are compiled for the same architectures.
cudaError_t check_float32();

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_LAUNCH_H_
