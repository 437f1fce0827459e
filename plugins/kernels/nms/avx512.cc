// The inner loop for AVX-512F; compiled with that flag, called only where the CPU has it.
#include "nms/overlap.h"
#include "nms/simd.h"

namespace lit_deploy::avx512 {
bool overlaps_any(const NmsBlock* blocks, int64_t count, const NmsBox& box, float iou_threshold) noexcept {
  return any_overlap(blocks, count, box, iou_threshold);
}
}  // namespace lit_deploy::avx512
