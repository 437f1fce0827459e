// The CUDA kernel, one thread's view of it; cuda_element.h says what Device offers.
//
// A thread holds 32 dims of one query and of its output in registers; heads wider than that are shared by two or four
// neighbouring threads, which add up their parts of a dot product. The block walks over the keys tile by tile: keys and
// values lie in shared memory, where all threads read the same one at a time. The softmax is computed on the way, with a
// running maximum and a running sum (Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022), so that no matrix of
// tokens by tokens exists. The bias is read from the table where query and key put it: neighbouring queries read
// neighbouring elements.
//
// Products are of float32 whatever the element is; cuda_tensor_kernel.h has the kernel for the tensor cores.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_KERNEL_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_KERNEL_H_

#include <cmath>
#include <cstdint>

#include "relative_position_attention/cuda_plan.h"

namespace lit_deploy::cuda {

constexpr int kSliceQuads = kSliceDims / 4;

struct alignas(16) Quad {
  float value[4];
};

// A slice has one quad more than it needs: the slices of a key then begin in different banks, which the threads of a
// query read at once.
template <int kSlices>
struct AttentionShared {
  Quad keys[kTileKeys][kSlices][kSliceQuads + 1];
  Quad values[kTileKeys][kSlices][kSliceQuads + 1];
  int32_t place[kTileKeys];  // what a key takes from its query's index into the table
};

// Index of the first element of a token's queries (0), keys (1) or values (2).
template <typename T>
LIT_DEVICE int64_t packed_at(const Attention<T>& a, uint32_t image, uint32_t head, uint32_t token, uint32_t which) {
  const int64_t width = int64_t{a.heads} * a.head_dim;
  return ((int64_t{image} * a.tokens + token) * 3 + which) * width + int64_t{head} * a.head_dim;
}

// What a key takes from its query's index into the table; 0 behind the last token.
template <typename T>
LIT_DEVICE int32_t place_in_table(const Attention<T>& a, uint32_t key) {
  if (a.rows == 0 || key >= a.tokens) return 0;
  const uint32_t row = key / a.columns;
  return static_cast<int32_t>(row * (2 * a.columns - 1) + (key - row * a.columns));
}

// The bias of a query and the map's first token; null without a table.
template <typename T>
LIT_DEVICE const float* bias_of(const Attention<T>& a, uint32_t head, uint32_t query) {
  if (a.rows == 0) return nullptr;
  const uint32_t row = query / a.columns, column = query - row * a.columns, width = 2 * a.columns - 1;
  return a.table + int64_t{head} * (2 * a.rows - 1) * width + (row + a.rows - 1) * width + column + a.columns - 1;
}

// Keys and values from `first` on; what lies behind the last token or dim is 0.
template <typename E, int kSlices, typename Device, typename T>
LIT_DEVICE void load_tile(Device& device, const Attention<T>& a, uint32_t image, uint32_t head, uint32_t first,
                          AttentionShared<kSlices>& shared) {
  constexpr uint32_t kDims = kSliceDims * kSlices;
  for (uint32_t i = device.thread(); i < kTileKeys * kDims; i += kAttentionThreads) {
    const uint32_t key = i / kDims, dim = i % kDims, slice = dim / kSliceDims, within = dim % kSliceDims;
    float k = 0.0f, v = 0.0f;
    if (dim < a.head_dim && key < a.tokens - first) {
      const T* const token = a.qkv + packed_at(a, image, head, first + key, 1) + dim;
      k = load_float<E>(device, token);
      v = load_float<E>(device, token + int64_t{a.heads} * a.head_dim);
    }
    shared.keys[key][slice][within / 4].value[within % 4] = k;
    shared.values[key][slice][within / 4].value[within % 4] = v;
  }
  if (device.thread() < kTileKeys) shared.place[device.thread()] = place_in_table(a, first + device.thread());
}

template <typename E, int kSlices, typename Device, typename T>
LIT_DEVICE void attend(Device& device, const Attention<T>& a, AttentionShared<kSlices>& shared) {
  constexpr uint32_t kQueries = kAttentionThreads / kSlices;
  const uint32_t part = device.block() / a.query_blocks, image = part / a.heads, head = part - image * a.heads;
  const uint32_t own = (device.block() - part * a.query_blocks) * kQueries + device.thread() / kSlices;
  const uint32_t query = own < a.tokens ? own : a.tokens - 1;  // in place of one that does not exist, the last
  const uint32_t slice = device.thread() % kSlices, first_dim = slice * kSliceDims;

  float q[kSliceDims], sum[kSliceDims] = {};
  const T* const from = a.qkv + packed_at(a, image, head, query, 0);
  LIT_UNROLL
  for (uint32_t d = 0; d < kSliceDims; ++d) {
    q[d] = first_dim + d < a.head_dim ? load_float<E>(device, from + first_dim + d) : 0.0f;
  }
  const float* const bias = bias_of(a, head, query);

  float most = -3.402823466e38f, total = 0.0f;
  for (uint32_t first = 0; first < a.tokens; first += kTileKeys) {
    device.sync();  // the tile before is read
    load_tile<E>(device, a, image, head, first, shared);
    device.sync();
    const uint32_t keys = a.tokens - first < kTileKeys ? a.tokens - first : kTileKeys;
    for (uint32_t chunk = 0; chunk < keys; chunk += kChunkKeys) {
      float logit[kChunkKeys];
      float highest = most;
      LIT_UNROLL
      for (uint32_t i = 0; i < kChunkKeys; ++i) {
        const Quad* const key = shared.keys[chunk + i][slice];
        float dot = 0.0f;
        LIT_UNROLL
        for (int n = 0; n < kSliceQuads; ++n) {
          const Quad quad = key[n];
          LIT_UNROLL
          for (int j = 0; j < 4; ++j) dot += q[4 * n + j] * quad.value[j];
        }
        LIT_UNROLL
        for (int mask = 1; mask < kSlices; mask *= 2) dot += device.shuffle_xor(dot, mask);
        logit[i] = dot * a.scale;
        // Behind the last key the place is 0, which is as good an index as any.
        if (bias != nullptr) logit[i] += device.load(bias - shared.place[chunk + i]);
        if (chunk + i >= keys) logit[i] = -INFINITY;
        highest = logit[i] > highest ? logit[i] : highest;
      }
      const float shrunk = expf(most - highest);
      most = highest;
      total *= shrunk;
      LIT_UNROLL
      for (int d = 0; d < kSliceDims; ++d) sum[d] *= shrunk;
      LIT_UNROLL
      for (uint32_t i = 0; i < kChunkKeys; ++i) {
        const float weight = expf(logit[i] - highest);
        total += weight;
        const Quad* const value = shared.values[chunk + i][slice];
        LIT_UNROLL
        for (int n = 0; n < kSliceQuads; ++n) {
          const Quad quad = value[n];
          LIT_UNROLL
          for (int j = 0; j < 4; ++j) sum[4 * n + j] += weight * quad.value[j];
        }
      }
    }
  }

  if (own >= a.tokens) return;
  T* const y = a.y + ((int64_t{image} * a.tokens + query) * a.heads + head) * a.head_dim;
  LIT_UNROLL
  for (uint32_t d = 0; d < kSliceDims; ++d) {
    if (first_dim + d < a.head_dim) store_float<E>(device, y + first_dim + d, sum[d] / total);
  }
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_KERNEL_H_
