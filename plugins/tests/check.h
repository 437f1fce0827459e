// What the tests need of a framework: CHECK counts, and says where and why it failed.
#ifndef LIT_DEPLOY_TESTS_CHECK_H_
#define LIT_DEPLOY_TESTS_CHECK_H_

#include <cstdio>

struct Counts {
  int passed = 0;
  int failed = 0;
};

inline Counts& counts() {
  static Counts instance;
  return instance;
}

// CHECK(condition, "format", ...): the text is printed only on failure.
#define CHECK(condition, ...)                                                \
  do {                                                                       \
    if (condition) {                                                         \
      ++counts().passed;                                                     \
    } else {                                                                 \
      ++counts().failed;                                                     \
      std::printf("%s:%d: failed: %s: ", __FILE__, __LINE__, #condition);    \
      std::printf(__VA_ARGS__);                                              \
      std::printf("\n");                                                     \
    }                                                                        \
  } while (false)

// The groups of tests that main() offers.
void test_merging();
void test_attention();
void test_nms();
void test_roi_align();
void test_cpu_isa();
void test_cuda();
void test_cuda_roi_align();
void test_cuda_attention();
void test_cuda_nms();
void test_golden(const char* path);

#endif  // LIT_DEPLOY_TESTS_CHECK_H_
