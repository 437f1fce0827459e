// Checks the arguments and chooses the compilation of the kernel.
#include "multi_level_roi_align/cuda.h"

#include "multi_level_roi_align/cuda_launch.h"

namespace lit_deploy {

cudaError_t multi_level_roi_align_cuda(const RoiAlignShape& shape, CudaElement element, const float* rois,
                                       const void* const levels[kRoiLevels], void* y, cudaStream_t stream) noexcept {
  if (element != CudaElement::kFloat32 && element != CudaElement::kFloat16) return cudaErrorInvalidValue;
  const int size = element == CudaElement::kFloat32 ? 4 : 2;
  cuda::RoiAlignCut cut;
  if (!cuda::cut_roi_align(shape, size, rois, levels, y, cut)) return cudaErrorInvalidValue;
  if (cut.blocks == 0) return cudaSuccess;
  if (element == CudaElement::kFloat16) {
    return cuda::launch_float16(cut, cuda::make_roi_align<uint16_t>(shape, cut, rois, levels, y), stream);
  }
  return cuda::launch_float32(cut, cuda::make_roi_align<float>(shape, cut, rois, levels, y), stream);
}

}  // namespace lit_deploy
