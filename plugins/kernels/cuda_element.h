// What the CUDA kernels of all operators are written against; no CUDA header, as the emulation tests use it, too.
//
// A kernel is one thread's view of it, written against a class Device of primitives, so that the same text is compiled by
// nvcc for the GPU (gpu_device.cuh) and by any C++ compiler for the emulation tests (tests/emulated_device.h). Device
// offers, E being an element below:
//
//   thread() threads() block()            indices and size, one-dimensional
//   sync() sync_warp()                    barriers of the block and of the warp
//   shuffle_xor(value, mask)              the float that lane (lane ^ mask) passes
//   mma(E, sum, a, b)                     sum += a * b, the 16x8 by 16 product of mma.sync.m16n8k16 (16-bit elements)
//   load16(p) store16(p, words)           16 aligned bytes; the store is not expected to be read again here
//   multiply_high(a, b)                   the upper 32 bits of a * b, unsigned
//   product(a, b)                         a * b in float32, rounded: never fused with the sum that it goes into
//   atomic_max(p, value) atomic_or(p, v)  *p becomes the larger of both (32 bits), or both together (64 bits), in one step
//   load(p)                               one element, read-only for the whole launch
//   widen(E, word, pair) narrow(E, pair)  two 16-bit elements in a 32-bit word <-> two floats, rounded to nearest even
#ifndef LIT_DEPLOY_KERNELS_CUDA_ELEMENT_H_
#define LIT_DEPLOY_KERNELS_CUDA_ELEMENT_H_

#include <cstdint>

#ifdef __CUDACC__
#define LIT_DEVICE __device__ __forceinline__
#define LIT_UNROLL _Pragma("unroll")
#else
#define LIT_DEVICE inline
#define LIT_UNROLL
#endif

namespace lit_deploy::cuda {

constexpr int kWarpLanes = 32;
constexpr int kVectorBytes = 16;                        // the widest access of one thread
constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;  // of CUDA's gridDim.x

struct Float32 {
  using Storage = float;
};
struct Float16 {
  using Storage = uint16_t;
};
struct BFloat16 {
  using Storage = uint16_t;
};

struct alignas(kVectorBytes) Words {
  uint32_t word[4];
};

inline bool is_aligned(const void* p, int bytes) {
  return reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes) == 0;
}

template <typename E, typename Device>
LIT_DEVICE float load_float(Device& device, const typename E::Storage* p) {
  if constexpr (sizeof(typename E::Storage) == sizeof(float)) {
    return device.load(p);
  } else {
    float pair[2];
    device.widen(E{}, device.load(p), pair);
    return pair[0];
  }
}

template <typename E, typename Device>
LIT_DEVICE void store_float(Device& device, typename E::Storage* p, float value) {
  if constexpr (sizeof(typename E::Storage) == sizeof(float)) {
    *p = value;
  } else {
    const float pair[2] = {value, 0.0f};
    *p = static_cast<typename E::Storage>(device.narrow(E{}, pair) & 0xffffu);
  }
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_CUDA_ELEMENT_H_
