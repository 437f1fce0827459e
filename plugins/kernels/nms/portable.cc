// The inner loop for any machine.
#include "nms/overlap.h"
#include "nms/simd.h"

namespace lit_deploy::portable {
bool overlaps_any(const NmsBlock* blocks, int64_t count, const NmsBox& box, float iou_threshold) noexcept {
  return any_overlap(blocks, count, box, iou_threshold);
}
}  // namespace lit_deploy::portable
