// RoIAlign over a feature pyramid (operator version 1): the kernel that every back end calls.
//
// Plain parameters only: nothing here knows ONNX Runtime or a thread pool. The operator is defined in
// docs/multi_level_roi_align.md; `lit_deploy/ops/multi_level_roi_align/reference.py` computes the same in PyTorch.
#ifndef LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_KERNEL_H_
#define LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_KERNEL_H_

#include <cstdint>

#include "cpu_isa.h"

namespace lit_deploy {

constexpr int kRoiLevels = 4;
constexpr int64_t kRoiMaxOutputSize = int64_t{1} << 24;  // a region of that size has kMaxElements of sizes.h

// Sizes of the maps level[l][channels, height[l], width[l]], at least 1, and of the output
// y[rois, channels, output_size, output_size]; rois at least 0, output_size 1 to kRoiMaxOutputSize.
struct RoiAlignShape {
  int64_t rois;
  int64_t channels;
  int64_t height[kRoiLevels];
  int64_t width[kRoiLevels];
  int64_t output_size;
};

struct RoiAlignPlan;

// Works out, once for all channels, which cells each bin of each region is made of. rois[shape.rois, 4] (x1, y1, x2,
// y2) may hold any values, NaN and infinities included. Null if there is no memory for it; about 1 KiB a region.
RoiAlignPlan* make_roi_align_plan(const RoiAlignShape& shape, const float* rois) noexcept;
void free_roi_align_plan(RoiAlignPlan* plan) noexcept;

// Computes the channels [channel_begin, channel_end) of every region: y[rois, channels, output_size, output_size] from
// levels[l][channels, height[l], width[l]], all of them dense; y must not overlap the maps. Distinct ranges may run
// concurrently, and how the channels are split never changes a bit of the result. An unsupported `isa` falls back to a
// supported one.
void multi_level_roi_align(const RoiAlignPlan& plan, const float* const levels[kRoiLevels], float* y,
                           int64_t channel_begin, int64_t channel_end, CpuIsa isa = selected_cpu_isa()) noexcept;

// The same for IEEE half precision, passed as its bits. Computes in float32 and rounds once, to nearest even.
void multi_level_roi_align(const RoiAlignPlan& plan, const uint16_t* const levels[kRoiLevels], uint16_t* y,
                           int64_t channel_begin, int64_t channel_end, CpuIsa isa = selected_cpu_isa()) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_KERNEL_H_
