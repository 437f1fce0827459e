// Every instruction set and both types against the oracle, over shapes with odd sizes, vector tails and empty batches.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "deformable_token_merging/kernel.h"
#include "half.h"
#include "oracle.h"

namespace {

using lit_deploy::CpuIsa;
using lit_deploy::MergingShape;

constexpr CpuIsa kIsas[] = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAmx};

// float <-> the type under test.
void encode(double value, float& out) { out = static_cast<float>(value); }
void encode(double value, uint16_t& out) { out = lit_deploy::half_from_float(static_cast<float>(value)); }
double decode(float value) { return value; }
double decode(uint16_t value) { return lit_deploy::float_from_half(value); }

// The result's rounding to T, relative; and what float32 offsets cost, of the output's scale.
double rounding(float) { return 0x1p-24; }
double rounding(uint16_t) { return 0x1p-11; }
constexpr double kTolerance = 1e-5;

template <typename T>
struct Case {
  MergingShape shape;
  std::vector<T> x, offset_weight, offset_bias;

  Case(const MergingShape& s, unsigned seed, double offset_scale) : shape(s) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](std::vector<T>& out, int64_t size, double scale) {
      out.resize(static_cast<size_t>(size));
      for (T& value : out) encode(scale * normal(generator), value);
    };
    fill(x, s.batch * s.height * s.width * s.channels, 1.0);
    fill(offset_weight, 32 * s.channels, offset_scale / std::sqrt(4.0 * static_cast<double>(s.channels)));
    fill(offset_bias, 8, 0.3);
  }

  size_t output_size() const {
    return static_cast<size_t>(shape.output_rows() * shape.output_width() * 4 * shape.channels);
  }

  std::vector<T> run(CpuIsa isa) const {
    // Exactly sized heap blocks: AddressSanitizer sees any access beside them.
    std::vector<T> y(output_size());
    lit_deploy::deformable_token_merging(shape, x.data(), offset_weight.data(), offset_bias.data(), y.data(), 0,
                                         shape.output_rows(), isa);
    return y;
  }

  std::vector<double> expected() const {
    const auto widen = [](const std::vector<T>& in) {
      std::vector<double> out;
      for (T value : in) out.push_back(decode(value));
      return out;
    };
    return oracle(shape, widen(x), widen(offset_weight), widen(offset_bias));
  }
};

template <typename T>
void check_equal(const Case<T>& c, CpuIsa isa, const char* what) {
  const std::vector<T> y = c.run(isa);
  const std::vector<double> expected = c.expected();
  double scale = 1.0, worst = 0.0;
  for (double value : expected) scale = std::fmax(scale, std::fabs(value));
  bool finite = y.size() == expected.size();
  for (size_t i = 0; finite && i < y.size(); ++i) {
    const double error = std::fabs(decode(y[i]) - expected[i]) - rounding(T{}) * std::fabs(expected[i]);
    finite = std::isfinite(error);
    worst = std::fmax(worst, error);
  }
  const MergingShape& s = c.shape;
  CHECK(finite && worst <= kTolerance * scale,
        "%s, %s, %zu-byte elements, x[%lld, %lld, %lld, %lld]: error %g of scale %g", what, cpu_isa_name(isa), sizeof(T),
        static_cast<long long>(s.batch), static_cast<long long>(s.height),
        static_cast<long long>(s.width), static_cast<long long>(s.channels), worst, scale);
}

template <typename T>
void test_shapes(CpuIsa isa) {
  const MergingShape shapes[] = {{1, 2, 2, 1},  {1, 2, 2, 3},   {1, 3, 3, 4},    {2, 5, 7, 9},
                                 {1, 2, 9, 8},  {1, 9, 2, 5},   {3, 6, 8, 12},   {1, 8, 8, 16},
                                 {1, 4, 6, 96}, {1, 7, 14, 17}, {2, 14, 14, 31}, {1, 5, 5, 33}};
  unsigned seed = 1;
  for (const MergingShape& shape : shapes) {
    check_equal(Case<T>(shape, ++seed, 1.0), isa, "small offsets");
    check_equal(Case<T>(shape, ++seed, 12.0), isa, "offsets far outside");
    check_equal(Case<T>(shape, ++seed, 0.0), isa, "constant offsets");
  }
  std::mt19937 generator(7);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator);
  };
  for (int i = 0; i < 40; ++i) {
    const MergingShape shape{pick(1, 3), pick(2, 12), pick(2, 12), pick(1, 70)};
    check_equal(Case<T>(shape, ++seed, 2.0), isa, "random shape");
  }
  check_equal(Case<T>({0, 6, 6, 8}, ++seed, 1.0), isa, "empty batch");
}

