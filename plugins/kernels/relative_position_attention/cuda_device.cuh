// The kernel on a real device, and the launch of one element type.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_DEVICE_CUH_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_DEVICE_CUH_

#include "gpu_device.cuh"
#include "relative_position_attention/cuda_kernel.h"
#include "relative_position_attention/cuda_launch.h"

namespace lit_deploy::cuda {

// How many blocks a multiprocessor must be able to hold, which bounds the registers of a thread: 168, and nothing spilled.
constexpr int kAttentionBlocks = 3;

template <typename E, int kSlices>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionBlocks)
    attention_kernel(const Attention<typename E::Storage> attention) {
  __shared__ AttentionShared<kSlices> shared;
  GpuDevice device;
  attend<E>(device, attention, shared);
}

template <typename E>
cudaError_t launch_element(const AttentionCut& cut, const Attention<typename E::Storage>& attention,
                           cudaStream_t stream) {
  const void* kernel = cut.slices == 1   ? reinterpret_cast<const void*>(attention_kernel<E, 1>)
                       : cut.slices == 2 ? reinterpret_cast<const void*>(attention_kernel<E, 2>)
                                         : reinterpret_cast<const void*>(attention_kernel<E, 4>);
  return launch(kernel, cut.blocks, kAttentionThreads, attention, stream);
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_DEVICE_CUH_
