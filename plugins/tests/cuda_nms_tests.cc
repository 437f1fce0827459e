// The source of the suppression's CUDA kernels, emulated on the CPU (emulated_device.h), on the cases of the CPU's
// kernel. In place of CUB's sort stands the standard library's.
#include <cstring>
#include <functional>
#include <map>
#include <utility>

#include "emulated_device.h"
#include "nms/cuda_kernel.h"
#include "nms_cases.h"

namespace {

using namespace nms_cases;
using namespace lit_deploy::cuda;

constexpr int64_t kMostBoxes = int64_t{1} << 24;

// Every block of a launch, with shared memory that nothing has written to.
template <typename Shared, typename Body>
bool launch(int64_t blocks, int threads, Schedule schedule, Body body) {
  static std::map<std::pair<int, Schedule>, Block> groups;  // kept: their stacks are large, and the launches many
  Block& group = groups.try_emplace({threads, schedule}, threads, schedule).first->second;
  const auto shared = std::make_unique<Shared>();
  for (int64_t block = 0; block < blocks; ++block) {
    std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(Shared));
    const char* error = group.run([&](int thread) {
      EmulatedDevice device(group, thread, block);
      body(device, *shared);
    });
    CHECK(error == nullptr, "%s", error);
    if (error != nullptr) return false;
  }
  return true;
}

// What nms_cuda() enqueues, with rounds of at most `tiles` tiles.
std::vector<int64_t> run(const Boxes& boxes, const NmsOptions& options, uint32_t tiles, Schedule schedule) {
  const int64_t count = static_cast<int64_t>(boxes.scores.size());
  std::vector<int64_t> indices(static_cast<size_t>(options.max_output), -1);
  NmsCut cut;
  const bool taken = cut_nms(options, count, kMostBoxes, cut, tiles) &&
                     nms_pointers_fit(count, options.max_output, boxes.corners.data(), boxes.scores.data(),
                                      boxes.classes.data(), indices.data());
  CHECK(taken, "the arguments are refused");
  if (!taken || cut.rounds == 0) return indices;
  // As memory comes, but for what is zeroed; its end is that of a heap block.
  std::vector<uint64_t> memory(cut.bytes / sizeof(uint64_t), 0xa5a5a5a5a5a5a5a5u);
  std::memset(memory.data(), 0, cut.keys);
  const Suppression s = make_suppression(options, count, cut, boxes.corners.data(), boxes.scores.data(),
                                         boxes.classes.data(), indices.data(), memory.data());
  struct Nothing {};
  bool well = launch<Nothing>(cut.rank_blocks, kNmsRankThreads, schedule,
                              [&](EmulatedDevice& device, Nothing&) { rank_candidates(device, s); });
  uint64_t* const sorted = memory.data() + cut.sorted / sizeof(uint64_t);
  std::copy(s.keys, s.keys + count, sorted);
  std::sort(sorted, sorted + count, std::greater<uint64_t>());
  struct Others {
    NmsCorners boxes[kNmsTile];
  };
  for (int64_t round = 0; round < cut.rounds && well; ++round) {
    const NmsRound r{s, static_cast<uint32_t>(round) * cut.tiles * kNmsTile};
    well = launch<Others>(cut.compare_blocks, kNmsTile, schedule, [&](EmulatedDevice& device, Others& shared) {
      compare_boxes(device, r, shared.boxes);
    });
    well = well && launch<SettleShared>(1, kNmsTile, schedule, [&](EmulatedDevice& device, SettleShared& shared) {
             settle_round(device, r, shared);
           });
  }
  return indices;
}

alignas(256) int64_t memory[8] = {};

void test_cut() {
  NmsCut cut;
  const auto taken = [&](int64_t count, int64_t max_output) {
    return cut_nms({0.5f, 0.05f, max_output}, count, kMostBoxes, cut);
  };
  CHECK(taken(4819, 1000) && cut.most == 1000 && cut.rounds == 2 && cut.rank_blocks == 19, "the proposals");
  CHECK(cut.compare_blocks == 64 * 72 && cut.bytes > 2 * 4819 * 8 + 1000 * 20 + (1 << 21), "the proposals");
  CHECK(taken(100, 1 << 20) && cut.most == 100, "more places than boxes");
  CHECK(taken(kMostBoxes, 1) && cut.rounds == 4096, "the most boxes");
  CHECK(taken(0, 9) && cut.rounds == 0 && taken(9, 0) && cut.rounds == 0, "nothing to do");
  CHECK(!taken(-1, 9) && !taken(kMostBoxes + 1, 9) && !taken(9, -1) && !taken(9, (int64_t{1} << 32) + 1), "refused");
  const auto fit = [](const void* boxes, const void* scores, const void* classes, const void* indices) {
    return nms_pointers_fit(1, 1, static_cast<const float*>(boxes), static_cast<const float*>(scores),
                            static_cast<const int64_t*>(classes), static_cast<const int64_t*>(indices));
  };
  const char* const odd = reinterpret_cast<const char*>(memory) + 2;
  CHECK(fit(memory, memory, memory, memory), "aligned");
  CHECK(!fit(nullptr, memory, memory, memory) && !fit(memory, nullptr, memory, memory), "null");
  CHECK(!fit(memory, memory, nullptr, memory) && !fit(memory, memory, memory, nullptr), "null");
  CHECK(!fit(odd, memory, memory, memory) && !fit(memory, odd, memory, memory), "misaligned");
  CHECK(!fit(memory, memory, odd, memory) && !fit(memory, memory, memory, odd), "misaligned");
  CHECK(nms_pointers_fit(0, 0, nullptr, nullptr, nullptr, nullptr), "no box");
}

}  // namespace

void test_cuda_nms() {
  const int before = counts().passed;
  test_cut();
  std::mt19937 generator(7);
  const Boxes many = random_boxes(generator, 1000, 5, 90, true);
  // Rounds of one tile, of several and of all: the smaller they are, the more comes over from one to the next.
  for (uint32_t tiles : {1u, 3u, kNmsTiles}) {
    const Kernel kernel{"CUDA", [tiles](const Boxes& boxes, const NmsOptions& options) {
                          return run(boxes, options, tiles, Schedule::kForward);
                        }};
    test_random(kernel, 70);
    test_edges(kernel);
    for (int64_t most : {10, 150, 2000}) check_equal(many, {0.5f, 0.05f, most}, kernel, "many boxes");
  }
  const NmsOptions options{0.3f, 0.05f, 300};
  const auto forward = run(many, options, 3, Schedule::kForward);
  CHECK(forward == run(many, options, 3, Schedule::kBackward) && forward == run(many, options, 3, Schedule::kShuffled),
        "the order of the threads gives other boxes");
  std::printf("suppression: %d checks passed\n", counts().passed - before);
}
