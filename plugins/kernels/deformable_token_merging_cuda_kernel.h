// The CUDA kernel, one thread's view of it.
//
// Written against a class Device of primitives, so that the same text is compiled by nvcc for the GPU
// (deformable_token_merging_cuda_device.cuh) and by any C++ compiler for the emulation test (tests/cuda_emulation.h).
// Device offers, E being an Element below:
//
//   thread() threads() block() blocks()   indices and sizes, one-dimensional; threads() is a multiple of 32
//   sync() sync_warp()                    barriers of the block and of the warp
//   shuffle_xor(value, mask)              the float that lane (lane ^ mask) passes
//   mma(E, sum, a, b)                     sum += a * b, the 16x8 by 16 product of mma.sync.m16n8k16 (16-bit elements)
//   load16(p) store16(p, words)           16 aligned bytes; the store is not expected to be read again here
//   load(p)                               one element, read-only for the whole launch
//   widen(E, word, pair) narrow(E, pair)  two 16-bit elements in a 32-bit word <-> two floats, rounded to nearest even
//
// A block takes tiles of 16 patches that follow one another, in three phases. (1) Its warps share the sum over the
// patch's 4 * channels elements and leave partial offsets in shared memory. (2) One thread per sample turns the offsets
// into a place and four weights. (3) All threads together copy the weighted neighbours, 16 bytes each, so that reads
// and writes are coalesced whatever the number of channels; most of what is read here is still in L1 from (1).
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_KERNEL_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_KERNEL_H_

#include <cstdint>
#include <cstring>

#include "deformable_token_merging_cuda_plan.h"

#ifdef __CUDACC__
#define LIT_DEVICE __device__ __forceinline__
#define LIT_UNROLL _Pragma("unroll")
#else
#define LIT_DEVICE inline
#define LIT_UNROLL
#endif

namespace lit_deploy::cuda {

struct Float32 {
  using Storage = float;
};
struct Float16 {
  using Storage = uint16_t;
};
struct BFloat16 {
  using Storage = uint16_t;
};

struct alignas(kVectorBytes) Words {
  uint32_t word[4];
};

// One block's shared memory. A sample is (patch of the tile, tap).
struct Shared {
  float partial[kMaxWarps][kTilePatches][kOffsets];
  struct alignas(16) Weights {
    float neighbour[4];  // (0, 0) (0, 1) (1, 0) (1, 1); 0 for one that is off the map or not wanted
  } weights[kTileSamples];
  int64_t origin[kTileSamples];  // element of x at which neighbour (0, 0) begins, were it on the map
};

// Where a patch lies in x.
struct Place {
  int64_t image;  // its image's first element
  int64_t row;    // of the upper left token
  int64_t column;
};

template <typename T>
LIT_DEVICE Place place_of(const Merging<T>& m, int64_t patch) {
  const int64_t output_row = patch / m.columns;
  const int64_t image = output_row / m.rows;
  return Place{image * m.height * m.width * m.channels, 2 * (output_row - image * m.rows),
               2 * (patch - output_row * m.columns)};
}

// The `count` elements at p (as many as 16 bytes hold, at most), the rest 0. Nothing is read if count <= 0.
template <bool kVectors, typename Device, typename T>
LIT_DEVICE Words load_words(Device& device, const T* p, int count) {
  Words words{};
  if constexpr (kVectors) {
    if (count > 0) words = device.load16(p);
  } else {
    constexpr int kElements = kVectorBytes / static_cast<int>(sizeof(T));
    T element[kElements];
    LIT_UNROLL
    for (int i = 0; i < kElements; ++i) element[i] = i < count ? device.load(p + i) : T{};
    std::memcpy(&words, element, sizeof words);
  }
  return words;
}

// --------------------------------------------------------------------------------------------------- (1) offsets

// Lane 4 * group + quarter works on patches `group` and `group + 8` of the tile, and on the quarter-th 16 bytes of each
// step. At the end it has dy and dx of tap `quarter` for both patches: sum[0..1] and sum[2..3].
//
// 16-bit elements: offset_weight has eight rows, the very N of the tensor core's m16n8k16. The order in which a dot
// product runs over its K elements is free as long as both factors agree, so each lane feeds the 16 bytes that it has
// loaded to two products as they come, and no element ever moves between lanes.
template <typename E>
struct OffsetSum {
  float sum[4] = {};

