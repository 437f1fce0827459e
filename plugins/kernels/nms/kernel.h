// Class-aware non-maximum suppression (operator version 1): the kernel that every back end calls.
//
// Plain parameters only. The operator is defined in docs/nms.md; `lit_deploy/ops/nms/reference.py` computes the same
// thing in PyTorch.
#ifndef LIT_DEPLOY_KERNELS_NMS_KERNEL_H_
#define LIT_DEPLOY_KERNELS_NMS_KERNEL_H_

#include <cstdint>

#include "cpu_isa.h"

namespace lit_deploy {

struct NmsOptions {
  float iou_threshold;    // 0 to 1
  float score_threshold;
  int64_t max_output;     // 0 to kNmsMaxBoxes
};

// The most boxes of one call, and the longest output.
constexpr int64_t kNmsMaxBoxes = int64_t{1} << 32;

// Writes the `max_output` indices: boxes kept, best first, then -1.
//
// All arrays are dense: boxes[count, 4] (x1, y1, x2, y2), scores[count], classes[count]; count is 0 to kNmsMaxBoxes.
// Any value is allowed, NaN and infinities included. False, and nothing written, if there is no memory for the work
// (8 bytes a box that scores above the threshold, 20 a box kept). Every `isa` gives the same result, bit for bit;
// an unsupported one falls back to a supported one.
[[nodiscard]] bool nms(const NmsOptions& options, int64_t count, const float* boxes, const float* scores,
                       const int64_t* classes, int64_t* indices, CpuIsa isa = selected_cpu_isa()) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_NMS_KERNEL_H_
