#include "deformable_token_merging/cuda_device.cuh"

namespace lit_deploy::cuda {

cudaError_t launch_bfloat16(const Plan& plan, const Merging<uint16_t>& merging, cudaStream_t stream) {
  return launch_element<BFloat16>(plan, merging, stream);
}

}  // namespace lit_deploy::cuda
