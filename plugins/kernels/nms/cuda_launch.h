// Between the entry point and what nvcc compiles.
#ifndef LIT_DEPLOY_KERNELS_NMS_CUDA_LAUNCH_H_
#define LIT_DEPLOY_KERNELS_NMS_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "nms/cuda_plan.h"

namespace lit_deploy::cuda {

cudaError_t launch_rank(const NmsCut& cut, const Suppression& suppression, cudaStream_t stream);
cudaError_t launch_compare(const NmsCut& cut, const NmsRound& round, cudaStream_t stream);
cudaError_t launch_settle(const NmsRound& round, cudaStream_t stream);

// From the largest to the least. Without `temporary`, sets `bytes` to what it has to hold.
cudaError_t sort_keys(void* temporary, size_t& bytes, const uint64_t* keys, uint64_t* sorted, int64_t count,
                      cudaStream_t stream);

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_NMS_CUDA_LAUNCH_H_
