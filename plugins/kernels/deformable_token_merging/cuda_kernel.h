// The CUDA kernel, one thread's view of it.
//
// threads() is a multiple of 64; cuda_element.h says what else Device offers.
//
// A block takes one tile of 4 x 4 patches, in three phases. (1) Its warps share the sum over the patch's 4 * channels
// elements and leave partial offsets in shared memory. (2) One thread per sample turns the offsets into four weights
// and the addresses to read and to write. (3) All threads together copy the weighted neighbours, 16 bytes each, so that
// reads and writes are coalesced whatever the number of channels; most of what is read here is still in L1 from (1).
//
// By count, what limits it is the rate at which instructions are issued. So divisions are multiplications that the host
// has prepared, an address is one 64-bit sum, and two vectors share what they can.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_KERNEL_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_KERNEL_H_

#include <cstdint>
#include <cstring>

#include "deformable_token_merging/cuda_plan.h"

namespace lit_deploy::cuda {

// One tap of one patch: what the third phase needs to know of it.
template <typename T>
struct alignas(16) Sample {
  float weight[4];  // of the neighbours (0, 0) (0, 1) (1, 0) (1, 1); 0 for one that is off the map or not wanted
  const T* from;    // where neighbour (0, 0) begins, were it on the map; never read unless it is
  T* to;
};

// One block's shared memory. A patch's slot is 4 * row + column in the tile, whether it exists or not; the samples are
// those of the patches that exist, closed up.
template <typename T>
struct Shared {
  float partial[kMaxWarps][kTilePatches][kOffsets];
  Sample<T> samples[kTileSamples];
};

// Which patches a block works on.
struct Tile {
  uint32_t image;
  uint32_t row;  // of the first patch, on the output map
  uint32_t column;
};

template <typename Device>
LIT_DEVICE uint32_t quotient(Device& device, uint32_t dividend, const Divider& divider) {
  return device.multiply_high(2 * dividend, divider.multiplier) >> divider.shift;
}

template <typename Device, typename T>
LIT_DEVICE Tile tile_of(Device& device, const Merging<T>& m) {
  const uint32_t block = device.block();
  const uint32_t tile_row = quotient(device, block, m.tile_columns), image = quotient(device, tile_row, m.tile_rows);
  return Tile{image, kTileSide * (tile_row - image * m.tile_rows.divisor),
              kTileSide * (block - tile_row * m.tile_columns.divisor)};
}

LIT_DEVICE uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

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

// Lane 4 * group + quarter works on the tile's patches `group` and `group + 8`, and on the quarter-th 16 bytes of each
// step. At the end it has dy and dx of tap `quarter` for both patches: sum[0..1] and sum[2..3].
//
// 16-bit elements: offset_weight has eight rows, the very N of the tensor core's m16n8k16. The order in which a dot
// product runs over its K elements is free as long as both factors agree, so each lane feeds the 16 bytes that it has
// loaded to two products as they come, and no element ever moves between lanes.
template <typename E>
struct OffsetSum {
  float sum[4] = {};
  LIT_DEVICE static uint32_t weight_row(uint32_t group) { return group; }  // the one that this lane loads

  // One round of kStepsAhead steps, `stride` elements apart; `left` are behind the first one's until the run ends.
  template <bool kVectors, typename Device, typename T>
  LIT_DEVICE void add(Device& device, const Words (&tokens)[kStepsAhead][2], const T* weight, int, int stride,
                      int left) {
    Words w[kStepsAhead];
    LIT_UNROLL
    for (int i = 0; i < kStepsAhead; ++i) {
      w[i] = load_words<kVectors>(device, weight + i * stride, left - i * stride);
    }
    device.sync_warp();  // the product needs all lanes at once, whatever their loads branched on
    LIT_UNROLL
    for (int i = 0; i < kStepsAhead; ++i) {
      LIT_UNROLL
      for (int j = 0; j < 4; j += 2) {
        const uint32_t a[4] = {tokens[i][0].word[j], tokens[i][1].word[j], tokens[i][0].word[j + 1],
                               tokens[i][1].word[j + 1]};
        const uint32_t b[2] = {w[i].word[j], w[i].word[j + 1]};
        device.mma(E{}, sum, a, b);
      }
    }
  }

  template <typename Device>
  LIT_DEVICE void finish(Device&, uint32_t) {}
};

// float32: every lane sums all eight offsets over its share; the four lanes of a group then exchange what they have of
// each other's tap. (TensorFloat-32 would round the factors to 10 bits.)
template <>
struct OffsetSum<Float32> {
  float sum[4] = {};
  float share[2][kOffsets] = {};
  LIT_DEVICE static uint32_t weight_row(uint32_t) { return 0; }  // the first of all eight

