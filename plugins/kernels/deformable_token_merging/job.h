// Between the dispatcher and the compilations of the kernel, one per instruction set.
#ifndef LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_JOB_H_
#define LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_JOB_H_

#include <cstdint>

#include "deformable_token_merging/kernel.h"

namespace lit_deploy {

// The arguments of deformable_token_merging(); T is float, or uint16_t for the bits of a half.
// Has no functions: anything inline here would be compiled once per instruction set and merged by the linker.
template <typename T>
struct MergingJob {
  MergingShape shape;
  const T* x;
  const T* offset_weight;
  const T* offset_bias;
  T* y;
  int64_t row_begin;
  int64_t row_end;
};

namespace portable {
void merge(const MergingJob<float>& job) noexcept;
void merge(const MergingJob<uint16_t>& job) noexcept;
}  // namespace portable

namespace avx2 {
void merge(const MergingJob<float>& job) noexcept;
void merge(const MergingJob<uint16_t>& job) noexcept;
}  // namespace avx2

namespace avx512 {
void merge(const MergingJob<float>& job) noexcept;
void merge(const MergingJob<uint16_t>& job) noexcept;
}  // namespace avx512

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_DEFORMABLE_TOKEN_MERGING_JOB_H_
