// The kernel for any machine: 128-bit vectors, which every 64-bit CPU has, and halves converted in software.
#include <cstdint>
#include <cstring>

#include "half.h"
#include "multi_level_roi_align/plan.h"

namespace {

constexpr int64_t kLanes = 4;
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));

inline float load_one(const float* p) { return *p; }
inline float load_one(const uint16_t* p) { return lit_deploy::float_from_half(*p); }
inline void store_one(float* p, float value) { *p = value; }
inline void store_one(uint16_t* p, float value) { *p = lit_deploy::half_from_float(value); }

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Vec load(const uint16_t* p) { return Vec{load_one(p), load_one(p + 1), load_one(p + 2), load_one(p + 3)}; }

}  // namespace

#include "multi_level_roi_align/simd.h"

namespace lit_deploy::portable {
void pool(const RoiAlignJob<float>& job) noexcept { pool_all(job); }
void pool(const RoiAlignJob<uint16_t>& job) noexcept { pool_all(job); }
}  // namespace lit_deploy::portable
