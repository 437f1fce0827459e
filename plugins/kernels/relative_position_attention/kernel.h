// Attention with a relative position bias (operator version 1): the kernel that every back end calls.
//
// Plain parameters only: nothing here knows ONNX Runtime or a thread pool. The operator is defined in
// docs/relative_position_attention.md; `lit_deploy/ops/relative_position_attention/reference.py` computes the same
// thing in PyTorch.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_KERNEL_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_KERNEL_H_

#include <cstdint>

#include "cpu_isa.h"

namespace lit_deploy {

// Sizes of qkv[batch, tokens, 3 * heads * head_dim] and of table[heads, 2 * rows - 1, 2 * columns - 1], with
// tokens = rows * columns; rows = columns = 0 stands for no table. The output is y[batch, tokens, heads * head_dim].
struct AttentionShape {
  int64_t batch;
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
  int64_t rows;
  int64_t columns;
};

// The type of qkv and y; halves are passed as their bits. The table is float32 whatever it is.
enum class AttentionElement { kFloat32, kFloat16, kBFloat16 };

// The largest head_dim that the kernel takes: a tile of keys has to lie on the stack of the calling thread, of which a
// call uses about 340 KiB.
constexpr int64_t kMaxAttentionHeadDim = 512;

// The number of independent parts of the work: a part is some queries of one head of one image.
int64_t attention_tasks(const AttentionShape& shape) noexcept;

// Computes the parts [task_begin, task_end) of attention_tasks(shape).
//
// All arrays are dense and contiguous; y must not overlap the inputs; `table` may be null where shape.rows is 0. heads
// and head_dim are at least 1, head_dim at most kMaxAttentionHeadDim. Distinct ranges may run concurrently, and how the
// parts are split never changes a bit of the result. The memory used does not grow with the number of tokens. Any value
// is allowed, NaN and infinities included; they spread as far as the arithmetic of their heads carries them. An
// unsupported `isa` falls back to a supported one.
//
// The softmax is computed over blocks of keys with a running maximum and a running sum, as published by Milakov and
// Gimelshein ("Online normalizer calculation for softmax", 2018) and in FlashAttention (Dao et al., 2022).
void relative_position_attention(const AttentionShape& shape, AttentionElement element, float scale, const void* qkv,
                                 const float* table, void* y, int64_t task_begin, int64_t task_end,
                                 CpuIsa isa = selected_cpu_isa()) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_KERNEL_H_
