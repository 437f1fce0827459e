// The kernel for any machine: 128-bit vectors, which every 64-bit CPU has, and halves converted in software.
#include <cstdint>
#include <cstring>

#include "half.h"

namespace {

constexpr int kLanes = 4;
constexpr int kRows = 6;
constexpr int kVectors = 2;
typedef float Vec __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t Bits __attribute__((vector_size(kLanes * sizeof(uint32_t))));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

inline Vec load_lanes(Vec v, const float* p, int begin, int end) {
  for (int i = begin; i < end; ++i) v[i] = p[i];
  return v;
}

inline Vec load_half(const void* p) {
  uint16_t bits[kLanes];
  std::memcpy(bits, p, sizeof bits);
  Vec v = {};
  for (int i = 0; i < kLanes; ++i) v[i] = lit_deploy::float_from_half(bits[i]);
  return v;
}

inline Vec load_bfloat16(const void* p) {
  uint16_t bits[kLanes];
  std::memcpy(bits, p, sizeof bits);
  Bits wide = {};
  for (int i = 0; i < kLanes; ++i) wide[i] = bits[i];
  return (Vec)(wide << 16);
}

inline Vec spread(const float* p) { return Vec{*p, *p, *p, *p}; }

template <int S>
inline void exchange(Vec& a, Vec& b) {
  const Vec first = S == 1 ? Vec{a[0], b[0], a[2], b[2]} : Vec{a[0], a[1], b[0], b[1]};
  b = S == 1 ? Vec{a[1], b[1], a[3], b[3]} : Vec{a[2], a[3], b[2], b[3]};
  a = first;
}

inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }

inline float highest_lane(Vec v) {
  float highest = v[0];
  for (int i = 1; i < kLanes; ++i) highest = highest > v[i] ? highest : v[i];
  return highest;
}

inline float sum_lanes(Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }

}  // namespace

#include "relative_position_attention/simd.h"

namespace lit_deploy::portable {
void attend(const AttentionJob& job) noexcept { attend_tasks(job); }
}  // namespace lit_deploy::portable
