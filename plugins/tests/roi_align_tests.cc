// RoIAlign over a pyramid on every instruction set and both types, against the definition in double precision: sample
// by sample, where the kernel works with two matrices.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "half.h"
#include "multi_level_roi_align/kernel.h"

namespace {

using lit_deploy::CpuIsa;
using lit_deploy::kRoiLevels;
using lit_deploy::RoiAlignShape;

constexpr CpuIsa kIsas[] = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512};

void encode(double value, float& out) { out = static_cast<float>(value); }
void encode(double value, uint16_t& out) { out = lit_deploy::half_from_float(static_cast<float>(value)); }
double decode(float value) { return value; }
double decode(uint16_t value) { return lit_deploy::float_from_half(value); }
double rounding(float) { return 0.0; }
double rounding(uint16_t) { return 0x1p-11; }
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

  std::vector<T> run(CpuIsa isa, int64_t step) const {
    // Exactly sized heap blocks: AddressSanitizer sees any access beside them.
    T unset;
    encode(77.0, unset);
    std::vector<T> y(static_cast<size_t>(shape.rois * shape.channels * shape.output_size * shape.output_size), unset);
    const T* levels[kRoiLevels] = {maps[0].data(), maps[1].data(), maps[2].data(), maps[3].data()};
    lit_deploy::RoiAlignPlan* const plan = lit_deploy::make_roi_align_plan(shape, rois.data());
    CHECK(plan != nullptr, "out of memory");
    if (plan == nullptr) return y;
    for (int64_t c = 0; c < shape.channels; c += step) {
      lit_deploy::multi_level_roi_align(*plan, levels, y.data(), c, std::min(c + step, shape.channels), isa);
    }
    lit_deploy::free_roi_align_plan(plan);
    return y;
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

template <typename T>
void check_equal(const Case<T>& c, CpuIsa isa, const char* what) {
  const std::vector<T> y = c.run(isa, c.shape.channels);
  CHECK(y == c.run(isa, 1), "%s, %s: split by channels, other bits", what, cpu_isa_name(isa));
  const int64_t bins = c.shape.output_size;
  double worst = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const int64_t place = static_cast<int64_t>(i), cell = place / (bins * bins);
    const double want = c.expected(cell / c.shape.channels, cell % c.shape.channels, place / bins % bins, place % bins);
    const double error = std::fabs(decode(y[i]) - want) - rounding(T{}) * std::fabs(want);
    worst = error <= worst ? worst : std::isfinite(error) ? error : 1e30;
  }
  CHECK(worst <= kTolerance * 4, "%s, %s, %zu-byte elements, %lld channels, %lld x %lld, %lld bins: error %g", what,
        cpu_isa_name(isa), sizeof(T), static_cast<long long>(c.shape.channels),
        static_cast<long long>(c.shape.height[0]), static_cast<long long>(c.shape.width[0]),
        static_cast<long long>(bins), worst);
}

template <typename T>
void test_random(CpuIsa isa) {
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
    check_equal(c, isa, "random regions");
  }
}

template <typename T>
void test_edges(CpuIsa isa) {
  Case<T> levels(3, 300, 300, 7, 1);  // each level from its first size on, and just below it
  for (float side : {111.9f, 112.0f, 223.9f, 224.0f, 447.9f, 448.0f, 1100.0f}) levels.add(3, 5, 3 + side, 5 + side);
  check_equal(levels, isa, "borders of the levels");

  Case<T> none(2, 20, 20, 7, 2);
  check_equal(none, isa, "no region");
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
  for (T value : none.run(isa, 1)) zero = zero && decode(value) == 0.0;
  CHECK(zero, "%s: regions without an area, off the map or not finite must be 0", cpu_isa_name(isa));

  Case<T> large(2, 9, 9, 7, 3);  // most samples off the map; must neither take long nor step outside
  large.add(-1e6f, -1e6f, 1e6f, 1e6f);
  large.add(-3, -1e7f, 3, 1e7f);
  const std::vector<T> y = large.run(isa, 2);
  CHECK(std::all_of(y.begin(), y.end(), [](T v) { return std::isfinite(decode(v)); }), "large regions must be finite");

  Case<T> flat(1, 50, 40, 7, 4);  // the mean of a constant is that constant, wherever the grid falls
  for (auto& map : flat.maps) {
    for (T& value : map) encode(3.0, value);
  }
  flat.add(0, 0, 160, 200);
  flat.add(10.3f, 20.7f, 31.1f, 33.3f);
  for (T value : flat.run(isa, 1)) {
    CHECK(std::fabs(decode(value) - 3.0) < 1e-5, "constant map: %g", decode(value));
  }
}

}  // namespace

void test_roi_align() {
  for (CpuIsa isa : kIsas) {
    if (!lit_deploy::cpu_isa_supported(isa)) continue;
    const int before = counts().passed;
    test_random<float>(isa);
    test_random<uint16_t>(isa);
    test_edges<float>(isa);
    test_edges<uint16_t>(isa);
    std::printf("%s: %d checks passed\n", cpu_isa_name(isa), counts().passed - before);
  }
}