// A position that is not finite, or far away, gives 0 and disturbs no other tap.
template <typename T>
void test_wild_offsets(CpuIsa isa) {
  const double infinity = std::numeric_limits<double>::infinity();
  const double wild[] = {std::nan(""), infinity, -infinity, 1e30, -1e30, FLT_MAX, -FLT_MAX, 65504.0, 2147483648.0};
  for (double value : wild) {
    for (size_t slot = 0; slot < 8; ++slot) {
      Case<T> c({1, 6, 7, 11}, 99, 0.5);
      const std::vector<T> before = c.run(isa);
      encode(value, c.offset_bias[slot]);
      const std::vector<T> after = c.run(isa);
      bool zero = true, others_same = true;
      for (size_t i = 0; i < after.size(); ++i) {
        const bool hit = i / 11 % 4 == slot / 2;
        if (hit) zero = zero && decode(after[i]) == 0.0;
        if (!hit) others_same = others_same && after[i] == before[i];
      }
      CHECK(zero && others_same, "offset %g in slot %zu, %s, %zu-byte elements: zero %d, other taps unchanged %d",
            value, slot, cpu_isa_name(isa), sizeof(T), zero, others_same);
    }
  }
  Case<T> c({1, 4, 4, 6}, 5, 1.0);  // NaN in the map: its own patch has no offsets, and nothing crashes
  encode(std::nan(""), c.x[0]);
  const std::vector<T> y = c.run(isa);
  bool zero = true;
  for (size_t i = 0; i < 4 * 6; ++i) zero = zero && decode(y[i]) == 0.0;
  CHECK(zero, "NaN token, %s: the patch that holds it must be 0", cpu_isa_name(isa));
}

// Samples that fall exactly on, and one step beside, the edges of the map.
template <typename T>
void test_borders(CpuIsa isa) {
  const double size = 6.0;
  const double positions[] = {-1.0,       -1.0 + 0x1p-10, -0.5,          0.0,  0.5,
                              size - 1.0, size - 0.5,     size - 0x1p-8, size, size + 0.5};
  for (double position : positions) {
    for (size_t axis = 0; axis < 2; ++axis) {
      Case<T> c({1, 6, 6, 5}, 3, 0.0);
      for (T& value : c.offset_bias) encode(0.0, value);
      for (T& value : c.offset_weight) encode(0.0, value);
      encode(position, c.offset_bias[axis]);  // tap 0 of the first output stands at exactly this position
      check_equal(c, isa, "border");
    }
  }
}

// However the rows are split among threads, the bits are the same; and nothing outside the rows is written.
template <typename T>
void test_row_ranges(CpuIsa isa) {
  const Case<T> c({3, 10, 9, 19}, 11, 1.5);
  const std::vector<T> whole = c.run(isa);
  const size_t row = c.output_size() / static_cast<size_t>(c.shape.output_rows());
  T canary;
  encode(12345.0, canary);
  for (int64_t step : {1, 2, 4, 7}) {
    std::vector<T> pieces(c.output_size() + 2 * row, canary);
    for (int64_t begin = 0; begin < c.shape.output_rows(); begin += step) {
      const int64_t end = std::min(begin + step, c.shape.output_rows());
      lit_deploy::deformable_token_merging(c.shape, c.x.data(), c.offset_weight.data(), c.offset_bias.data(),
                                           pieces.data() + row, begin, end, isa);
      bool rest_untouched = true;
      for (size_t i = row + static_cast<size_t>(end) * row; i < pieces.size(); ++i) {
        rest_untouched = rest_untouched && pieces[i] == canary;
      }
      for (size_t i = 0; i < row; ++i) rest_untouched = rest_untouched && pieces[i] == canary;
      CHECK(rest_untouched, "rows [%lld, %lld), %s: wrote outside its rows", static_cast<long long>(begin),
            static_cast<long long>(end), cpu_isa_name(isa));
    }
    CHECK(std::memcmp(pieces.data() + row, whole.data(), whole.size() * sizeof(T)) == 0,
          "steps of %lld rows, %s: bits differ from one call", static_cast<long long>(step), cpu_isa_name(isa));
  }
  T untouched = canary;
  lit_deploy::deformable_token_merging(c.shape, c.x.data(), c.offset_weight.data(), c.offset_bias.data(), &untouched,
                                       2, 2, isa);
  CHECK(untouched == canary, "an empty range wrote");
}

