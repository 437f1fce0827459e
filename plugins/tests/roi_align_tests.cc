// RoIAlign over a pyramid on every instruction set and both types.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "check.h"
#include "multi_level_roi_align/kernel.h"
#include "roi_align_cases.h"

namespace {

using namespace roi_align_cases;
using lit_deploy::CpuIsa;

constexpr CpuIsa kIsas[] = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512};

// `step` channels at a time.
template <typename T>
std::vector<T> run(const Case<T>& c, CpuIsa isa, int64_t step) {
  std::vector<T> y = unset_output<T>(c.shape);
  const T* levels[kRoiLevels] = {c.maps[0].data(), c.maps[1].data(), c.maps[2].data(), c.maps[3].data()};
  lit_deploy::RoiAlignPlan* const plan = lit_deploy::make_roi_align_plan(c.shape, c.rois.data());
  CHECK(plan != nullptr, "out of memory");
  if (plan == nullptr) return y;
  for (int64_t channel = 0; channel < c.shape.channels; channel += step) {
    const int64_t end = std::min(channel + step, c.shape.channels);
    lit_deploy::multi_level_roi_align(*plan, levels, y.data(), channel, end, isa);
  }
  lit_deploy::free_roi_align_plan(plan);
  return y;
}

template <typename T>
void test_isa(CpuIsa isa) {
  const Kernel<T> kernel{cpu_isa_name(isa), [isa](const Case<T>& c) {
                           std::vector<T> y = run(c, isa, c.shape.channels);
                           CHECK(y == run(c, isa, 1), "%s: split by channels, other bits", cpu_isa_name(isa));
                           return y;
                         }};
  test_random(kernel);
  test_edges(kernel);
}

}  // namespace

void test_roi_align() {
  for (CpuIsa isa : kIsas) {
    if (!lit_deploy::cpu_isa_supported(isa)) continue;
    const int before = counts().passed;
    test_isa<float>(isa);
    test_isa<uint16_t>(isa);
    std::printf("%s: %d checks passed\n", cpu_isa_name(isa), counts().passed - before);
  }
}
