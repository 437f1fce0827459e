// Usage: lit_deploy_kernel_tests merging | attention | nms | roi_align | cpu_isa | cuda | golden FILE
#include <cstring>

#include "check.h"

int main(int argc, char** argv) {
  const char* group = argc > 1 ? argv[1] : "";
  if (std::strcmp(group, "merging") == 0) {
    test_merging();
  } else if (std::strcmp(group, "attention") == 0) {
    test_attention();
  } else if (std::strcmp(group, "nms") == 0) {
    test_nms();
  } else if (std::strcmp(group, "roi_align") == 0) {
    test_roi_align();
  } else if (std::strcmp(group, "cpu_isa") == 0) {
    test_cpu_isa();
  } else if (std::strcmp(group, "cuda") == 0) {
    test_cuda();
    test_cuda_roi_align();
    test_cuda_attention();
    test_cuda_nms();
  } else if (std::strcmp(group, "golden") == 0 && argc == 3) {
    test_golden(argv[2]);
  } else {
    std::fprintf(stderr, "usage: %s merging | attention | nms | roi_align | cpu_isa | cuda | golden FILE\n", argv[0]);
    return 2;
  }
  std::printf("%s: %d passed, %d failed\n", group, counts().passed, counts().failed);
  return counts().failed == 0 && counts().passed > 0 ? 0 : 1;
}
