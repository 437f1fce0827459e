#include "deformable_token_merging/cuda_device.cuh"

namespace lit_deploy::cuda {

cudaError_t launch_float32(const Plan& plan, const Merging<float>& merging, cudaStream_t stream) {
  return launch_element<Float32>(plan, merging, stream);
}

cudaError_t check_float32() {
  cudaFuncAttributes unused;
  return cudaFuncGetAttributes(&unused, reinterpret_cast<const void*>(merge_kernel<Float32, true>));
}

}  // namespace lit_deploy::cuda
