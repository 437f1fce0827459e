// Checks the arguments and chooses the compilation of the kernel.
#include "deformable_token_merging_cuda.h"

#include "deformable_token_merging_cuda_launch.h"

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
  switch (element) {
    case CudaElement::kFloat16:
      return cuda::launch_float16(plan, make_merging<uint16_t>(shape, x, offset_weight, offset_bias, y), stream);
    case CudaElement::kBFloat16:
      return cuda::launch_bfloat16(plan, make_merging<uint16_t>(shape, x, offset_weight, offset_bias, y), stream);
    default:
      return cuda::launch_float32(plan, make_merging<float>(shape, x, offset_weight, offset_bias, y), stream);
  }
}

}  // namespace lit_deploy
