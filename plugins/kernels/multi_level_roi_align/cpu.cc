// Chooses the compilation of the kernel that this machine runs best.
#include "multi_level_roi_align/kernel.h"
#include "multi_level_roi_align/plan.h"

namespace lit_deploy {
namespace {

template <typename T>
void dispatch(const RoiAlignJob<T>& job, CpuIsa isa) {
  isa = supported_cpu_isa(isa);
#ifdef LIT_DEPLOY_X86
  if (isa == CpuIsa::kAvx512) return avx512::pool(job);
  if (isa == CpuIsa::kAvx2) return avx2::pool(job);
#endif
  portable::pool(job);
}

}  // namespace

void multi_level_roi_align(const RoiAlignPlan& plan, const float* const levels[kRoiLevels], float* y,
                           int64_t channel_begin, int64_t channel_end, CpuIsa isa) noexcept {
  dispatch(RoiAlignJob<float>{&plan, levels, y, channel_begin, channel_end}, isa);
}

void multi_level_roi_align(const RoiAlignPlan& plan, const uint16_t* const levels[kRoiLevels], uint16_t* y,
                           int64_t channel_begin, int64_t channel_end, CpuIsa isa) noexcept {
  dispatch(RoiAlignJob<uint16_t>{&plan, levels, y, channel_begin, channel_end}, isa);
}

}  // namespace lit_deploy
