// Chooses the compilation of the kernel that this machine runs best.
#include "deformable_token_merging/kernel.h"
#include "deformable_token_merging/job.h"

namespace lit_deploy {
namespace {

template <typename T>
void dispatch(const MergingJob<T>& job, CpuIsa isa) {
  isa = supported_cpu_isa(isa);
#ifdef LIT_DEPLOY_X86
  if (isa == CpuIsa::kAvx512) return avx512::merge(job);
  if (isa == CpuIsa::kAvx2) return avx2::merge(job);
#endif
  portable::merge(job);
}

}  // namespace

void deformable_token_merging(const MergingShape& shape, const float* x, const float* offset_weight,
                              const float* offset_bias, float* y, int64_t row_begin, int64_t row_end,
                              CpuIsa isa) noexcept {
  dispatch(MergingJob<float>{shape, x, offset_weight, offset_bias, y, row_begin, row_end}, isa);
}

void deformable_token_merging(const MergingShape& shape, const uint16_t* x, const uint16_t* offset_weight,
                              const uint16_t* offset_bias, uint16_t* y, int64_t row_begin, int64_t row_end,
                              CpuIsa isa) noexcept {
  dispatch(MergingJob<uint16_t>{shape, x, offset_weight, offset_bias, y, row_begin, row_end}, isa);
}

}  // namespace lit_deploy
