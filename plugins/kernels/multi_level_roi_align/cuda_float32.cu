#include "multi_level_roi_align/cuda_device.cuh"

namespace lit_deploy::cuda {

cudaError_t launch_float32(const RoiAlignCut& cut, const RoiAlign<float>& regions, cudaStream_t stream) {
  return launch_element<Float32>(cut, regions, stream);
}

}  // namespace lit_deploy::cuda
