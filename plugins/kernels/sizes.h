// How large a tensor may be: every operator checks it before it calculates with sizes that a file declares.
#ifndef LIT_DEPLOY_KERNELS_SIZES_H_
#define LIT_DEPLOY_KERNELS_SIZES_H_

#include <cstddef>
#include <cstdint>

namespace lit_deploy {

// The most elements of a tensor, beyond any memory. It keeps every product of sizes that the operators form, in bytes,
// too, within int64_t.
constexpr int64_t kMaxElements = int64_t{1} << 48;
constexpr const char* kElementsFit = "at most 2^48 elements";

// Whether a tensor of these sizes has at most kMaxElements elements. Unknown sizes (-1) count as 1, and so do those of
// 0: the sizes beside one of 0 are multiplied all the same.
constexpr bool elements_fit(const int64_t* sizes, size_t rank) {
  int64_t left = kMaxElements;
  for (size_t i = 0; i < rank; ++i) {
    if (sizes[i] > left) return false;
    if (sizes[i] > 1) left /= sizes[i];
  }
  return true;
}

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_SIZES_H_
