// The kernel on a real device, and the launch of one element type.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_DEVICE_CUH_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_DEVICE_CUH_

#include "gpu_device.cuh"
#include "deformable_token_merging/cuda_kernel.h"
#include "deformable_token_merging/cuda_launch.h"

namespace lit_deploy::cuda {

// How many blocks of the largest size a multiprocessor must be able to hold, which bounds the registers of a thread (4
// blocks: 64). As many as leave nothing spilled: the more warps there are, the better they hide each other's loads.
template <typename E, bool kVectors>
constexpr int kResidentBlocks = !kVectors ? 1 : sizeof(typename E::Storage) == 2 ? 4 : 2;

template <typename E, bool kVectors>
__global__ void __launch_bounds__(kMaxWarps* kWarpLanes, (kResidentBlocks<E, kVectors>))
    merge_kernel(const Merging<typename E::Storage> merging) {
  __shared__ Shared<typename E::Storage> shared;
  GpuDevice device;
  merge_tile<E, kVectors>(device, merging, shared);
}

template <typename E>
cudaError_t launch_element(const Plan& plan, const Merging<typename E::Storage>& merging, cudaStream_t stream) {
  const void* kernel = plan.vectors ? reinterpret_cast<const void*>(merge_kernel<E, true>)
                                    : reinterpret_cast<const void*>(merge_kernel<E, false>);
  return launch(kernel, plan.blocks, plan.warps * kWarpLanes, merging, stream);
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_DEVICE_CUH_
