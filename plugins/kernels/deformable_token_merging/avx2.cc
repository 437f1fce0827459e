// The kernel for AVX2 with FMA and F16C; compiled with those flags, called only where the CPU has them.
#include <immintrin.h>

#include <cstdint>

#include "deformable_token_merging/job.h"

namespace {

constexpr int kLanes = 8;
constexpr int kColumns = 1;  // eight accumulators, one token, one weight: two columns would spill 16 registers
using Vec = __m256;

inline float load_one(const float* p) { return *p; }
inline float load_one(const uint16_t* p) { return _cvtsh_ss(*p); }
inline void store_one(float* p, float value) { *p = value; }
inline void store_one(uint16_t* p, float value) { *p = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
template <typename T>
inline Vec load_shared(const T* p) {
  return load(p);
}

inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline void store(uint16_t* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

// Three rounds of pairwise sums leave eight totals, four from each half of the registers.
inline void sum_lanes(const Vec* acc, float* out) {
  __m256 pair[4];
  for (int i = 0; i < 4; ++i) pair[i] = _mm256_hadd_ps(acc[2 * i], acc[2 * i + 1]);
  const __m256 low = _mm256_hadd_ps(pair[0], pair[1]);
  const __m256 high = _mm256_hadd_ps(pair[2], pair[3]);
  const __m256 even = _mm256_permute2f128_ps(low, high, 0x20);
  const __m256 odd = _mm256_permute2f128_ps(low, high, 0x31);
  _mm256_storeu_ps(out, _mm256_add_ps(even, odd));
}

}  // namespace

#include "deformable_token_merging/simd.h"

namespace lit_deploy::avx2 {
void merge(const MergingJob<float>& job) noexcept { merge_rows(job); }
void merge(const MergingJob<uint16_t>& job) noexcept { merge_rows(job); }
}  // namespace lit_deploy::avx2
