// The sort is CUB's, which comes with the CUDA toolkit.
#include <cub/device/device_radix_sort.cuh>

#include "nms/cuda_launch.h"

namespace lit_deploy::cuda {

cudaError_t sort_keys(void* temporary, size_t& bytes, const uint64_t* keys, uint64_t* sorted, int64_t count,
                      cudaStream_t stream) {
  constexpr int kBits = 8 * sizeof(uint64_t);
  return cub::DeviceRadixSort::SortKeysDescending(temporary, bytes, keys, sorted, static_cast<int>(count), 0, kBits,
                                                  stream);
}

}  // namespace lit_deploy::cuda
