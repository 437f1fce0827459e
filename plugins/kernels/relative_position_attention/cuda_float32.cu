#include "relative_position_attention/cuda_device.cuh"

namespace lit_deploy::cuda {

cudaError_t launch_float32(const AttentionCut& cut, const Attention<float>& attention, cudaStream_t stream) {
  return launch_element<Float32>(cut, attention, stream);
}

}  // namespace lit_deploy::cuda
