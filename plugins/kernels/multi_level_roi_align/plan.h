// Between the planning and the compilations of the kernel, one per instruction set.
//
// A bilinear sample is a product of a weight for its row and one for its column, and so is the mean over a grid of
// them. Each region is therefore rows . window . columns^T with two small matrices, the same for every channel.
#ifndef LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_PLAN_H_
#define LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_PLAN_H_

#include <cstdint>

#include "multi_level_roi_align/kernel.h"

namespace lit_deploy {

// The rows of the map that one row of bins is made of.
struct RoiRows {
  int32_t first, count;
};

struct RoiWindow {
  int32_t level;
  int32_t column, columns;  // columns of the map that the region touches; none: the whole output is 0
  int32_t row_end;          // one past the last row
  int64_t row_weights;      // where its weights begin: `count` for each row of bins, one after the other
  int64_t column_weights;   // and here for each panel of bins and each column, the weights of the panel's bins
};

// Bins of one row that are computed together: the output's width cut into panels, the last one filled up with 0.
constexpr int64_t roi_panel(int64_t output_size) { return output_size <= 8 ? 8 : 16; }

// Has no functions: anything inline here that is not constant would be compiled once per instruction set.
struct RoiAlignPlan {
  RoiAlignShape shape;
  const RoiWindow* windows;  // [rois]
  const RoiRows* rows;       // [rois, output_size]
  const float* weights;
};

// The arguments of multi_level_roi_align(); T is float, or uint16_t for the bits of a half.
template <typename T>
struct RoiAlignJob {
  const RoiAlignPlan* plan;
  const T* const* levels;
  T* y;
  int64_t channel_begin, channel_end;
};

namespace portable {
void pool(const RoiAlignJob<float>& job) noexcept;
void pool(const RoiAlignJob<uint16_t>& job) noexcept;
}  // namespace portable

namespace avx2 {
void pool(const RoiAlignJob<float>& job) noexcept;
void pool(const RoiAlignJob<uint16_t>& job) noexcept;
}  // namespace avx2

namespace avx512 {
void pool(const RoiAlignJob<float>& job) noexcept;
void pool(const RoiAlignJob<uint16_t>& job) noexcept;
}  // namespace avx512

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_PLAN_H_
