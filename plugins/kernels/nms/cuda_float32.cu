#include "gpu_device.cuh"
#include "nms/cuda_kernel.h"
#include "nms/cuda_launch.h"

namespace lit_deploy::cuda {
namespace {

__global__ void __launch_bounds__(kNmsRankThreads) rank_kernel(const Suppression suppression) {
  GpuDevice device;
  rank_candidates(device, suppression);
}

__global__ void __launch_bounds__(kNmsTile) compare_kernel(const NmsRound round) {
  __shared__ NmsCorners others[kNmsTile];
  GpuDevice device;
  compare_boxes(device, round, others);
}

__global__ void __launch_bounds__(kNmsTile) settle_kernel(const NmsRound round) {
  __shared__ SettleShared shared;
  GpuDevice device;
  settle_round(device, round, shared);
}

}  // namespace

cudaError_t launch_rank(const NmsCut& cut, const Suppression& suppression, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(rank_kernel), cut.rank_blocks, kNmsRankThreads, suppression, stream);
}

cudaError_t launch_compare(const NmsCut& cut, const NmsRound& round, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(compare_kernel), cut.compare_blocks, kNmsTile, round, stream);
}

cudaError_t launch_settle(const NmsRound& round, cudaStream_t stream) {
  return launch(reinterpret_cast<const void*>(settle_kernel), 1, kNmsTile, round, stream);
}

}  // namespace lit_deploy::cuda
