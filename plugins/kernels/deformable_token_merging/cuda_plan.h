// How the CUDA kernel's work is cut, and which arguments it takes. No CUDA header: the emulation test uses it as well.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_PLAN_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda_element.h"
#include "deformable_token_merging/kernel.h"

namespace lit_deploy::cuda {

constexpr int kTaps = 4;
constexpr int kOffsets = 2 * kTaps;
constexpr int kTileSide = 4;      // a thread block works on 4 x 4 patches: neighbours share most of what they read
constexpr int kTilePatches = kTileSide * kTileSide;  // 16: the rows of one tensor-core product
constexpr int kTileSamples = kTilePatches * kTaps;
constexpr int kMaxWarps = 8;      // of one block
constexpr int kStepsAhead = 3;    // loads of tokens that a warp has in flight before it multiplies any of them

constexpr int64_t kMaxChannels = int64_t{1} << 25;  // an index into offset_weight then fits int
constexpr int64_t kMaxSide = int64_t{1} << 30;      // a row or column fits int; whole float32 positions end at 2^24
constexpr int64_t kMaxElements = int64_t{1} << 60;

// Division by a number that the launch fixes, as a multiplication; quotient() does it.
struct Divider {
  uint32_t divisor;
  uint32_t multiplier;
  uint32_t shift;
};

// For divisors from 1 to 2^31 - 1 and dividends below 2^31. With 2^shift >= divisor, multiplier exceeds
// 2^(31 + shift) / divisor by less than 1, which adds less than 1 / divisor to the quotient: never the next integer.
inline Divider make_divider(int64_t divisor) {
  uint32_t shift = 0;
  while ((int64_t{1} << shift) < divisor) ++shift;
  const uint64_t d = static_cast<uint64_t>(divisor);
  const uint64_t multiplier = ((uint64_t{1} << (31 + shift)) + d - 1) / d;
  return Divider{static_cast<uint32_t>(divisor), static_cast<uint32_t>(multiplier), shift};
}

// Channels-last tokens and their merged counterpart, as the device sees them. T is the storage of one element.
template <typename T>
struct Merging {
  uint32_t height;
  uint32_t width;
  uint32_t channels;
  uint32_t rows;         // of the output map
  uint32_t columns;      // of the output map
  int64_t row_stride;    // of x, in elements
  int64_t image_stride;  // of x, in elements
  Divider tile_rows;     // of one image
  Divider tile_columns;  // of one image
  Divider pairs;         // of vectors, in one sample; see gather()
  uint32_t pair_stride;  // elements from the first vector of a pair to the second
  const T* x;
  const T* offset_weight;
  const T* offset_bias;
  T* y;
};

struct Plan {
  bool vectors;    // 16-byte accesses; else element by element
  int warps;       // per block, an even number: half of them for the upper tokens of the patches, half for the lower
  int64_t blocks;  // one for each tile; 0: nothing to do
};

inline int64_t tiles_along(int64_t patches) { return (patches + kTileSide - 1) / kTileSide; }

// False for arguments that the kernel does not take; see deformable_token_merging_cuda().
inline bool make_plan(const MergingShape& shape, int element_size, const void* x, const void* offset_weight,
                      const void* offset_bias, const void* y, Plan& plan) {
  plan = Plan{};
  if (shape.batch < 0 || shape.height < 2 || shape.width < 2 || shape.channels < 1) return false;
  if (shape.channels > kMaxChannels || shape.height > kMaxSide || shape.width > kMaxSide ||
      shape.height * shape.width > kMaxElements / shape.channels ||
      shape.batch > kMaxElements / (shape.height * shape.width * shape.channels)) {
    return false;
  }
  const int64_t tiles = tiles_along(shape.output_height()) * tiles_along(shape.output_width());
  if (shape.batch > kMaxBlocks / tiles) return false;
  if (shape.batch == 0) return true;
  for (const void* p : {x, offset_weight, offset_bias, y}) {
    if (p == nullptr || !is_aligned(p, element_size)) return false;
  }
  plan.vectors = shape.channels * element_size % kVectorBytes == 0 && is_aligned(x, kVectorBytes) &&
                 is_aligned(offset_weight, kVectorBytes) && is_aligned(y, kVectorBytes);
  // A patch is two runs of 2 * channels elements, its upper and its lower two tokens; a warp consumes 64 bytes of a run
  // in one step. As many warps as keep kStepsAhead loads each busy: wide maps are short, and need them to hide latency.
  const int64_t steps = (2 * shape.channels * element_size + 4 * kVectorBytes - 1) / (4 * kVectorBytes);
  const int64_t warps_per_run = (steps + kStepsAhead - 1) / kStepsAhead;
  plan.warps = 2 * static_cast<int>(std::min(int64_t{kMaxWarps / 2}, warps_per_run));
  plan.blocks = shape.batch * tiles;
  return true;
}

template <typename T>
Merging<T> make_merging(const Plan& plan, const MergingShape& shape, const void* x, const void* offset_weight,
                        const void* offset_bias, void* y) {
  Merging<T> m{};
  m.height = static_cast<uint32_t>(shape.height);
  m.width = static_cast<uint32_t>(shape.width);
  m.channels = static_cast<uint32_t>(shape.channels);
  m.rows = static_cast<uint32_t>(shape.output_height());
  m.columns = static_cast<uint32_t>(shape.output_width());
  m.row_stride = shape.width * shape.channels;
  m.image_stride = shape.height * m.row_stride;
  m.tile_rows = make_divider(tiles_along(shape.output_height()));
  m.tile_columns = make_divider(tiles_along(shape.output_width()));
  const uint32_t elements = plan.vectors ? kVectorBytes / sizeof(T) : 1;  // of one vector
  const uint32_t vectors = m.channels / elements, pairs = (vectors + 1) / 2;
  m.pairs = make_divider(pairs);
  m.pair_stride = (vectors - pairs) * elements;
  m.x = static_cast<const T*>(x);
  m.offset_weight = static_cast<const T*>(offset_weight);
  m.offset_bias = static_cast<const T*>(offset_bias);
  m.y = static_cast<T*>(y);
  return m;
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_PLAN_H_
