// Between the dispatcher and the compilations of the kernel, one per instruction set.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_JOB_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_JOB_H_

#include <cstdint>

#include "relative_position_attention/kernel.h"

namespace lit_deploy {

// What a part of the work may hold on the stack, in floats: a tile of keys or of values, the queries or the outputs.
constexpr int64_t kAttentionTile = 12288;
constexpr int64_t kAttentionQueryTile = 24576;

// Heads are padded to whole vectors of the widest instruction set, and parts are whole groups of its queries.
constexpr int64_t kAttentionLanes = 16;
constexpr int64_t kAttentionGroup = 32;
constexpr int64_t kMaxAttentionQueries = 768;

// Where the running maximum of the logits begins.
constexpr float kLowestLogit = -3.402823466e38f;

// The arguments of relative_position_attention(), and the queries of a part: a multiple of kAttentionGroup.
// Has no functions: anything inline here would be compiled once per instruction set and merged by the linker.
struct AttentionJob {
  AttentionShape shape;
  AttentionElement element;
  float scale;
  const void* qkv;
  const float* table;
  void* y;
  int64_t task_begin;
  int64_t task_end;
  int64_t queries;
};

namespace portable {
void attend(const AttentionJob& job) noexcept;
}
namespace avx2 {
void attend(const AttentionJob& job) noexcept;
}
namespace avx512 {
void attend(const AttentionJob& job) noexcept;
}
namespace amx {
void attend(const AttentionJob& job) noexcept;  // of bfloat16 alone
}

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_JOB_H_