  template <bool kVectors, typename Device>
  LIT_DEVICE void add(Device& device, const Words (&tokens)[kStepsAhead][2], const float* weight, int row_stride,
                      int stride, int left) {
    LIT_UNROLL
    for (int i = 0; i < kStepsAhead; ++i) {
      float token[2][4];
      std::memcpy(token, tokens[i], sizeof token);
      LIT_UNROLL
      for (int o = 0; o < kOffsets; ++o) {
        const Words words = load_words<kVectors>(device, weight + (o * row_stride + i * stride), left - i * stride);
        float w[4];
        std::memcpy(w, &words, sizeof w);
        LIT_UNROLL
        for (int j = 0; j < 4; ++j) {
          share[0][o] += token[0][j] * w[j];
          share[1][o] += token[1][j] * w[j];
        }
      }
    }
  }

  template <typename Device>
  LIT_DEVICE void finish(Device& device, uint32_t quarter) {
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
LIT_DEVICE void sum_offsets(Device& device, const Merging<T>& m, const Tile& tile, Shared<T>& shared) {
  constexpr int kLaneElements = kVectorBytes / static_cast<int>(sizeof(T));
  // Unsigned where it can be: a remainder is then one instruction, and a 64-bit product two.
  const uint32_t lane = device.thread() % kWarpLanes, group = lane / 4, quarter = lane % 4;
  const uint32_t warp = device.thread() / kWarpLanes, lower = warp % 2;  // its run: the upper or lower two tokens
  const uint32_t run = 2 * m.channels;

  uint32_t first = warp / 2 * 4 * kLaneElements;  // element of the run, of the warp's next step
  const uint32_t begin = first + quarter * kLaneElements;
  // In place of a patch that does not exist, one that does: nothing becomes of the sum, and no load has to ask.
  const T* token[2];
  LIT_UNROLL
  for (uint32_t p = 0; p < 2; ++p) {
    const uint32_t row = smaller(tile.row + group / kTileSide + 2 * p, m.rows - 1);
    const uint32_t column = smaller(tile.column + group % kTileSide, m.columns - 1);
    token[p] = m.x + tile.image * m.image_stride + (2 * row + lower) * m.row_stride + (int64_t{column} * run + begin);
  }
  const T* weight = m.offset_weight + (OffsetSum<E>::weight_row(group) * 2 + lower) * run + begin;
  int left = static_cast<int>(run - begin);  // behind the run, where it is 0 or less, a step is filled with zeros

  OffsetSum<E> offsets;
  const int stride = static_cast<int>(device.threads() / (2 * kWarpLanes)) * 4 * kLaneElements;  // they take turns
  for (; first < run; first += kStepsAhead * stride) {  // as often for all lanes of a warp
    Words tokens[kStepsAhead][2];
    LIT_UNROLL
    for (int i = 0; i < kStepsAhead; ++i) {
      LIT_UNROLL
      for (int p = 0; p < 2; ++p) tokens[i][p] = load_words<kVectors>(device, token[p] + i * stride, left - i * stride);
    }
    offsets.template add<kVectors>(device, tokens, weight, static_cast<int>(2 * run), stride, left);
    LIT_UNROLL
    for (int p = 0; p < 2; ++p) token[p] += kStepsAhead * stride;
    weight += kStepsAhead * stride;
    left -= kStepsAhead * stride;
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

// `columns`: of the tile's patches that exist.
template <typename E, typename Device, typename T>
LIT_DEVICE void place_sample(Device& device, const Merging<T>& m, const Tile& tile, uint32_t columns, uint32_t sample,
                             Shared<T>& shared) {
  const uint32_t tap = sample % kTaps, patch = sample / kTaps;
  uint32_t patch_row = 0;  // patch / columns, of which there are at most four
  LIT_UNROLL
  for (uint32_t i = 1; i < kTileSide; ++i) patch_row += patch >= i * columns ? 1 : 0;
  const uint32_t patch_column = patch - patch_row * columns;
  float offset[2];
  LIT_UNROLL
  for (int i = 0; i < 2; ++i) offset[i] = load_float<E>(device, m.offset_bias + 2 * tap + i);
  const uint32_t warps = device.threads() / kWarpLanes;
  for (uint32_t warp = 0; warp < warps; ++warp) {
    const float* partial = &shared.partial[warp][patch_row * kTileSide + patch_column][2 * tap];
    offset[0] += partial[0];
    offset[1] += partial[1];
  }
  const uint32_t output_row = tile.row + patch_row, output_column = tile.column + patch_column;
  const float row = static_cast<float>(2 * output_row + tap / 2) + offset[0];
  const float column = static_cast<float>(2 * output_column + tap % 2) + offset[1];

  Sample<T>& s = shared.samples[sample];
  float down[2] = {}, right[2] = {};
  int top = 0, left = 0;
  // Written so that NaN fails it: nothing that is not a position on the map is ever converted to an integer.
  if (row > -1.0f && row < static_cast<float>(m.height) && column > -1.0f && column < static_cast<float>(m.width)) {
    const int truncated_row = static_cast<int>(row), truncated_column = static_cast<int>(column);
    top = truncated_row - (row < static_cast<float>(truncated_row) ? 1 : 0);
    left = truncated_column - (column < static_cast<float>(truncated_column) ? 1 : 0);
    const float fraction_row = row - static_cast<float>(top), fraction_column = column - static_cast<float>(left);
    down[0] = top >= 0 ? 1.0f - fraction_row : 0.0f;
    down[1] = top + 1 < static_cast<int>(m.height) ? fraction_row : 0.0f;
    right[0] = left >= 0 ? 1.0f - fraction_column : 0.0f;
    right[1] = left + 1 < static_cast<int>(m.width) ? fraction_column : 0.0f;
  }
  LIT_UNROLL
  for (int n = 0; n < 4; ++n) s.weight[n] = down[n / 2] * right[n % 2];
  s.from = m.x + tile.image * m.image_stride + top * m.row_stride + int64_t{left} * m.channels;
  const int64_t output = (int64_t{tile.image} * m.rows + output_row) * m.columns + output_column;
  s.to = m.y + (output * kTaps + tap) * m.channels;
}

// ---------------------------------------------------------------------------------------------------- (3) gather

// result = the sum over n of weight[n] * neighbour[n], element by element.
template <typename E, typename Device>
LIT_DEVICE Words weighted_sum(Device& device, const Words (&neighbour)[4], const float (&weight)[4]) {
  Words result;
  LIT_UNROLL
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(typename E::Storage) == sizeof(float)) {
      float sum = 0.0f;
      LIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        float value;
        std::memcpy(&value, &neighbour[n].word[i], sizeof value);
        sum += weight[n] * value;
      }
      std::memcpy(&result.word[i], &sum, sizeof sum);
    } else {
      float sum[2] = {};
      LIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        float pair[2];
        device.widen(E{}, neighbour[n].word[i], pair);
        sum[0] += weight[n] * pair[0];
        sum[1] += weight[n] * pair[1];
      }
      result.word[i] = device.narrow(E{}, sum);
    }
  }
  return result;
}

template <typename E, typename Device, typename T>
LIT_DEVICE void gather_element(Device& device, const T* const (&from)[4], const float (&weight)[4], T* to) {
  float sum = 0.0f;
  LIT_UNROLL
  for (int n = 0; n < 4; ++n) {
    if (weight[n] != 0.0f) sum += weight[n] * load_float<E>(device, from[n]);
  }
  store_float<E>(device, to, sum);
}

// A thread copies two vectors (elements, where there are no vectors) of a sample at a time, half a sample apart: they
// share weights and predicates, and twice as many loads are under way. Of an odd number, the one in the middle is
// written twice, with the same bits. A neighbour of weight 0 is not read at all: it may lie off the map, and 0 times
// infinity would not be 0.
template <typename E, bool kVectors, typename Device, typename T>
LIT_DEVICE void gather(Device& device, const Merging<T>& m, uint32_t samples, const Shared<T>& shared) {
  constexpr int kElements = kVectors ? kVectorBytes / static_cast<int>(sizeof(T)) : 1;
  const uint32_t pairs = m.pairs.divisor;
  for (uint32_t i = device.thread(); i < samples * pairs; i += device.threads()) {
    const uint32_t sample = quotient(device, i, m.pairs), pair = i - sample * pairs;
    const Sample<T> s = shared.samples[sample];
    const T* top = s.from + pair * kElements;
    const T* bottom = top + m.row_stride;
    const T* from[2][4] = {{top, top + m.channels, bottom, bottom + m.channels}};
    LIT_UNROLL
    for (int n = 0; n < 4; ++n) from[1][n] = from[0][n] + m.pair_stride;
    T* const to[2] = {s.to + pair * kElements, s.to + pair * kElements + m.pair_stride};
    if constexpr (kVectors) {
      Words words[2][4];
      LIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int wanted = s.weight[n] != 0.0f ? 1 : 0;
        for (int half = 0; half < 2; ++half) words[half][n] = load_words<true>(device, from[half][n], wanted);
      }
      for (int half = 0; half < 2; ++half) device.store16(to[half], weighted_sum<E>(device, words[half], s.weight));
    } else {
      for (int half = 0; half < 2; ++half) gather_element<E>(device, from[half], s.weight, to[half]);
    }
  }
}

template <typename E, bool kVectors, typename Device, typename T>
LIT_DEVICE void merge_tile(Device& device, const Merging<T>& m, Shared<T>& shared) {
  const Tile tile = tile_of(device, m);
  const uint32_t columns = smaller(kTileSide, m.columns - tile.column);
  const uint32_t samples = kTaps * columns * smaller(kTileSide, m.rows - tile.row);
  sum_offsets<E, kVectors>(device, m, tile, shared);
  device.sync();
  if (device.thread() < samples) place_sample<E>(device, m, tile, columns, device.thread(), shared);
  device.sync();
  gather<E, kVectors>(device, m, samples, shared);
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_CUDA_KERNEL_H_