  template <bool kVectors, typename Device, typename T>
  LIT_DEVICE void add(Device& device, const Words (&tokens)[2], const T* weight, int column, int stride, int group,
                      int count) {
    const Words w = load_words<kVectors>(device, weight + (group * stride + column), count);
    LIT_UNROLL
    for (int i = 0; i < 4; i += 2) {
      const uint32_t a[4] = {tokens[0].word[i], tokens[1].word[i], tokens[0].word[i + 1], tokens[1].word[i + 1]};
      const uint32_t b[2] = {w.word[i], w.word[i + 1]};
      device.mma(E{}, sum, a, b);
    }
  }

  template <typename Device>
  LIT_DEVICE void finish(Device&, int) {}
};

// float32: every lane sums all eight offsets over its share; the four lanes of a group then exchange what they have of
// each other's tap. (TensorFloat-32 would round the factors to 10 bits.)
template <>
struct OffsetSum<Float32> {
  float sum[4] = {};
  float share[2][kOffsets] = {};

  template <bool kVectors, typename Device>
  LIT_DEVICE void add(Device& device, const Words (&tokens)[2], const float* weight, int column, int stride, int,
                      int count) {
    float token[2][4];
    std::memcpy(token, tokens, sizeof token);
    LIT_UNROLL
    for (int o = 0; o < kOffsets; ++o) {
      const Words words = load_words<kVectors>(device, weight + (o * stride + column), count);
      float w[4];
      std::memcpy(w, &words, sizeof w);
      LIT_UNROLL
      for (int i = 0; i < 4; ++i) {
        share[0][o] += token[0][i] * w[i];
        share[1][o] += token[1][i] * w[i];
      }
    }
  }

