// The kernel for AVX2 with FMA and F16C; compiled with those flags, called only where the CPU has them.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kLanes = 8;
constexpr int kRows = 6;
constexpr int kVectors = 2;  // twelve accumulators, two vectors of keys, one query: 15 of 16 registers
using Vec = __m256;
typedef uint32_t Bits __attribute__((vector_size(sizeof(Vec))));

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec load_lanes(Vec v, const float* p, int begin, int end) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane);
  const __m256i lanes = _mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
  return _mm256_blendv_ps(v, _mm256_maskload_ps(p, lanes), _mm256_castsi256_ps(lanes));
}

inline Vec load_half(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
inline Vec load_bfloat16(const void* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

inline Vec spread(const float* p) { return _mm256_broadcast_ss(p); }

template <int S>
inline void exchange(Vec& a, Vec& b) {
  Vec first;
  if constexpr (S == 1) {
    first = _mm256_blend_ps(a, _mm256_moveldup_ps(b), 0xaa);
    b = _mm256_blend_ps(_mm256_movehdup_ps(a), b, 0xaa);
  } else if constexpr (S == 2) {
    first = _mm256_shuffle_ps(a, b, 0x44);
    b = _mm256_shuffle_ps(a, b, 0xee);
  } else {
    first = _mm256_permute2f128_ps(a, b, 0x20);
    b = _mm256_permute2f128_ps(a, b, 0x31);
  }
  a = first;
}

inline Vec maximum(Vec a, Vec b) { return _mm256_max_ps(a, b); }

inline float highest_lane(Vec v) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

inline float sum_lanes(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

}  // namespace

#include "relative_position_attention/simd.h"

namespace lit_deploy::avx2 {
void attend(const AttentionJob& job) noexcept { attend_tasks(job); }
}  // namespace lit_deploy::avx2
