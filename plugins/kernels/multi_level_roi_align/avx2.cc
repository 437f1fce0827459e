// The kernel for AVX2 with FMA and F16C; compiled with those flags, called only where the CPU has them.
#include <immintrin.h>

#include <cstdint>

#include "multi_level_roi_align/plan.h"

namespace {

constexpr int64_t kLanes = 8;
using Vec = __m256;

inline float load_one(const float* p) { return *p; }
inline float load_one(const uint16_t* p) { return _cvtsh_ss(*p); }
inline void store_one(float* p, float value) { *p = value; }
inline void store_one(uint16_t* p, float value) { *p = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }

}  // namespace

#include "multi_level_roi_align/simd.h"

namespace lit_deploy::avx2 {
void pool(const RoiAlignJob<float>& job) noexcept { pool_all(job); }
void pool(const RoiAlignJob<uint16_t>& job) noexcept { pool_all(job); }
}  // namespace lit_deploy::avx2
