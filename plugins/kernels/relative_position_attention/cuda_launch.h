// Between the entry point and the compilations of the kernel: one .cu file per element type, which build in parallel.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_LAUNCH_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "relative_position_attention/cuda_plan.h"

namespace lit_deploy::cuda {

cudaError_t launch_float32(const AttentionCut& cut, const Attention<float>& attention, cudaStream_t stream);
cudaError_t launch_float16(const AttentionCut& cut, const Attention<uint16_t>& attention, cudaStream_t stream);
cudaError_t launch_bfloat16(const AttentionCut& cut, const Attention<uint16_t>& attention, cudaStream_t stream);

// On tensor cores, where the cut says so.
cudaError_t launch_tensor_float16(const AttentionCut& cut, const Attention<uint16_t>& attention, cudaStream_t stream);
cudaError_t launch_tensor_bfloat16(const AttentionCut& cut, const Attention<uint16_t>& attention, cudaStream_t stream);

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_LAUNCH_H_
