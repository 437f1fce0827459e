// Vectors of AVX-512F as simd.h wants them, for avx512.cc and amx.cc. In an anonymous namespace, like all that depends
// on an instruction set.
#ifndef LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_AVX512_H_
#define LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_AVX512_H_

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 header initialises "undefined" registers with themselves, which its warnings then report.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kLanes = 16;
constexpr int kRows = 8;
constexpr int kVectors = 3;  // 24 accumulators, three vectors of keys, one query: 28 of 32 registers
using Vec = __m512;
typedef uint32_t Bits __attribute__((vector_size(sizeof(Vec))));

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec load_lanes(Vec v, const float* p, int begin, int end) {
  const __mmask16 lanes = static_cast<__mmask16>((1u << end) - (1u << begin));
  return _mm512_mask_loadu_ps(v, lanes, p);
}

inline Vec load_half(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
inline Vec load_bfloat16(const void* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// GCC would fold the load into each multiply-add and so repeat it; loads, not arithmetic, would then be the limit.
inline Vec spread(const float* p) {
  Vec v = _mm512_set1_ps(*p);
  __asm__("" : "+v"(v));
  return v;
}

template <int S>
inline void exchange(Vec& a, Vec& b) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i step = _mm512_set1_epi32(S);
  const __mmask16 upper = _mm512_test_epi32_mask(lane, step);
  // Lanes of the two sources together: 0 ... 15 are those of a, 16 ... 31 those of b.
  const __m512i low = _mm512_mask_add_epi32(lane, upper, lane, _mm512_set1_epi32(16 - S));
  const __m512i high = _mm512_mask_add_epi32(_mm512_add_epi32(lane, step), upper, lane, _mm512_set1_epi32(16));
  const Vec first = _mm512_permutex2var_ps(a, low, b);
  b = _mm512_permutex2var_ps(a, high, b);
  a = first;
}

inline Vec maximum(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline float highest_lane(Vec v) { return _mm512_reduce_max_ps(v); }
inline float sum_lanes(Vec v) { return _mm512_reduce_add_ps(v); }

}  // namespace

#endif  // LIT_DEPLOY_KERNELS_RELATIVE_POSITION_ATTENTION_AVX512_H_
