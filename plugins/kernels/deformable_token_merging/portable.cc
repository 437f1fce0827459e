// The kernel for any machine: 128-bit vectors, which every 64-bit CPU has, and halves converted in software.
#include <cstdint>
#include <cstring>

#include "deformable_token_merging/job.h"
#include "half.h"

namespace {

constexpr int kLanes = 4;
constexpr int kColumns = 2;
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

template <typename T>
inline Vec load_shared(const T* p) {
  return load(p);
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

inline void store(uint16_t* p, Vec v) {
  for (int i = 0; i < kLanes; ++i) store_one(p + i, v[i]);
}

inline void sum_lanes(const Vec* acc, float* out) {
  for (int i = 0; i < 8; ++i) out[i] = (acc[i][0] + acc[i][1]) + (acc[i][2] + acc[i][3]);
}

}  // namespace

#include "deformable_token_merging/simd.h"

namespace lit_deploy::portable {
void merge(const MergingJob<float>& job) noexcept { merge_rows(job); }
void merge(const MergingJob<uint16_t>& job) noexcept { merge_rows(job); }
}  // namespace lit_deploy::portable
