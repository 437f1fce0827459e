// The kernel on a real device, and the launch of one element type.
#ifndef LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_DEVICE_CUH_
#define LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_DEVICE_CUH_

#include "gpu_device.cuh"
#include "multi_level_roi_align/cuda_kernel.h"
#include "multi_level_roi_align/cuda_launch.h"

namespace lit_deploy::cuda {

template <typename E>
__global__ void __launch_bounds__(kRoiThreads) roi_align_kernel(const RoiAlign<typename E::Storage> regions) {
  GpuDevice device;
  pool_regions<E>(device, regions);
}

template <typename E>
cudaError_t launch_element(const RoiAlignCut& cut, const RoiAlign<typename E::Storage>& regions, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(roi_align_kernel<E>), cut.blocks, kRoiThreads, regions, stream);
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_MULTI_LEVEL_ROI_ALIGN_CUDA_DEVICE_CUH_