// All 65536 halves survive the way to float and back, and floats round to the nearest half, ties to even.
void test_half() {
  int wrong = 0;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = lit_deploy::float_from_half(half);
    const uint16_t back = lit_deploy::half_from_float(value);
    wrong += std::isnan(value) ? (back & 0x7fff) <= 0x7c00 : back != half;
  }
  CHECK(wrong == 0, "%d halves change on the way to float and back", wrong);
  wrong = 0;
  for (unsigned bits = 0; bits < 0x7c00; ++bits) {  // between this half and the next one (65536 stands for infinity)
    const double low = lit_deploy::float_from_half(static_cast<uint16_t>(bits));
    const double high = bits == 0x7bff ? 65536.0 : lit_deploy::float_from_half(static_cast<uint16_t>(bits + 1));
    const float middle = static_cast<float>((low + high) / 2);
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    wrong += lit_deploy::half_from_float(middle) != even;
    wrong += lit_deploy::half_from_float(std::nextafter(middle, 0.0f)) != bits;
    wrong += lit_deploy::half_from_float(std::nextafter(middle, 1e6f)) != bits + 1;
    wrong += lit_deploy::half_from_float(-middle) != (even | 0x8000u);
  }
  CHECK(wrong == 0, "%d floats round to the wrong half", wrong);
  CHECK(lit_deploy::half_from_float(1e30f) == 0x7c00 && lit_deploy::half_from_float(-1e30f) == 0xfc00, "overflow");
}

template <typename T>
void test_isa(CpuIsa isa) {
  test_shapes<T>(isa);
  test_borders<T>(isa);
  test_wild_offsets<T>(isa);
  test_row_ranges<T>(isa);
}

}  // namespace

void test_merging() {
  test_half();
  for (CpuIsa isa : kIsas) {
    if (!lit_deploy::cpu_isa_supported(isa)) {
      std::printf("%s: not on this machine, not tested\n", cpu_isa_name(isa));
      continue;
    }
    const int before = counts().passed;
    test_isa<float>(isa);
    test_isa<uint16_t>(isa);
    std::printf("%s: %d checks passed\n", cpu_isa_name(isa), counts().passed - before);
  }
}

void test_cpu_isa() {
  CpuIsa expected = CpuIsa::kPortable;
  for (CpuIsa isa : kIsas) {
    if (lit_deploy::cpu_isa_supported(isa)) expected = isa;
  }
  const char* requested = std::getenv("LIT_DEPLOY_CPU_ISA");
  for (CpuIsa isa : kIsas) {
    if (requested != nullptr && std::strcmp(requested, cpu_isa_name(isa)) == 0 && lit_deploy::cpu_isa_supported(isa)) {
      expected = isa;
    }
  }
  const CpuIsa selected = lit_deploy::selected_cpu_isa();
  std::printf("requested \"%s\", selected %s\n", requested == nullptr ? "" : requested, cpu_isa_name(selected));
  CHECK(selected == expected, "expected %s", cpu_isa_name(expected));
  CHECK(lit_deploy::cpu_isa_supported(CpuIsa::kPortable), "portable must run everywhere");
}
