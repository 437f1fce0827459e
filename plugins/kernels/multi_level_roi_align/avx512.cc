// The kernel for AVX-512F; compiled with that flag, called only where the CPU has it.
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own AVX-512 header initialises "undefined" registers with themselves, which its warnings then report.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstdint>

#include "multi_level_roi_align/plan.h"

namespace {

constexpr int64_t kLanes = 16;
using Vec = __m512;

inline float load_one(const float* p) { return *p; }
inline float load_one(const uint16_t* p) { return _cvtsh_ss(*p); }
inline void store_one(float* p, float value) { *p = value; }
inline void store_one(uint16_t* p, float value) { *p = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }

}  // namespace

#include "multi_level_roi_align/simd.h"

namespace lit_deploy::avx512 {
void pool(const RoiAlignJob<float>& job) noexcept { pool_all(job); }
void pool(const RoiAlignJob<uint16_t>& job) noexcept { pool_all(job); }
}  // namespace lit_deploy::avx512
