// The kernel for AVX-512F; compiled with that flag, called only where the CPU has it.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 header initialises "undefined" registers with themselves, which its warnings then report.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "deformable_token_merging/job.h"

namespace {

constexpr int kLanes = 16;
constexpr int kColumns = 3;  // 24 accumulators, three tokens, one weight: 28 of 32 registers
using Vec = __m512;

inline float load_one(const float* p) { return *p; }
inline float load_one(const uint16_t* p) { return _cvtsh_ss(*p); }
inline void store_one(float* p, float value) { *p = value; }
inline void store_one(uint16_t* p, float value) { *p = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

// GCC would fold the load into each multiply-add and so repeat it; loads, not arithmetic, would then be the limit.
template <typename T>
inline Vec load_shared(const T* p) {
  Vec v = load(p);
  __asm__("" : "+v"(v));
  return v;
}

inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline void store(uint16_t* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

inline __m256 fold(Vec v) {
  return _mm256_add_ps(_mm512_castps512_ps256(v),
                       _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)));
}

// Folds to 256 bits; three rounds of pairwise sums then leave eight totals, four from each half of the registers.
inline void sum_lanes(const Vec* acc, float* out) {
  __m256 pair[4];
  for (int i = 0; i < 4; ++i) pair[i] = _mm256_hadd_ps(fold(acc[2 * i]), fold(acc[2 * i + 1]));
  const __m256 low = _mm256_hadd_ps(pair[0], pair[1]);
  const __m256 high = _mm256_hadd_ps(pair[2], pair[3]);
  const __m256 even = _mm256_permute2f128_ps(low, high, 0x20);
  const __m256 odd = _mm256_permute2f128_ps(low, high, 0x31);
  _mm256_storeu_ps(out, _mm256_add_ps(even, odd));
}

}  // namespace

#include "deformable_token_merging/simd.h"

namespace lit_deploy::avx512 {
void merge(const MergingJob<float>& job) noexcept { merge_rows(job); }
void merge(const MergingJob<uint16_t>& job) noexcept { merge_rows(job); }
}  // namespace lit_deploy::avx512
