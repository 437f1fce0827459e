// RoIAlign over a pyramid against the definition in double precision: sample by sample, where the CPU's kernel works with
// two matrices. The cases are those of every kernel; as the number of samples hangs on single bits, what includes this is
// compiled without contraction to fused multiply-add.
#ifndef LIT_DEPLOY_TESTS_ROI_ALIGN_CASES_H_
#define LIT_DEPLOY_TESTS_ROI_ALIGN_CASES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "half.h"
#include "multi_level_roi_align/kernel.h"

namespace roi_align_cases {

using lit_deploy::kRoiLevels;
using lit_deploy::RoiAlignShape;

inline void encode(double value, float& out) { out = static_cast<float>(value); }
inline void encode(double value, uint16_t& out) { out = lit_deploy::half_from_float(static_cast<float>(value)); }
inline double decode(float value) { return value; }
inline double decode(uint16_t value) { return lit_deploy::float_from_half(value); }
inline double rounding(float) { return 0.0; }
inline double rounding(uint16_t) { return 0x1p-11; }
constexpr double kTolerance = 1e-5;

template <typename T>
struct Case {
  RoiAlignShape shape;
  std::vector<float> rois;
  std::vector<T> maps[kRoiLevels];

  Case(int64_t channels, int64_t height, int64_t width, int64_t bins, unsigned seed)
      : shape{0, channels, {}, {}, bins} {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    for (int level = 0; level < kRoiLevels; ++level) {
      shape.height[level] = std::max<int64_t>(1, height >> level);
      shape.width[level] = std::max<int64_t>(1, width >> level);
      maps[level].resize(static_cast<size_t>(channels * shape.height[level] * shape.width[level]));
      for (T& value : maps[level]) encode(normal(generator), value);
    }
  }

  void add(float x1, float y1, float x2, float y2) {
    for (float side : {x1, y1, x2, y2}) rois.push_back(side);
    ++shape.rois;
  }

  double sample(int level, int64_t channel, double row, double column) const {
    const int64_t height = shape.height[level], width = shape.width[level];
    if (row < -1 || row > static_cast<double>(height) || column < -1 || column > static_cast<double>(width)) return 0;
    row = std::min(std::max(row, 0.0), static_cast<double>(height - 1));
    column = std::min(std::max(column, 0.0), static_cast<double>(width - 1));
    const int64_t y0 = static_cast<int64_t>(row), x0 = static_cast<int64_t>(column);
    double sum = 0;
    for (int64_t i = 0; i < 2; ++i) {
      for (int64_t j = 0; j < 2; ++j) {
        const double fy = row - static_cast<double>(y0), fx = column - static_cast<double>(x0);
        const int64_t y = std::min(y0 + i, height - 1), x = std::min(x0 + j, width - 1);
        const T value = maps[level][static_cast<size_t>((channel * height + y) * width + x)];
        sum += (i == 0 ? 1 - fy : fy) * (j == 0 ? 1 - fx : fx) * decode(value);
      }
    }
    return sum;
  }

  static float position(float start, int64_t bin, float size, int64_t index, int64_t samples) {
    const float middle = static_cast<float>(index) + 0.5f;
    return start + static_cast<float>(bin) * size + middle * size / static_cast<float>(samples);
  }

  // Positions in float32, as the number of samples hangs on single bits; the sums in double.
  double expected(int64_t roi, int64_t channel, int64_t row, int64_t column) const {
    const float* r = &rois[static_cast<size_t>(4 * roi)];
    const float w = r[2] - r[0], h = r[3] - r[1];
    if (!(w > 0 && h > 0)) return 0;
    const float scale = std::sqrt(w * h) / 56.0f + 1e-6f;
    const int level = (scale >= 2) + (scale >= 4) + (scale >= 8);
    const float stride = static_cast<float>(4 << level), bins = static_cast<float>(shape.output_size);
    const float left = r[0] / stride - 0.5f, top = r[1] / stride - 0.5f;
    const float bin_w = (r[2] / stride - 0.5f - left) / bins, bin_h = (r[3] / stride - 0.5f - top) / bins;
    const int64_t nx = static_cast<int64_t>(std::ceil(bin_w)), ny = static_cast<int64_t>(std::ceil(bin_h));
    double sum = 0;
    for (int64_t i = 0; i < ny; ++i) {
      for (int64_t j = 0; j < nx; ++j) {
        sum += sample(level, channel, position(top, row, bin_h, i, ny), position(left, column, bin_w, j, nx));
      }
    }
    return nx * ny == 0 ? 0 : sum / static_cast<double>(nx * ny);
  }
};

// What is tested: y, in a vector of exactly its size, so that AddressSanitizer sees any access beside it.
template <typename T>
struct Kernel {
  const char* name;
  std::function<std::vector<T>(const Case<T>&)> run;
};

// An output that no kernel has written yet.
template <typename T>
std::vector<T> unset_output(const RoiAlignShape& shape) {
  T unset;
  encode(77.0, unset);
  const int64_t size = shape.rois * shape.channels * shape.output_size * shape.output_size;
  return std::vector<T>(static_cast<size_t>(size), unset);
}

template <typename T>
void check_equal(const Case<T>& c, const Kernel<T>& kernel, const char* what) {
  const std::vector<T> y = kernel.run(c);
  const int64_t bins = c.shape.output_size;
  double worst = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const int64_t place = static_cast<int64_t>(i), cell = place / (bins * bins);
    const double want = c.expected(cell / c.shape.channels, cell % c.shape.channels, place / bins % bins, place % bins);
    const double error = std::fabs(decode(y[i]) - want) - rounding(T{}) * std::fabs(want);
    worst = error <= worst ? worst : std::isfinite(error) ? error : 1e30;
  }
  CHECK(worst <= kTolerance * 4, "%s, %s, %zu-byte elements, %lld channels, %lld x %lld, %lld bins: error %g", what,
        kernel.name, sizeof(T), static_cast<long long>(c.shape.channels),
        static_cast<long long>(c.shape.height[0]), static_cast<long long>(c.shape.width[0]),
        static_cast<long long>(bins), worst);
}

