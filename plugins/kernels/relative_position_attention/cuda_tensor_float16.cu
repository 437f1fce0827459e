#include "relative_position_attention/cuda_tensor_device.cuh"

namespace lit_deploy::cuda {

cudaError_t launch_tensor_float16(const AttentionCut& cut, const Attention<uint16_t>& attention, cudaStream_t stream) {
  return launch_tensor<Float16>(cut, attention, stream);
}

}  // namespace lit_deploy::cuda
