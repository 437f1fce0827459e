// The kernel for tensor cores on a real device, and the launch of one element type.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_TENSOR_DEVICE_CUH_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_TENSOR_DEVICE_CUH_

#include "gpu_device.cuh"
#include "relative_position_attention/cuda_launch.h"
#include "relative_position_attention/cuda_tensor_kernel.h"

namespace lit_deploy::cuda {

// As in cuda_device.cuh.
constexpr int kTensorBlocks = 3;

template <typename E, int kDims>
__global__ void __launch_bounds__(kAttentionThreads, kTensorBlocks)
    tensor_attention_kernel(const Attention<uint16_t> attention) {
  __shared__ TensorShared<kDims> shared;
  GpuDevice device;
  attend_on_tensor_cores<E>(device, attention, shared);
}

template <typename E>
cudaError_t launch_tensor(const AttentionCut& cut, const Attention<uint16_t>& attention, cudaStream_t stream) {
  const void* kernel = attention.head_dim == 32 ? reinterpret_cast<const void*>(tensor_attention_kernel<E, 32>)
                                                : reinterpret_cast<const void*>(tensor_attention_kernel<E, 64>);
  return launch(kernel, cut.blocks, kAttentionThreads, attention, stream);
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_TENSOR_DEVICE_CUH_