  template <typename Device>
  LIT_DEVICE void finish(Device& device, int quarter) {
    const bool high = (quarter & 2) != 0, odd = (quarter & 1) != 0;
    LIT_UNROLL
    for (int p = 0; p < 2; ++p) {
      const float(&s)[kOffsets] = share[p];
      float half[4];
      LIT_UNROLL
      for (int i = 0; i < 4; ++i) half[i] = (high ? s[4 + i] : s[i]) + device.shuffle_xor(high ? s[i] : s[4 + i], 2);
      LIT_UNROLL
      for (int i = 0; i < 2; ++i) {
        sum[2 * p + i] = (odd ? half[2 + i] : half[i]) + device.shuffle_xor(odd ? half[i] : half[2 + i], 1);
      }
    }
  }
};

template <typename E, bool kVectors, typename Device, typename T>
LIT_DEVICE void sum_offsets(Device& device, const Merging<T>& m, int64_t first_patch, Shared& shared) {
  constexpr int kLaneElements = kVectorBytes / static_cast<int>(sizeof(T));
  const int lane = device.thread() % kWarpLanes, group = lane / 4, quarter = lane % 4;
  const int warp = device.thread() / kWarpLanes, warps = device.threads() / kWarpLanes;
  const int run = 2 * m.channels;
  const int steps = m.steps;

  int64_t patch[2];
  bool exists[2];
  LIT_UNROLL
  for (int p = 0; p < 2; ++p) {
    exists[p] = first_patch + group + 8 * p < m.patches;
    const Place place = place_of(m, exists[p] ? first_patch + group + 8 * p : first_patch);
    patch[p] = place.image + (place.row * m.width + place.column) * m.channels;
  }

  OffsetSum<E> offsets;
  for (int begin = warp; begin < 2 * steps; begin += warps * kStepsAhead) {  // the same count for all lanes of a warp
    Words tokens[kStepsAhead][2];
    int count[kStepsAhead], column[kStepsAhead];
    LIT_UNROLL
    for (int ahead = 0; ahead < kStepsAhead; ++ahead) {
      const int step = begin + ahead * warps;
      const int lower = step >= steps ? 1 : 0;  // the patch's lower two tokens
      const int k = ((step - lower * steps) * 4 + quarter) * kLaneElements;
      count[ahead] = run - k;  // none is left (0 or less) for a step that is one too many
      column[ahead] = lower * run + k;
      LIT_UNROLL
      for (int p = 0; p < 2; ++p) {
        const T* token = m.x + patch[p] + lower * m.width * m.channels + k;
        tokens[ahead][p] = load_words<kVectors>(device, token, exists[p] ? count[ahead] : 0);
      }
    }
    device.sync_warp();  // the product needs all lanes at once, whatever their loads branched on
    LIT_UNROLL
    for (int ahead = 0; ahead < kStepsAhead; ++ahead) {
      offsets.template add<kVectors>(device, tokens[ahead], m.offset_weight, column[ahead], 2 * run, group,
                                     count[ahead]);
    }
  }
  offsets.finish(device, quarter);
  LIT_UNROLL
  for (int p = 0; p < 2; ++p) {
    float* partial = &shared.partial[warp][group + 8 * p][2 * quarter];
    partial[0] = offsets.sum[2 * p];
    partial[1] = offsets.sum[2 * p + 1];
  }
}

// --------------------------------------------------------------------------------------------------- (2) samples

template <typename E, typename Device>
LIT_DEVICE float load_float(Device& device, const typename E::Storage* p) {
  if constexpr (sizeof(typename E::Storage) == sizeof(float)) {
    return device.load(p);
  } else {
    float pair[2];
    device.widen(E{}, device.load(p), pair);
    return pair[0];
  }
}

template <typename E, typename Device, typename T>
LIT_DEVICE void place_sample(Device& device, const Merging<T>& m, int64_t first_patch, int sample, Shared& shared) {
  const int tap = sample % kTaps;
  const int warps = device.threads() / kWarpLanes;
  float offset[2] = {};
  for (int warp = 0; warp < warps; ++warp) {
    const float* partial = &shared.partial[warp][sample / kTaps][2 * tap];
    offset[0] += partial[0];
    offset[1] += partial[1];
  }
  const Place place = place_of(m, first_patch + sample / kTaps);
  for (int i = 0; i < 2; ++i) offset[i] += load_float<E>(device, m.offset_bias + 2 * tap + i);
  const float row = static_cast<float>(place.row + tap / 2) + offset[0];
  const float column = static_cast<float>(place.column + tap % 2) + offset[1];

  int64_t origin = 0;
  float weight[4] = {};
  // Written so that NaN fails it: nothing that is not a position on the map is ever converted to an integer.
  if (row > -1.0f && row < static_cast<float>(m.height) && column > -1.0f && column < static_cast<float>(m.width)) {
    const int64_t truncated_row = static_cast<int64_t>(row), truncated_column = static_cast<int64_t>(column);
    const int64_t top = truncated_row - (row < static_cast<float>(truncated_row) ? 1 : 0);
    const int64_t left = truncated_column - (column < static_cast<float>(truncated_column) ? 1 : 0);
    const float down = row - static_cast<float>(top), right = column - static_cast<float>(left);
    LIT_UNROLL
    for (int n = 0; n < 4; ++n) {
      const int64_t i = top + n / 2, j = left + n % 2;
      const bool on_map = i >= 0 && i < m.height && j >= 0 && j < m.width;
      weight[n] = on_map ? (n / 2 == 1 ? down : 1.0f - down) * (n % 2 == 1 ? right : 1.0f - right) : 0.0f;
    }
    origin = place.image + (top * m.width + left) * m.channels;
  }
  shared.origin[sample] = origin;
  LIT_UNROLL
  for (int n = 0; n < 4; ++n) shared.weights[sample].neighbour[n] = weight[n];
}

// ---------------------------------------------------------------------------------------------------- (3) gather

// A neighbour of weight 0 is not read at all: it may lie off the map, and 0 times infinity would not be 0.
template <typename E, typename Device>
LIT_DEVICE void gather_vector(Device& device, const typename E::Storage* x, const int64_t (&from)[4],
                              const Shared::Weights& weights, typename E::Storage* out) {
  Words words[4];
  LIT_UNROLL
  for (int n = 0; n < 4; ++n) {
    words[n] = load_words<true>(device, x + from[n], weights.neighbour[n] != 0.0f ? 1 : 0);
  }
  Words result;
  LIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(typename E::Storage) == sizeof(float)) {
      float sum = 0.0f;
      LIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        float value;
        std::memcpy(&value, &words[n].word[i], sizeof value);
        sum += weights.neighbour[n] * value;
      }
      std::memcpy(&result.word[i], &sum, sizeof sum);
    } else {
      float sum[2] = {};
      LIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        float pair[2];
        device.widen(E{}, words[n].word[i], pair);
        sum[0] += weights.neighbour[n] * pair[0];
        sum[1] += weights.neighbour[n] * pair[1];
      }
      result.word[i] = device.narrow(E{}, sum);
    }
  }
  device.store16(out, result);
}

