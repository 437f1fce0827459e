// The inner loop, which each <isa>.cc includes so that it has internal linkage (see deformable_token_merging/simd.h).
// Written as plain arithmetic over a block: the compiler turns each of its loops into vectors of the instruction set.
// Compiled without contraction, as docs/nms.md says how often the union is rounded.

namespace {

inline float least(float a, float b) { return a < b ? a : b; }
inline float most(float a, float b) { return a > b ? a : b; }

inline bool any_overlap(const lit_deploy::NmsBlock* blocks, int64_t count, const lit_deploy::NmsBox& box,
                        float iou_threshold) {
  const lit_deploy::NmsBox b = box;
  for (const lit_deploy::NmsBlock* block = blocks; block != blocks + count; ++block) {
    float width[lit_deploy::kNmsBlock], height[lit_deploy::kNmsBlock];
    int touched = 0, any = 0;
    for (int i = 0; i < lit_deploy::kNmsBlock; ++i) {
      width[i] = least(block->right[i], b.right) - most(block->left[i], b.left);
      height[i] = least(block->bottom[i], b.bottom) - most(block->top[i], b.top);
      touched |= static_cast<int>(width[i] > 0.0f) & static_cast<int>(height[i] > 0.0f);
    }
    if (touched == 0) continue;  // most boxes are far apart, and divisions are slow
    for (int i = 0; i < lit_deploy::kNmsBlock; ++i) {
      const float intersection = width[i] * height[i];
      const float joined = b.area + block->area[i] - intersection;
      any |= static_cast<int>(width[i] > 0.0f) & static_cast<int>(height[i] > 0.0f) & static_cast<int>(joined > 0.0f) &
             static_cast<int>(intersection / joined > iou_threshold);
    }
    if (any != 0) return true;
  }
  return false;
}

}  // namespace
