// The primitives of cuda_element.h on a real device.
#ifndef LIT_DEPLOY_KERNELS_GPU_DEVICE_CUH_
#define LIT_DEPLOY_KERNELS_GPU_DEVICE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "cuda_element.h"

namespace lit_deploy::cuda {

#define LIT_MMA(type, sum, a, b)                                                       \
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                  \
               ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"   \
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

struct GpuDevice {
  LIT_DEVICE uint32_t thread() const { return threadIdx.x; }
  LIT_DEVICE uint32_t threads() const { return blockDim.x; }
  LIT_DEVICE uint32_t block() const { return blockIdx.x; }

  LIT_DEVICE void sync() const { __syncthreads(); }
  LIT_DEVICE void sync_warp() const { __syncwarp(); }
  LIT_DEVICE float shuffle_xor(float value, int mask) const { return __shfl_xor_sync(0xffffffffu, value, mask); }

  LIT_DEVICE void mma(Float16, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const {
    LIT_MMA("f16", sum, a, b);
  }
  LIT_DEVICE void mma(BFloat16, float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) const {
    LIT_MMA("bf16", sum, a, b);
  }

  LIT_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) const { return __umulhi(a, b); }

  LIT_DEVICE float product(float a, float b) const { return __fmul_rn(a, b); }

  LIT_DEVICE void atomic_max(uint32_t* p, uint32_t value) const { atomicMax(p, value); }
  LIT_DEVICE void atomic_or(uint64_t* p, uint64_t value) const {
    atomicOr(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value));
  }

  template <typename T>
  LIT_DEVICE T load(const T* p) const {
    return __ldg(p);
  }
  LIT_DEVICE Words load16(const void* p) const {
    const uint4 v = __ldg(static_cast<const uint4*>(p));
    return Words{{v.x, v.y, v.z, v.w}};
  }
  LIT_DEVICE void store16(void* p, const Words& w) const {
    // Marked as the first to leave the caches: the tokens, which neighbouring patches read again, should stay.
    __stcs(static_cast<uint4*>(p), make_uint4(w.word[0], w.word[1], w.word[2], w.word[3]));
  }

  LIT_DEVICE void widen(Float16, uint32_t word, float (&pair)[2]) const {
    __half2 value;
    std::memcpy(&value, &word, sizeof value);
    const float2 wide = __half22float2(value);
    pair[0] = wide.x;
    pair[1] = wide.y;
  }
  LIT_DEVICE void widen(BFloat16, uint32_t word, float (&pair)[2]) const {  // a bfloat16 is the upper half of a float
    pair[0] = __uint_as_float(word << 16);
    pair[1] = __uint_as_float(word & 0xffff0000u);
  }
  LIT_DEVICE uint32_t narrow(Float16, const float (&pair)[2]) const {
    const __half2 value = __floats2half2_rn(pair[0], pair[1]);
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    return word;
  }
  LIT_DEVICE uint32_t narrow(BFloat16, const float (&pair)[2]) const {
    const __nv_bfloat162 value = __floats2bfloat162_rn(pair[0], pair[1]);
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    return word;
  }
};

#undef LIT_MMA

// Not <<<>>>: this returns the launch's own error, whatever an earlier call of the host program has left behind.
template <typename Arguments>
cudaError_t launch(const void* kernel, int64_t blocks, int threads, Arguments arguments, cudaStream_t stream) {
  void* pointers[] = {&arguments};
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), pointers,
                          0, stream);
}

}  // namespace lit_deploy::cuda

#endif  // LIT_DEPLOY_KERNELS_GPU_DEVICE_CUH_