template <typename E, typename Device>
LIT_DEVICE void gather_element(Device& device, const typename E::Storage* x, const int64_t (&from)[4],
                               const Shared::Weights& weights, typename E::Storage* out) {
  float sum[2] = {};
  LIT_UNROLL
  for (int n = 0; n < 4; ++n) {
    if (weights.neighbour[n] != 0.0f) sum[0] += weights.neighbour[n] * load_float<E>(device, x + from[n]);
  }
  if constexpr (sizeof(typename E::Storage) == sizeof(float)) {
    *out = sum[0];
  } else {
    *out = static_cast<typename E::Storage>(device.narrow(E{}, sum) & 0xffffu);
  }
}

template <typename E, bool kVectors, typename Device, typename T>
LIT_DEVICE void gather(Device& device, const Merging<T>& m, int64_t first_patch, int samples, const Shared& shared) {
  constexpr int kElements = kVectors ? kVectorBytes / static_cast<int>(sizeof(T)) : 1;
  const int vectors = m.channels / kElements;  // of one sample
  const int sample_step = device.threads() / vectors, vector_step = device.threads() % vectors;
  const int64_t row = m.width * m.channels;
  const int64_t step[4] = {0, m.channels, row, row + m.channels};
  int sample = device.thread() / vectors, vector = device.thread() % vectors;
  T* y = m.y + first_patch * kTaps * m.channels;
  while (sample < samples) {
    const Shared::Weights weights = shared.weights[sample];
    const int64_t channel = static_cast<int64_t>(vector) * kElements;
    const int64_t start = shared.origin[sample] + channel;
    int64_t from[4];
    LIT_UNROLL
    for (int n = 0; n < 4; ++n) from[n] = start + step[n];
    T* out = y + static_cast<int64_t>(sample) * m.channels + channel;
    if constexpr (kVectors) {
      gather_vector<E>(device, m.x, from, weights, out);
    } else {
      gather_element<E>(device, m.x, from, weights, out);
    }
    sample += sample_step;
    vector += vector_step;
    if (vector >= vectors) {
      vector -= vectors;
      ++sample;
    }
  }
}

template <typename E, bool kVectors, typename Device>
LIT_DEVICE void merge_tiles(Device& device, const Merging<typename E::Storage>& m, Shared& shared) {
  const int64_t stride = device.blocks() * kTilePatches;
  for (int64_t first_patch = device.block() * kTilePatches; first_patch < m.patches; first_patch += stride) {
    sum_offsets<E, kVectors>(device, m, first_patch, shared);
    device.sync();
    const int64_t left = m.patches - first_patch;
    const int samples = kTaps * static_cast<int>(left < kTilePatches ? left : kTilePatches);
    for (int sample = device.thread(); sample < samples; sample += device.threads()) {
      place_sample<E>(device, m, first_patch, sample, shared);
    }
    device.sync();
    gather<E, kVectors>(device, m, first_patch, samples, shared);
    // No barrier here: the next tile's first phase writes only `partial`, which nobody reads after the barrier above,
    // and its barrier keeps the second phase away from `weights` and `origin` until every thread is done with them.
  }
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_KERNEL_H_
