#include "multi_level_roi_align/cuda_device.cuh"

namespace lit_deploy::cuda {

cudaError_t launch_float16(const RoiAlignCut& cut, const RoiAlign<uint16_t>& regions, cudaStream_t stream) {
  return launch_element<Float16>(cut, regions, stream);
}

}  // namespace lit_deploy::cuda
