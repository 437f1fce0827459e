// How the CUDA kernels' work is cut, what memory it takes, and which arguments they take. No CUDA header: the emulation
// test uses it as well.
#ifndef LIT_DEPLOY_KERNELS_NMS_CUDA_PLAN_H_
#define LIT_DEPLOY_KERNELS_NMS_CUDA_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "cuda_element.h"
#include "nms/kernel.h"

namespace lit_deploy::cuda {

constexpr int kNmsRankThreads = 256;
constexpr uint32_t kNmsTile = 64;        // boxes that are compared with as many others, one bit each in a word
constexpr uint32_t kNmsTiles = 64;       // the most tiles of a round: a thread of the settling block has one word
constexpr uint32_t kNmsKeptSlices = 8;   // blocks that share the comparison of a tile with the boxes kept before
constexpr size_t kNmsAlignment = 256;    // of the workspace and of each array in it

// A shifted box, corners in order, and its area; all zeros overlap nothing.
struct NmsCorners {
  float left, top, right, bottom, area;
};

// What the launches hand on; zeros at first.
struct NmsState {
  uint32_t largest;  // coordinate of all candidates, as the bits of a float that is not negative
  uint32_t kept;
  uint32_t done;     // nothing is left to do: no candidate, or no place for one
};

// Boxes and workspace as the device sees them.
struct Suppression {
  uint32_t count;
  uint32_t most;   // boxes to keep
  uint32_t tiles;  // of a round
  float iou_threshold;
  float score_threshold;
  const float* boxes;
  const float* scores;
  const int64_t* classes;
  int64_t* indices;
  NmsState* state;
  uint64_t* removed;       // [tiles], of this round's boxes those that a kept one suppresses; zeros at first
  uint64_t* keys;          // [count], see rank_candidates()
  const uint64_t* sorted;  // [count], the same from the largest to the least
  NmsCorners* kept;        // [most]
  uint64_t* mask;          // [tiles * kNmsTile][tiles], bit j of word w of row i: box i suppresses the worse w * kNmsTile + j
};

// One round: the candidates from `first` on in the order of their scores.
struct NmsRound {
  Suppression suppression;
  uint32_t first;
};

struct NmsCut {
  int64_t most;
  int64_t rounds;  // 0: nothing to do
  uint32_t tiles;
  int64_t rank_blocks;
  int64_t compare_blocks;
  // Where the arrays lie in the workspace. The first two are to be zeroed: the bytes before `keys`.
  size_t removed, keys, sorted, kept, mask, bytes;
};

// False for numbers that the kernels do not take; see nms_cuda(). `tiles`: the most of a round, fewer in tests.
inline bool cut_nms(const NmsOptions& options, int64_t count, int64_t most_boxes, NmsCut& cut,
                    uint32_t tiles = kNmsTiles) {
  cut = NmsCut{};
  if (count < 0 || count > most_boxes || options.max_output < 0 || options.max_output > kNmsMaxBoxes) return false;
  cut.most = count < options.max_output ? count : options.max_output;
  if (cut.most == 0) return true;
  const int64_t all_tiles = (count + kNmsTile - 1) / kNmsTile;
  cut.tiles = tiles < all_tiles ? tiles : static_cast<uint32_t>(all_tiles);
  const int64_t in_round = int64_t{cut.tiles} * kNmsTile;
  cut.rounds = (count + in_round - 1) / in_round;
  cut.rank_blocks = (count + kNmsRankThreads - 1) / kNmsRankThreads;
  cut.compare_blocks = int64_t{cut.tiles} * (cut.tiles + kNmsKeptSlices);
  const auto take = [&cut](size_t bytes) {
    const size_t begin = cut.bytes;
    cut.bytes += (bytes + kNmsAlignment - 1) / kNmsAlignment * kNmsAlignment;
    return begin;
  };
  take(sizeof(NmsState));
  cut.removed = take(cut.tiles * sizeof(uint64_t));
  cut.keys = take(static_cast<size_t>(count) * sizeof(uint64_t));
  cut.sorted = take(static_cast<size_t>(count) * sizeof(uint64_t));
  cut.kept = take(static_cast<size_t>(cut.most) * sizeof(NmsCorners));
  cut.mask = take(static_cast<size_t>(in_round) * cut.tiles * sizeof(uint64_t));
  return true;
}

// Whether the arrays can be those of such a call.
inline bool nms_pointers_fit(int64_t count, int64_t max_output, const float* boxes, const float* scores,
                             const int64_t* classes, const int64_t* indices) {
  if (max_output > 0 && (indices == nullptr || !is_aligned(indices, sizeof(int64_t)))) return false;
  if (count == 0) return true;
  return boxes != nullptr && scores != nullptr && classes != nullptr && is_aligned(boxes, sizeof(float)) &&
         is_aligned(scores, sizeof(float)) && is_aligned(classes, sizeof(int64_t));
}

inline Suppression make_suppression(const NmsOptions& options, int64_t count, const NmsCut& cut, const float* boxes,
                                    const float* scores, const int64_t* classes, int64_t* indices, void* workspace) {
  char* const memory = static_cast<char*>(workspace);
  Suppression s{};
  s.count = static_cast<uint32_t>(count);
  s.most = static_cast<uint32_t>(cut.most);
  s.tiles = cut.tiles;
  s.iou_threshold = options.iou_threshold;
  s.score_threshold = options.score_threshold;
  s.boxes = boxes;
  s.scores = scores;
  s.classes = classes;
  s.indices = indices;
  s.state = reinterpret_cast<NmsState*>(memory);
  s.removed = reinterpret_cast<uint64_t*>(memory + cut.removed);
  s.keys = reinterpret_cast<uint64_t*>(memory + cut.keys);
  s.sorted = reinterpret_cast<const uint64_t*>(memory + cut.sorted);
  s.kept = reinterpret_cast<NmsCorners*>(memory + cut.kept);
  s.mask = reinterpret_cast<uint64_t*>(memory + cut.mask);
  return s;
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_NMS_CUDA_PLAN_H_
