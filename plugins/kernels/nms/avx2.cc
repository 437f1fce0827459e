// The inner loop for AVX2; compiled with that flag, called only where the CPU has it.
#include "nms/overlap.h"
#include "nms/simd.h"

namespace lit_deploy::avx2 {
bool overlaps_any(const NmsBlock* blocks, int64_t count, const NmsBox& box, float iou_threshold) noexcept {
  return any_overlap(blocks, count, box, iou_threshold);
}
}  // namespace lit_deploy::avx2
