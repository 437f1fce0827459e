#include "deformable_token_merging/cuda_device.cuh"

namespace lit_deploy::cuda {

cudaError_t launch_float16(const Plan& plan, const Merging<uint16_t>& merging, cudaStream_t stream) {
  return launch_element<Float16>(plan, merging, stream);
}

}  // namespace lit_deploy::cuda
