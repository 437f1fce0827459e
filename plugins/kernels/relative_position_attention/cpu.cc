// Splits the work, and chooses the compilation of the kernel that this machine runs best.
#include <algorithm>

#include "relative_position_attention/job.h"
#include "relative_position_attention/kernel.h"

namespace lit_deploy {
namespace {

int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Queries of one part. Each part packs all keys and values of its head again, so the more the better; but a map of few
// heads must still give every thread something to do, whoever the threads belong to.
int64_t queries_per_task(const AttentionShape& shape) {
  constexpr int64_t kEnoughTasks = 32, kFewestQueries = 96;
  const int64_t padded = divide_up(shape.head_dim, kAttentionLanes) * kAttentionLanes;
  const int64_t fits = kAttentionQueryTile / padded / kAttentionGroup * kAttentionGroup;
  const int64_t most = std::min(fits, kMaxAttentionQueries);
  const int64_t wanted = divide_up(kEnoughTasks, std::max<int64_t>(1, shape.batch * shape.heads));
  const int64_t parts = std::max(divide_up(shape.tokens, most), std::min(wanted, shape.tokens / kFewestQueries));
  const int64_t each = divide_up(shape.tokens, std::max<int64_t>(1, parts));
  return std::max<int64_t>(1, divide_up(each, kAttentionGroup)) * kAttentionGroup;
}

}  // namespace

int64_t attention_tasks(const AttentionShape& shape) noexcept {
  return shape.batch * shape.heads * divide_up(shape.tokens, queries_per_task(shape));
}

void relative_position_attention(const AttentionShape& shape, AttentionElement element, float scale, const void* qkv,
                                 const float* table, void* y, int64_t task_begin, int64_t task_end,
                                 CpuIsa isa) noexcept {
  const AttentionJob job{shape, element, scale, qkv, table, y, task_begin, task_end, queries_per_task(shape)};
  isa = supported_cpu_isa(isa, element == AttentionElement::kBFloat16 ? CpuIsa::kAmx : CpuIsa::kAvx512);
#ifdef LIT_DEPLOY_AMX
  if (isa == CpuIsa::kAmx) return amx::attend(job);
#endif
#ifdef LIT_DEPLOY_X86
  if (isa == CpuIsa::kAvx512) return avx512::attend(job);
  if (isa == CpuIsa::kAvx2) return avx2::attend(job);
#endif
  portable::attend(job);
}

}  // namespace lit_deploy
