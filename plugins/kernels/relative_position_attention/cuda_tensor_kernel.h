// The CUDA kernel for half types on tensor cores, one thread's view of it; cuda_element.h says what Device offers.
//
// A warp has 16 queries, and their outputs, as fragments in registers; the block walks over the keys tile by tile. Both
// products are the 16x8 by 16 of mma.sync: queries by keys, and weights by values. The fragment in which the first leaves
// the logits is the one in which the second takes the weights, so that these never leave the registers
// (FlashAttention-2, Dao 2023). Logits, running maximum and sum are float32; a weight is rounded to the element before it
// meets its value, and not before it is summed up. No matrix of tokens by tokens exists; the bias is read from the table
// where query and key put it.
//
// In the layout of the fragments lane 4 * group + quarter has rows group and group + 8, and columns 2 * quarter and the
// next of every 8.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_TENSOR_KERNEL_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_TENSOR_KERNEL_H_

#include <cmath>
#include <cstdint>

#include "relative_position_attention/cuda_kernel.h"

namespace lit_deploy::cuda {

constexpr int kTensorWarpRows = 16;      // queries of a warp
constexpr int kPairs = kTensorRows / 2;  // a word has the values of two neighbouring keys
constexpr int kVectorWords = kVectorBytes / 4;
constexpr int kVectorElements = kVectorBytes / 2;

// Rows are four words longer than they need to be: the words that the lanes of a warp read at once, of eight rows and
// four of each, lie in different banks then.
template <int kDims>
struct TensorShared {
  Words rows[kTensorRows][kDims / kVectorElements + 1];  // queries, then keys, at last the output: two dims a word
  uint32_t values[kDims][kPairs + 4];
  int32_t place[kTensorRows];  // what a key takes from its query's index into the table

  LIT_DEVICE uint32_t& word(int row, int word) { return rows[row][word / kVectorWords].word[word % kVectorWords]; }
};

// Queries (0) or keys (1) of the tokens from `first` on; zeros behind the last.
template <int kDims, typename Device>
LIT_DEVICE void load_rows(Device& device, const Attention<uint16_t>& a, uint32_t image, uint32_t head, uint32_t first,
                          uint32_t which, TensorShared<kDims>& shared) {
  constexpr uint32_t kVectors = kDims / kVectorElements;
  for (uint32_t i = device.thread(); i < kTensorRows * kVectors; i += kAttentionThreads) {
    const uint32_t row = i / kVectors, vector = i % kVectors;
    Words words{};
    if (row < a.tokens - first) {
      words = device.load16(a.qkv + packed_at(a, image, head, first + row, which) + vector * kVectorElements);
    }
    shared.rows[row][vector] = words;
  }
}

// The values of a tile, two neighbouring keys in a word; and the places of its keys in the table.
template <int kDims, typename Device>
LIT_DEVICE void load_values(Device& device, const Attention<uint16_t>& a, uint32_t image, uint32_t head, uint32_t first,
                            TensorShared<kDims>& shared) {
  // Neighbouring threads have neighbouring pairs, whose words lie in different banks.
  for (uint32_t i = device.thread(); i < kPairs * kDims / kVectorElements; i += kAttentionThreads) {
    const uint32_t pair = i % kPairs, dim = i / kPairs * kVectorElements;
    Words of[2] = {};
    LIT_UNROLL
    for (uint32_t n = 0; n < 2; ++n) {
      const uint32_t key = first + 2 * pair + n;
      if (key < a.tokens) of[n] = device.load16(a.qkv + packed_at(a, image, head, key, 2) + dim);
    }
    LIT_UNROLL
    for (int w = 0; w < kVectorWords; ++w) {
      shared.values[dim + 2 * w][pair] = (of[0].word[w] & 0xffffu) | of[1].word[w] << 16;
      shared.values[dim + 2 * w + 1][pair] = of[0].word[w] >> 16 | (of[1].word[w] & 0xffff0000u);
    }
  }
  if (device.thread() < kTensorRows) {
    shared.place[device.thread()] = place_in_table(a, first + device.thread());
  }
}

template <typename E, int kDims, typename Device>
LIT_DEVICE void attend_on_tensor_cores(Device& device, const Attention<uint16_t>& a, TensorShared<kDims>& shared) {
  constexpr float kLog2E = 1.4426950408889634f;
  constexpr int kSteps = kDims / 16, kColumns = kTensorRows / 8, kOutputs = kDims / 8;
  const uint32_t part = device.block() / a.query_blocks, image = part / a.heads, head = part - image * a.heads;
  const uint32_t first_query = (device.block() - part * a.query_blocks) * kTensorRows;
  const int lane = static_cast<int>(device.thread() % kWarpLanes), group = lane / 4, quarter = lane % 4;
  const int warp_row = static_cast<int>(device.thread() / kWarpLanes) * kTensorWarpRows;

  load_rows(device, a, image, head, first_query, 0, shared);
  device.sync();
  uint32_t query[kSteps][4];
  LIT_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    LIT_UNROLL
    for (int n = 0; n < 4; ++n) {
      query[step][n] = shared.word(warp_row + group + n % 2 * 8, 8 * step + n / 2 * 4 + quarter);
    }
  }
  const float* bias[2];  // of the thread's two queries and the map's first token
  LIT_UNROLL
  for (int n = 0; n < 2; ++n) {
    const uint32_t own = first_query + static_cast<uint32_t>(warp_row + group + 8 * n);
    bias[n] = bias_of(a, head, own < a.tokens ? own : a.tokens - 1);
  }

