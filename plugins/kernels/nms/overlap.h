// Between the greedy loop and the compilations of its inner loop, one per instruction set.
#ifndef LIT_DEPLOY_KERNELS_NMS_OVERLAP_H_
#define LIT_DEPLOY_KERNELS_NMS_OVERLAP_H_

#include <cstdint>

namespace lit_deploy {

// Boxes lie in blocks of this many, coordinate by coordinate, so that a block is a few vectors.
constexpr int kNmsBlock = 16;

// What does not change once a box is shifted: its corners in order, and its area, which is positive.
struct NmsBox {
  float left, top, right, bottom, area;
};

// The unused boxes of a block are all zeros, which overlap nothing.
struct NmsBlock {
  float left[kNmsBlock], top[kNmsBlock], right[kNmsBlock], bottom[kNmsBlock], area[kNmsBlock];
};

namespace portable {
bool overlaps_any(const NmsBlock* blocks, int64_t count, const NmsBox& box, float iou_threshold) noexcept;
}
namespace avx2 {
bool overlaps_any(const NmsBlock* blocks, int64_t count, const NmsBox& box, float iou_threshold) noexcept;
}
namespace avx512 {
bool overlaps_any(const NmsBlock* blocks, int64_t count, const NmsBox& box, float iou_threshold) noexcept;
}

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_NMS_OVERLAP_H_
