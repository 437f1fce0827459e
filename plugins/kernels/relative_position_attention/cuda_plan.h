// How the CUDA kernel's work is cut, and which arguments it takes. No CUDA header: the emulation test uses it as well.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_PLAN_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_PLAN_H_

#include <cstdint>

#include "cuda_element.h"
#include "relative_position_attention/kernel.h"
#include "sizes.h"

namespace lit_deploy::cuda {

constexpr int kAttentionThreads = 128;
constexpr int kSliceDims = 32;  // of a head, which one thread works on
constexpr int kMaxSlices = 4;   // 1, 2 or 4 neighbouring threads share a query
constexpr int kTileKeys = 32;   // keys that lie in shared memory at a time
constexpr int kChunkKeys = 4;   // keys between two looks at the running maximum
constexpr int kTensorRows = 64;  // on tensor cores, queries of a block and keys of a tile

// Queries, keys and values as the device sees them. T is the storage of one element.
template <typename T>
struct Attention {
  uint32_t tokens;
  uint32_t heads;
  uint32_t head_dim;
  uint32_t rows;          // of the map; 0: no table
  uint32_t columns;
  uint32_t query_blocks;  // of one head of one image
  float scale;
  const T* qkv;
  const float* table;
  T* y;
};

struct AttentionCut {
  int slices;
  bool tensor_cores;  // cuda_tensor_kernel.h has the kernel, else cuda_kernel.h
  int64_t query_blocks;
  int64_t blocks;  // 0: nothing to do
};

// False for arguments that the kernel does not take; see relative_position_attention_cuda().
inline bool cut_attention(const AttentionShape& shape, int element_size, const void* qkv, const float* table,
                          const void* y, AttentionCut& cut) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  cut = AttentionCut{};
  if (shape.batch < 0 || shape.tokens < 0 || shape.tokens > kMost || shape.heads < 1 || shape.heads > kMost) {
    return false;
  }
  if (shape.head_dim < 1 || shape.head_dim > kSliceDims * kMaxSlices) return false;
  const int64_t sizes[] = {shape.batch, shape.tokens, shape.heads, 3 * shape.head_dim};
  if (!elements_fit(sizes, 4)) return false;
  const bool biased = shape.rows != 0 || shape.columns != 0;
  if (biased) {
    if (shape.rows < 1 || shape.columns < 1 || shape.rows > kMost || shape.columns > kMost) return false;
    if (shape.rows * shape.columns != shape.tokens || 2 * shape.rows - 1 > kMost / (2 * shape.columns - 1)) return false;
  }
  cut.slices = 1;
  while (cut.slices * kSliceDims < shape.head_dim) cut.slices *= 2;
  // Heads of 32 (LIT-S, M, B) and 64 (Ti), in rows that are whole vectors.
  cut.tensor_cores = element_size == 2 && (shape.head_dim == 32 || shape.head_dim == 64) &&
                     is_aligned(qkv, kVectorBytes) && is_aligned(y, kVectorBytes);
  const int64_t queries = cut.tensor_cores ? kTensorRows : kAttentionThreads / cut.slices;
  cut.query_blocks = (shape.tokens + queries - 1) / queries;
  if (shape.batch == 0 || shape.tokens == 0) return true;
  if (cut.query_blocks > kMaxBlocks / shape.heads || shape.batch > kMaxBlocks / (cut.query_blocks * shape.heads)) {
    return false;
  }
  if (qkv == nullptr || y == nullptr || !is_aligned(qkv, element_size) || !is_aligned(y, element_size)) return false;
  if (biased && (table == nullptr || !is_aligned(table, sizeof(float)))) return false;
  cut.blocks = shape.batch * shape.heads * cut.query_blocks;
  return true;
}

template <typename T>
Attention<T> make_attention(const AttentionShape& shape, const AttentionCut& cut, float scale, const void* qkv,
                            const float* table, void* y) {
  Attention<T> a{};
  a.tokens = static_cast<uint32_t>(shape.tokens);
  a.heads = static_cast<uint32_t>(shape.heads);
  a.head_dim = static_cast<uint32_t>(shape.head_dim);
  a.rows = static_cast<uint32_t>(shape.rows);
  a.columns = static_cast<uint32_t>(shape.columns);
  a.query_blocks = static_cast<uint32_t>(cut.query_blocks);
  a.scale = scale;
  a.qkv = static_cast<const T*>(qkv);
  a.table = table;
  a.y = static_cast<T*>(y);
  return a;
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_CUDA_PLAN_H_
