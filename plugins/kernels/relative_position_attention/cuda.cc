// Checks the arguments and chooses the compilation of the kernel.
#include "relative_position_attention/cuda.h"

#include "relative_position_attention/cuda_launch.h"

namespace lit_deploy {

static_assert(kMaxCudaAttentionHeadDim == cuda::kSliceDims * cuda::kMaxSlices, "what cuda.h promises");

cudaError_t relative_position_attention_cuda(const AttentionShape& shape, CudaElement element, float scale,
                                             const void* qkv, const float* table, void* y,
                                             cudaStream_t stream) noexcept {
  if (element < CudaElement::kFloat32 || element > CudaElement::kBFloat16) return cudaErrorInvalidValue;
  const int size = element == CudaElement::kFloat32 ? 4 : 2;
  cuda::AttentionCut cut;
  if (!cuda::cut_attention(shape, size, qkv, table, y, cut)) return cudaErrorInvalidValue;
  if (cut.blocks == 0) return cudaSuccess;
  const auto attention = [&](auto zero) {
    return cuda::make_attention<decltype(zero)>(shape, cut, scale, qkv, table, y);
  };
  if (cut.tensor_cores) {
    return element == CudaElement::kFloat16 ? cuda::launch_tensor_float16(cut, attention(uint16_t{}), stream)
                                            : cuda::launch_tensor_bfloat16(cut, attention(uint16_t{}), stream);
  }
  switch (element) {
    case CudaElement::kFloat16:
      return cuda::launch_float16(cut, attention(uint16_t{}), stream);
    case CudaElement::kBFloat16:
      return cuda::launch_bfloat16(cut, attention(uint16_t{}), stream);
    default:
      return cuda::launch_float32(cut, attention(float{}), stream);
  }
}

}  // namespace lit_deploy
