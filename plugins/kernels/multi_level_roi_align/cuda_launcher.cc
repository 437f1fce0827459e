// The CUDA kernel as a plain C function, for ctypes and the like: no ONNX Runtime, no TensorRT.
#include "multi_level_roi_align/cuda.h"

// Returns 0, or a cudaError_t. `element` is 0 for float32, 1 for float16; `sizes` are height and width of the four
// levels in turn, on the host, and so are the four pointers `levels`; what all other pointers lead to is device memory,
// and `stream` is a cudaStream_t (null: the default stream). See multi_level_roi_align_cuda().
extern "C" __attribute__((visibility("default"))) int32_t lit_deploy_multi_level_roi_align(
    int32_t element, int64_t rois, int64_t channels, int64_t output_size, const int64_t sizes[8], const float* regions,
    const void* const levels[4], void* y, void* stream) {
  lit_deploy::RoiAlignShape shape{rois, channels, {}, {}, output_size};
  for (int level = 0; level < lit_deploy::kRoiLevels; ++level) {
    shape.height[level] = sizes[2 * level];
    shape.width[level] = sizes[2 * level + 1];
  }
  return lit_deploy::multi_level_roi_align_cuda(shape, static_cast<lit_deploy::CudaElement>(element), regions, levels,
                                                y, static_cast<cudaStream_t>(stream));
}
