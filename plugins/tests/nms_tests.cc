// Non-maximum suppression on every instruction set.
#include "nms_cases.h"

namespace {

using namespace nms_cases;
using lit_deploy::CpuIsa;

constexpr CpuIsa kIsas[] = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512};

std::vector<int64_t> run(const Boxes& boxes, const NmsOptions& options, CpuIsa isa) {
  // Exactly sized heap blocks: AddressSanitizer sees any access beside them.
  std::vector<int64_t> indices(static_cast<size_t>(options.max_output), 99);
  const bool done = lit_deploy::nms(options, static_cast<int64_t>(boxes.scores.size()), boxes.corners.data(),
                                    boxes.scores.data(), boxes.classes.data(), indices.data(), isa);
  CHECK(done, "out of memory");
  return indices;
}

}  // namespace

void test_nms() {
  for (CpuIsa isa : kIsas) {
    if (!lit_deploy::cpu_isa_supported(isa)) continue;
    const int before = counts().passed;
    const Kernel kernel{cpu_isa_name(isa), [isa](const Boxes& boxes, const NmsOptions& options) {
                          return run(boxes, options, isa);
                        }};
    test_random(kernel, 200);
    test_edges(kernel);
    // More than one portion of the queue and many blocks of kept boxes.
    std::mt19937 generator(5);
    check_equal(random_boxes(generator, 20000, 80, 1300, false), {0.5f, 0.05f, 3000}, kernel, "many boxes");
    check_equal(random_boxes(generator, 12000, 2, 60, true), {0.5f, 0.05f, 1000}, kernel, "crowded boxes");
    std::printf("%s: %d checks passed\n", kernel.name, counts().passed - before);
  }
}
