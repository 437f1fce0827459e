// How the CUDA kernel's work is cut, and which arguments it takes. No CUDA header: the emulation test uses it as well.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_PLAN_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "deformable_token_merging.h"

namespace lit_deploy::cuda {

constexpr int kTaps = 4;
constexpr int kOffsets = 2 * kTaps;
constexpr int kWarpLanes = 32;
constexpr int kVectorBytes = 16;  // the widest access of one thread
constexpr int kTilePatches = 16;  // patches of one thread block at a time: the rows of one tensor-core product
constexpr int kTileSamples = kTilePatches * kTaps;
constexpr int kMaxWarps = 8;      // of one block
constexpr int kStepsAhead = 3;    // loads of tokens that a warp has in flight before it multiplies any of them

constexpr int64_t kMaxChannels = int64_t{1} << 25;  // an index into offset_weight then fits int
constexpr int64_t kMaxElements = int64_t{1} << 60;
constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;  // of CUDA's gridDim.x; blocks go on to further tiles

// Channels-last tokens and their merged counterpart, as the device sees them. T is the storage of one element.
template <typename T>
struct Merging {
  int64_t height;
  int64_t width;
  int channels;
  int steps;        // per run, see steps_per_run()
  int64_t rows;     // of the output map
  int64_t columns;  // of the output map
  int64_t patches;  // batch * rows * columns
  const T* x;
  const T* offset_weight;
  const T* offset_bias;
  T* y;
};

struct Plan {
  bool vectors;    // 16-byte accesses; else element by element
  int warps;       // per block; they share the sum over a patch's elements
  int64_t blocks;  // 0: nothing to do
};

// A patch is two runs of 2 * channels elements; a warp consumes `step` elements of a run at a time (four lanes, 16
// bytes each), the last step of a run being filled up with zeros.
inline int steps_per_run(int channels, int element_size) {
  const int step = 4 * kVectorBytes / element_size;
  return (2 * channels + step - 1) / step;
}

// False for arguments that the kernel does not take; see deformable_token_merging_cuda().
inline bool make_plan(const MergingShape& shape, int element_size, const void* x, const void* offset_weight,
                      const void* offset_bias, const void* y, Plan& plan) {
  plan = Plan{};
  if (shape.batch < 0 || shape.height < 2 || shape.width < 2 || shape.channels < 1) return false;
  if (shape.channels > kMaxChannels || shape.height > kMaxElements / shape.width ||
      shape.height * shape.width > kMaxElements / shape.channels ||
      shape.batch > kMaxElements / (shape.height * shape.width * shape.channels)) {
    return false;
  }
  if (shape.batch == 0) return true;
  const auto aligned = [](const void* p, int bytes) {
    return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
  };
  for (const void* p : {x, offset_weight, offset_bias, y}) {
    if (p == nullptr || !aligned(p, element_size)) return false;
  }
  plan.vectors = shape.channels * element_size % kVectorBytes == 0 && aligned(x, kVectorBytes) &&
                 aligned(offset_weight, kVectorBytes) && aligned(y, kVectorBytes);
  // As many warps as keep kStepsAhead loads each busy: wide maps are short, and need them to hide the latency.
  const int steps = 2 * steps_per_run(static_cast<int>(shape.channels), element_size);
  plan.warps = std::min(kMaxWarps, (steps + kStepsAhead - 1) / kStepsAhead);
  const int64_t patches = shape.output_rows() * shape.output_width();
  plan.blocks = std::min(kMaxBlocks, (patches + kTilePatches - 1) / kTilePatches);
  return true;
}

template <typename T>
Merging<T> make_merging(const MergingShape& shape, const void* x, const void* offset_weight, const void* offset_bias,
                        void* y) {
  return Merging<T>{shape.height,
                    shape.width,
                    static_cast<int>(shape.channels),
                    steps_per_run(static_cast<int>(shape.channels), static_cast<int>(sizeof(T))),
                    shape.output_height(),
                    shape.output_width(),
                    shape.output_rows() * shape.output_width(),
                    static_cast<const T*>(x),
                    static_cast<const T*>(offset_weight),
                    static_cast<const T*>(offset_bias),
                    static_cast<T*>(y)};
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_PLAN_H_
