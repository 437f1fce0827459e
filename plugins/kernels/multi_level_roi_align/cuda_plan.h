// How the CUDA kernel's work is cut, and which arguments it takes. No CUDA header: the emulation test uses it as well.
#ifndef LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_PLAN_H_
#define LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_PLAN_H_

#include <cstdint>

#include "cuda_element.h"
#include "multi_level_roi_align/kernel.h"
#include "sizes.h"

namespace lit_deploy::cuda {

constexpr int kRoiThreads = 128;
constexpr uint32_t kRoiChannels = 8;  // of one bin, which a thread computes together: they share positions and weights

// Regions and maps as the device sees them. T is the storage of one element.
template <typename T>
struct RoiAlign {
  uint32_t channels;
  uint32_t output_size;
  uint32_t items;             // of one region: its bins, times its groups of channels
  uint32_t blocks_per_region;
  int32_t height[kRoiLevels];
  int32_t width[kRoiLevels];
  const float* rois;
  const T* levels[kRoiLevels];
  T* y;
};

struct RoiAlignCut {
  int64_t items;
  int64_t blocks_per_region;
  int64_t blocks;  // 0: nothing to do
};

// False for arguments that the kernel does not take; see multi_level_roi_align_cuda().
inline bool cut_roi_align(const RoiAlignShape& shape, int element_size, const float* rois,
                          const void* const levels[kRoiLevels], const void* y, RoiAlignCut& cut) {
  constexpr int64_t kMaxSide = int64_t{1} << 30, kMaxItems = (int64_t{1} << 31) - 1;
  cut = RoiAlignCut{};
  if (shape.rois < 0 || shape.channels < 1 || shape.output_size < 1 || shape.output_size > kRoiMaxOutputSize) {
    return false;
  }
  const int64_t output[] = {shape.rois, shape.channels, shape.output_size, shape.output_size};
  if (!elements_fit(output, 4)) return false;
  for (int level = 0; level < kRoiLevels; ++level) {
    const int64_t height = shape.height[level], width = shape.width[level];
    const int64_t map[] = {shape.channels, height, width};
    if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide || !elements_fit(map, 3)) return false;
    if (levels[level] == nullptr || !is_aligned(levels[level], element_size)) return false;
  }
  // elements_fit() ignores the sizes beside one of 0, so each product is looked at before the next one is formed.
  const int64_t bins = shape.output_size * shape.output_size;
  if (shape.channels > kMaxItems || bins > kMaxItems / shape.channels) return false;
  cut.items = (shape.channels + kRoiChannels - 1) / kRoiChannels * bins;
  cut.blocks_per_region = (cut.items + kRoiThreads - 1) / kRoiThreads;
  if (shape.rois > kMaxBlocks / cut.blocks_per_region) return false;
  cut.blocks = shape.rois * cut.blocks_per_region;
  if (cut.blocks == 0) return true;
  return rois != nullptr && is_aligned(rois, sizeof(float)) && y != nullptr && is_aligned(y, element_size);
}

template <typename T>
RoiAlign<T> make_roi_align(const RoiAlignShape& shape, const RoiAlignCut& cut, const float* rois,
                           const void* const levels[kRoiLevels], void* y) {
  RoiAlign<T> r{};
  r.channels = static_cast<uint32_t>(shape.channels);
  r.output_size = static_cast<uint32_t>(shape.output_size);
  r.items = static_cast<uint32_t>(cut.items);
  r.blocks_per_region = static_cast<uint32_t>(cut.blocks_per_region);
  for (int level = 0; level < kRoiLevels; ++level) {
    r.height[level] = static_cast<int32_t>(shape.height[level]);
    r.width[level] = static_cast<int32_t>(shape.width[level]);
    r.levels[level] = static_cast<const T*>(levels[level]);
  }
  r.rois = rois;
  r.y = static_cast<T*>(y);
  return r;
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_PLAN_H_
