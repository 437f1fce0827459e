#include "cuda_types.h"

namespace lit_deploy {

bool is_cuda_mismatch(cudaError_t error) noexcept {
  switch (error) {
    case cudaErrorInsufficientDriver:
    case cudaErrorCallRequiresNewerDriver:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
      return true;
    default:
      return false;
  }
}

}  // namespace lit_deploy
