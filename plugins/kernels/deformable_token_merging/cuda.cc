// Checks the arguments and chooses the compilation of the kernel.
#include "deformable_token_merging/cuda.h"

#include "deformable_token_merging/cuda_launch.h"

namespace lit_deploy {

cudaError_t deformable_token_merging_cuda(const MergingShape& shape, CudaElement element, const void* x,
                                          const void* offset_weight, const void* offset_bias, void* y,
                                          cudaStream_t stream) noexcept {
  using cuda::make_merging;
  if (element < CudaElement::kFloat32 || element > CudaElement::kBFloat16) return cudaErrorInvalidValue;
  const int size = element == CudaElement::kFloat32 ? 4 : 2;
  cuda::Plan plan;
  if (!cuda::make_plan(shape, size, x, offset_weight, offset_bias, y, plan)) return cudaErrorInvalidValue;
  if (plan.blocks == 0) return cudaSuccess;
  const auto merging = [&](auto zero) {
    return make_merging<decltype(zero)>(plan, shape, x, offset_weight, offset_bias, y);
  };
  switch (element) {
    case CudaElement::kFloat16:
      return cuda::launch_float16(plan, merging(uint16_t{}), stream);
    case CudaElement::kBFloat16:
      return cuda::launch_bfloat16(plan, merging(uint16_t{}), stream);
    default:
      return cuda::launch_float32(plan, merging(float{}), stream);
  }
}

cudaError_t check_deformable_token_merging_cuda() noexcept { return cuda::check_float32(); }

}  // namespace lit_deploy