  // Exponentials are powers of two, which is what the hardware has: logits are scaled for that.
  const float scale = a.scale * kLog2E;
  float output[kOutputs][4] = {}, most[2] = {-3.402823466e38f, -3.402823466e38f}, total[2] = {};
  for (uint32_t first = 0; first < a.tokens; first += kTensorRows) {
    device.sync();  // queries, or the tile before, are read
    load_rows(device, a, image, head, first, 1, shared);
    load_values(device, a, image, head, first, shared);
    device.sync();

    float logit[kColumns][4] = {};
    LIT_UNROLL
    for (int column = 0; column < kColumns; ++column) {
      LIT_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        uint32_t key[2];
        LIT_UNROLL
        for (int n = 0; n < 2; ++n) key[n] = shared.word(8 * column + group, 8 * step + 4 * n + quarter);
        device.mma(E{}, logit[column], query[step], key);
      }
    }

    float highest[2] = {most[0], most[1]};
    LIT_UNROLL
    for (int column = 0; column < kColumns; ++column) {
      LIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int key = 8 * column + 2 * quarter + n % 2;
        float& value = logit[column][n];
        value *= scale;
        // Behind the last key the place is 0, which is as good an index as any.
        if (a.rows > 0) value += kLog2E * device.load(bias[n / 2] - shared.place[key]);
        if (first + static_cast<uint32_t>(key) >= a.tokens) value = -INFINITY;
        highest[n / 2] = value > highest[n / 2] ? value : highest[n / 2];
      }
    }
    LIT_UNROLL
    for (int n = 0; n < 2; ++n) {
      LIT_UNROLL
      for (int mask = 1; mask < 4; mask *= 2) {  // the four lanes that share the row
        const float other = device.shuffle_xor(highest[n], mask);
        highest[n] = other > highest[n] ? other : highest[n];
      }
      const float shrunk = exp2f(most[n] - highest[n]);
      most[n] = highest[n];
      total[n] *= shrunk;
      LIT_UNROLL
      for (int column = 0; column < kOutputs; ++column) {
        output[column][2 * n] *= shrunk;
        output[column][2 * n + 1] *= shrunk;
      }
    }
    device.sync_warp();  // the loads of biases are behind

    LIT_UNROLL
    for (int step = 0; step < kTensorRows / 16; ++step) {
      uint32_t weight[4];
      LIT_UNROLL
      for (int n = 0; n < 4; ++n) {
        const float* const from = &logit[2 * step + n / 2][n % 2 * 2];
        const float pair[2] = {exp2f(from[0] - most[n % 2]), exp2f(from[1] - most[n % 2])};
        total[n % 2] += pair[0] + pair[1];
        weight[n] = device.narrow(E{}, pair);
      }
      LIT_UNROLL
      for (int column = 0; column < kOutputs; ++column) {
        uint32_t value[2];
        LIT_UNROLL
        for (int n = 0; n < 2; ++n) value[n] = shared.values[8 * column + group][8 * step + 4 * n + quarter];
        device.mma(E{}, output[column], weight, value);
      }
    }
  }

  // Through shared memory, so that whole rows are written at once.
  device.sync();
  LIT_UNROLL
  for (int n = 0; n < 2; ++n) {
    LIT_UNROLL
    for (int mask = 1; mask < 4; mask *= 2) total[n] += device.shuffle_xor(total[n], mask);
    LIT_UNROLL
    for (int column = 0; column < kOutputs; ++column) {
      const float pair[2] = {output[column][2 * n] / total[n], output[column][2 * n + 1] / total[n]};
      shared.word(warp_row + group + 8 * n, 4 * column + quarter) = device.narrow(E{}, pair);
    }
  }
  device.sync();
  constexpr uint32_t kVectors = kDims / kVectorElements;
  for (uint32_t i = device.thread(); i < kTensorRows * kVectors; i += kAttentionThreads) {
    const uint32_t row = i / kVectors, vector = i % kVectors;
    if (row >= a.tokens - first_query) continue;
    const int64_t at = ((int64_t{image} * a.tokens + first_query + row) * a.heads + head) * a.head_dim;
    device.store16(a.y + at + vector * kVectorElements, shared.rows[row][vector]);
  }
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_TENSOR_KERNEL_H_
