// What the CUDA entry points of all operators share.
#ifndef LIT_DEPLOY_KERNELS_CUDA_TYPES_H_
#define LIT_DEPLOY_KERNELS_CUDA_TYPES_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace lit_deploy {

enum class CudaElement : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

// True for the errors that another driver, another build of this library or doing without it mends: the driver is too
// old (or missing) for the CUDA runtime inside, or the library holds no code for this GPU.
bool is_cuda_mismatch(cudaError_t error) noexcept;

}  // namespace lit_deploy

#endif  // LIT_DEPLOY_KERNELS_CUDA_TYPES_H_
