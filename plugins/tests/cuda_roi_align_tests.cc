// The source of RoIAlign's CUDA kernel, emulated on the CPU (emulated_device.h), on the cases of the CPU's kernel.
#include <cstdint>
#include <memory>
#include <vector>

#include "check.h"
#include "emulated_device.h"
#include "multi_level_roi_align/cuda_kernel.h"
#include "roi_align_cases.h"

namespace {

using namespace roi_align_cases;
using namespace lit_deploy::cuda;

template <typename T>
struct ElementOf {
  using Type = Float16;
};
template <>
struct ElementOf<float> {
  using Type = Float32;
};

// One launch. A block takes its threads' order from `schedule`; whether another order gives other bits is a test.
template <typename T>
std::vector<T> run(const Case<T>& c, Schedule schedule) {
  std::vector<T> y = unset_output<T>(c.shape);
  const void* const levels[kRoiLevels] = {c.maps[0].data(), c.maps[1].data(), c.maps[2].data(), c.maps[3].data()};
  RoiAlignCut cut;
  const bool taken = cut_roi_align(c.shape, sizeof(T), c.rois.data(), levels, y.data(), cut);
  CHECK(taken, "the arguments are refused");
  if (!taken) return y;
  const auto regions = make_roi_align<T>(c.shape, cut, c.rois.data(), levels, y.data());
  Block group(kRoiThreads, schedule);
  for (int64_t block = 0; block < cut.blocks; ++block) {
    const char* error = group.run([&](int thread) {
      EmulatedDevice device(group, thread, block);
      pool_regions<typename ElementOf<T>::Type>(device, regions);
    });
    CHECK(error == nullptr, "%s", error);
    if (error != nullptr) return y;
  }
  return y;
}

template <typename T>
void test_element(const char* name) {
  const int before = counts().passed;
  const Kernel<T> kernel{name, [](const Case<T>& c) { return run(c, Schedule::kForward); }};
  test_random(kernel);
  test_edges(kernel);

  Case<T> c(19, 60, 70, 7, 5);
  c.add(10, 20, 200, 170);
  c.add(-30, -5, 90, 400);
  c.add(3, 4, 5, 7);
  const std::vector<T> y = run(c, Schedule::kForward);
  CHECK(y == run(c, Schedule::kShuffled), "%s: the order of the threads gives other bits", name);
  std::printf("RoIAlign, %s: %d checks passed\n", name, counts().passed - before);
}

alignas(16) float memory[8] = {};

void test_cut() {
  const RoiAlignShape good{3, 256, {200, 100, 50, 25}, {304, 152, 76, 38}, 7};
  RoiAlignCut cut;
  const auto taken = [&](const RoiAlignShape& shape, const float* rois = memory, const void* level = memory,
                         void* y = memory) {
    const void* const levels[kRoiLevels] = {memory, memory, level, memory};
    return cut_roi_align(shape, 4, rois, levels, y, cut);
  };
  CHECK(taken(good) && cut.items == 32 * 49 && cut.blocks_per_region == 13 && cut.blocks == 39, "the box head");
  CHECK(!taken(good, nullptr) && !taken(good, memory, nullptr) && !taken(good, memory, memory, nullptr), "null");
  char* const odd = reinterpret_cast<char*>(memory) + 2;
  CHECK(!taken(good, memory, odd) && !taken(good, memory, memory, odd), "misaligned");
  const auto changed = [&](auto change) {
    RoiAlignShape shape = good;
    change(shape);
    return taken(shape);
  };
  CHECK(!changed([](RoiAlignShape& s) { s.rois = -1; }), "fewer regions than none");
  CHECK(!changed([](RoiAlignShape& s) { s.channels = 0; }), "no channel");
  CHECK(!changed([](RoiAlignShape& s) { s.height[2] = 0; }), "an empty map");
  CHECK(!changed([](RoiAlignShape& s) { s.width[3] = (int64_t{1} << 30) + 1; }), "a map too wide");
  CHECK(!changed([](RoiAlignShape& s) { s.output_size = 0; }), "no bin");
  CHECK(!changed([](RoiAlignShape& s) { s.output_size = 1 << 14; }), "a region of more than 2^31 elements");
  CHECK(!changed([](RoiAlignShape& s) { s.rois = int64_t{1} << 28; }), "more blocks than a grid has");
  CHECK(!changed([](RoiAlignShape& s) { s.channels = INT64_MAX; }), "more elements than any memory");
  RoiAlignShape none = good;
  none.rois = 0;
  CHECK(taken(none, nullptr, memory, nullptr) && cut.blocks == 0, "no region is no work");
}

}  // namespace

void test_cuda_roi_align() {
  test_cut();
  test_element<float>("float32");
  test_element<uint16_t>("float16");
}