template <typename T>
void test_random(const Kernel<T>& kernel) {
  std::mt19937 generator(11);
  std::uniform_real_distribution<float> any;
  const int64_t sizes[] = {7, 14, 1, 3, 8, 9, 16, 17, 33};
  for (unsigned i = 0; i < 90; ++i) {
    const auto pick = [&](int64_t most) { return std::uniform_int_distribution<int64_t>(1, most)(generator); };
    Case<T> c(pick(9), i % 10 == 9 ? 1 : pick(90), i % 10 == 9 ? 1 : pick(110), sizes[i % 9], i);
    const float height = 4 * static_cast<float>(c.shape.height[0]), width = 4 * static_cast<float>(c.shape.width[0]);
    for (int64_t n = pick(12); n > 0; --n) {
      const float x = any(generator) * width, y = any(generator) * height;
      const float w = std::pow(width, any(generator)), h = std::pow(height, any(generator));
      // Inside the map as detectors have it, or as it comes: across the borders and beyond them.
      const bool inside = i % 2 == 0;
      c.add(inside ? std::max(0.0f, x - w) : 2 * x - w, inside ? std::max(0.0f, y - h) : 2 * y - h,
            inside ? std::min(width, x + w) : 2 * x + w, inside ? std::min(height, y + h) : 2 * y + h);
    }
    check_equal(c, kernel, "random regions");
  }
}

template <typename T>
void test_edges(const Kernel<T>& kernel) {
  Case<T> levels(3, 300, 300, 7, 1);  // each level from its first size on, and just below it
  for (float side : {111.9f, 112.0f, 223.9f, 224.0f, 447.9f, 448.0f, 1100.0f}) levels.add(3, 5, 3 + side, 5 + side);
  check_equal(levels, kernel, "borders of the levels");

  Case<T> none(2, 20, 20, 7, 2);
  check_equal(none, kernel, "no region");
  none.add(8, 8, 8, 30);
  none.add(8, 8, 30, 8);
  none.add(30, 30, 8, 8);
  none.add(30, 8, 8, 30);
  none.add(-900, -900, -800, -800);
  none.add(900, 900, 901, 901);
  none.add(1e6f, 2, 1e6f + 0.01f, 9);
  for (float value : {std::nanf(""), std::numeric_limits<float>::infinity(), 3e38f, -3e38f}) {
    none.add(value, 1, 9, 9);
    none.add(1, value, 9, 9);
    none.add(1, 1, value, 9);
    none.add(1, 1, 9, value);
  }
  bool zero = true;
  for (T value : kernel.run(none)) zero = zero && decode(value) == 0.0;
  CHECK(zero, "%s: regions without an area, off the map or not finite must be 0", kernel.name);

  Case<T> large(2, 9, 9, 7, 3);  // most samples off the map; must neither take long nor step outside
  large.add(-1e6f, -1e6f, 1e6f, 1e6f);
  large.add(-3, -1e7f, 3, 1e7f);
  const std::vector<T> y = kernel.run(large);
  CHECK(std::all_of(y.begin(), y.end(), [](T v) { return std::isfinite(decode(v)); }), "large regions must be finite");

  Case<T> flat(1, 50, 40, 7, 4);  // the mean of a constant is that constant, wherever the grid falls
  for (auto& map : flat.maps) {
    for (T& value : map) encode(3.0, value);
  }
  flat.add(0, 0, 160, 200);
  flat.add(10.3f, 20.7f, 31.1f, 33.3f);
  for (T value : kernel.run(flat)) {
    CHECK(std::fabs(decode(value) - 3.0) < 1e-5, "constant map: %g", decode(value));
  }
}

}  // namespace roi_align_cases

#endif  // LIT_DEPLOY_TESTS_ROI_ALIGN_CASES_H_
