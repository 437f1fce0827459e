// The greedy loop: candidates sorted as far as they are needed, kept boxes in blocks.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>

#include "nms/kernel.h"
#include "nms/overlap.h"

namespace lit_deploy {
namespace {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// One number a candidate, the better the larger: the score's bits in an order that integers compare, above the index
// counted from the end, as of two equal scores the lower index is better.
uint64_t encode(float score, int64_t index) {
  const float positive_zero = score + 0.0f;  // -0 and 0 are one score
  uint32_t bits;
  std::memcpy(&bits, &positive_zero, sizeof bits);
  bits = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

int64_t index_of(uint64_t candidate) { return 0xffffffffu - static_cast<uint32_t>(candidate); }

// Corners in order whichever way the box is written, as ONNX's NonMaxSuppression has them.
NmsBox shifted_box(const float* box, int64_t label, float extent) {
  const float offset = static_cast<float>(label) * extent;
  const float x1 = box[0] + offset, y1 = box[1] + offset, x2 = box[2] + offset, y2 = box[3] + offset;
  NmsBox result{std::min(x1, x2), std::min(y1, y2), std::max(x1, x2), std::max(y1, y2), 0.0f};
  result.area = (result.right - result.left) * (result.bottom - result.top);
  return result;
}

void put(const NmsBox& box, int64_t place, NmsBlock* blocks) {
  NmsBlock& block = blocks[place / kNmsBlock];
  const int64_t i = place % kNmsBlock;
  if (i == 0) block = NmsBlock{};
  block.left[i] = box.left;
  block.top[i] = box.top;
  block.right[i] = box.right;
  block.bottom[i] = box.bottom;
  block.area[i] = box.area;
}

// Hands out the candidates from the best on. They are sorted in portions, each four times the last: most calls are done
// within the first one, and none costs much more than sorting all at once.
class Queue {
 public:
  Queue(uint64_t* begin, uint64_t* end) : next_(begin), sorted_(begin), end_(end) {}

  bool empty() const { return next_ == end_; }

  int64_t pop() {
    if (next_ == sorted_) {
      const std::greater<uint64_t> better;
      uint64_t* const upto = end_ - sorted_ > portion_ ? sorted_ + portion_ : end_;
      if (upto != end_) std::nth_element(sorted_, upto, end_, better);
      std::sort(sorted_, upto, better);
      sorted_ = upto;
      portion_ *= 4;
    }
    return index_of(*next_++);
  }

  // A candidate that is due soon; boxes are read in the order of scores, all over the memory.
  int64_t upcoming() const { return index_of(*(sorted_ - next_ > kAhead ? next_ + kAhead : sorted_ - 1)); }

 private:
  static constexpr int64_t kAhead = 16;
  int64_t portion_ = 2048;
  uint64_t *next_, *sorted_, *end_;
};

using OverlapsAny = bool (*)(const NmsBlock*, int64_t, const NmsBox&, float) noexcept;

OverlapsAny choose(CpuIsa isa) {
  isa = supported_cpu_isa(isa);
#ifdef LIT_DEPLOY_X86
  if (isa == CpuIsa::kAvx512) return avx512::overlaps_any;
  if (isa == CpuIsa::kAvx2) return avx2::overlaps_any;
#endif
  return portable::overlaps_any;
}

}  // namespace

bool nms(const NmsOptions& options, int64_t count, const float* boxes, const float* scores, const int64_t* classes,
         int64_t* indices, CpuIsa isa) noexcept {
  int64_t above = 0;
  for (int64_t i = 0; i < count; ++i) above += scores[i] > options.score_threshold ? 1 : 0;
  const int64_t most = std::min(above, options.max_output);
  const int64_t block_count = (most + kNmsBlock - 1) / kNmsBlock;
  const std::unique_ptr<uint64_t, Free> candidates(
      static_cast<uint64_t*>(std::malloc(static_cast<size_t>(above) * sizeof(uint64_t) + 1)));
  const std::unique_ptr<NmsBlock, Free> blocks(
      static_cast<NmsBlock*>(std::malloc(static_cast<size_t>(block_count) * sizeof(NmsBlock) + 1)));
  if (candidates == nullptr || blocks == nullptr) return false;

  uint64_t* end = candidates.get();
  float largest = 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    if (!(scores[i] > options.score_threshold)) continue;
    *end++ = encode(scores[i], i);
    for (int side = 0; side < 4; ++side) largest = std::max(largest, boxes[4 * i + side]);
  }
  Queue queue(candidates.get(), end);

  const OverlapsAny overlaps_any = choose(isa);
  const float extent = largest + 1.0f;
  int64_t kept = 0, with_area = 0;
  while (!queue.empty() && kept < most) {
    const int64_t index = queue.pop(), upcoming = queue.upcoming();
    __builtin_prefetch(boxes + 4 * upcoming);
    __builtin_prefetch(classes + upcoming);
    const NmsBox box = shifted_box(boxes + 4 * index, classes[index], extent);
    if (box.area > 0.0f) {  // without an area it neither suppresses nor is suppressed
      const int64_t used = (with_area + kNmsBlock - 1) / kNmsBlock;
      if (overlaps_any(blocks.get(), used, box, options.iou_threshold)) continue;
      put(box, with_area++, blocks.get());
    }
    indices[kept++] = index;
  }
  std::fill(indices + kept, indices + options.max_output, int64_t{-1});
  return true;
}

}  // namespace lit_deploy
