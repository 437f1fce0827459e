#include "cuda_emulation.h"

#include <cstring>
#include <memory>

namespace lit_deploy::cuda {
namespace {

template <typename E>
const char* emulate_grid(const Plan& plan, int64_t first, const Merging<typename E::Storage>& merging,
                         Schedule schedule) {
  using SharedMemory = Shared<typename E::Storage>;
  Block group(plan.warps * kWarpLanes, schedule);
  const auto shared = std::make_unique<SharedMemory>();
  for (int64_t block = first; block < plan.blocks; ++block) {
    std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(SharedMemory));  // NaN: what is read must be written
    const char* error = group.run([&](int thread) {
      EmulatedDevice device(group, thread, block);
      if (plan.vectors) {
        merge_tile<E, true>(device, merging, *shared);
      } else {
        merge_tile<E, false>(device, merging, *shared);
      }
    });
    if (error != nullptr) return error;
  }
  return nullptr;
}

}  // namespace

const char* emulate(Float32, const Plan& plan, int64_t first, const Merging<float>& merging, Schedule schedule) {
  return emulate_grid<Float32>(plan, first, merging, schedule);
}

const char* emulate(Float16, const Plan& plan, int64_t first, const Merging<uint16_t>& merging, Schedule schedule) {
  return emulate_grid<Float16>(plan, first, merging, schedule);
}

const char* emulate(BFloat16, const Plan& plan, int64_t first, const Merging<uint16_t>& merging, Schedule schedule) {
  return emulate_grid<BFloat16>(plan, first, merging, schedule);
}

}  // namespace lit_deploy::cuda
