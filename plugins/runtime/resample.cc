// Why this is our own: models are trained and evaluated on Pillow's pixels, and no C++ library was found that gives the
// same bits. Most do not antialias bicubic, take another cubic (-0.75), or compute in float, without Pillow's rounding
// to 8 bits between the two passes.
//
// What fixes the bits (Pillow's src/libImaging/Resample.c): the weights are computed and normalised in double, then
// rounded to 22 fractional bits; rows are filtered first and rounded to 8 bits, then columns. All behind the weights is
// integer arithmetic, so the order of the sums is free. The weights are not: each expression below has Pillow's
// operations in Pillow's order, and this file must be compiled with -ffp-contract=off, because a fused multiply-add
// (AArch64 has it always) rounds once where Pillow's x86-64 build rounds twice.
//
// Pillow 12.2 and newer filter the columns of tall pictures first, to save time, and which ones are tall depends on the
// release. Rows first, always, is what every older Pillow does, the official evaluation's too.
#include "resample.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace lit_deploy::runtime {
namespace {

constexpr int kFractionBits = 22;  // 8 bits of pixel, 22 of weight, 2 for overshoot and sign: an int32 holds every sum
constexpr int32_t kOne = 1 << kFractionBits;
constexpr int32_t kHalf = kOne / 2;

// The input pixels that make an output pixel, and their weights, as fixed-point numbers that sum up to about kOne.
struct Window {
  int first;
  int count;
  std::size_t weights;  // index of the first weight in Windows::weights
};

struct Windows {
  std::vector<Window> of;  // per wanted output pixel; neither `first` nor `first + count` ever falls
  std::vector<int32_t> weights;

  int begin() const { return of.front().first; }
  int end() const { return of.back().first + of.back().count; }
};

double bicubic(double distance) {  // Keys' cubic convolution with a = -0.5
  const double x = std::fabs(distance);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5;
  return 0.0;
}

double bilinear(double distance) { return std::max(1.0 - std::fabs(distance), 0.0); }

int32_t fixed_point(double weight) {
  const double scaled = weight * kOne;
  return static_cast<int32_t>(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
}

Windows make_windows(Filter filter, const Axis& axis) {
  Windows windows;
  windows.of.reserve(static_cast<std::size_t>(axis.count));
  if (axis.input == axis.output) {  // Pillow leaves such an axis alone
    windows.weights.push_back(kOne);
    for (int i = 0; i < axis.count; ++i) windows.of.push_back(Window{axis.offset + i, 1, 0});
    return windows;
  }
  double (*const weight_at)(double) = filter == Filter::kBicubic ? bicubic : bilinear;
  // By way of float, as sizes reach Pillow's C code: it matters above 2^24 pixels.
  const double scale = static_cast<double>(static_cast<float>(axis.input)) / axis.output;
  const double stretch = std::max(scale, 1.0);  // the filter widens when shrinking: this is the antialiasing
  const double inverse_stretch = 1.0 / stretch;
  const double radius = (filter == Filter::kBicubic ? 2.0 : 1.0) * stretch;
  std::vector<double> raw;
  for (int i = 0; i < axis.count; ++i) {
    const double center = (axis.offset + i + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - radius + 0.5), 0);
    const int end = std::min(static_cast<int>(center + radius + 0.5), axis.input);
    raw.clear();
    double sum = 0.0;
    for (int x = first; x < end; ++x) {
      raw.push_back(weight_at((x - center + 0.5) * inverse_stretch));
      sum += raw.back();
    }
    windows.of.push_back(Window{first, end - first, windows.weights.size()});
    for (const double weight : raw) windows.weights.push_back(fixed_point(sum != 0.0 ? weight / sum : weight));
  }
  return windows;
}

uint8_t rounded(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

constexpr int kRows = 8;           // rows that are filtered together: SIMD lanes, whatever the number of taps
constexpr int kLanes = 3 * kRows;  // of one column: R of every row, then G, then B

// Copies columns begin..end-1 of kRows rows so that the same byte of all rows lies together.
void interleave(const uint8_t* const* rows, int begin, int end, uint8_t* __restrict columns) {
  const uint8_t* from[kRows];
  for (int row = 0; row < kRows; ++row) from[row] = rows[row] + 3 * static_cast<std::ptrdiff_t>(begin);
  const std::size_t bytes = 3 * static_cast<std::size_t>(end - begin);
  for (std::size_t i = 0; i < bytes; ++i) {
    for (int row = 0; row < kRows; ++row) columns[i * kRows + row] = from[row][i];
  }
}

// Filters kRows rows, given as `columns` of interleave(), and writes row r to target[r].
void filter_rows(const Windows& windows, const uint8_t* columns, uint8_t* const* target) {
  const int begin = windows.begin();
  std::size_t byte = 0;
  for (const Window& window : windows.of) {
    const int32_t* const weights = windows.weights.data() + window.weights;
    const uint8_t* const pixels = columns + static_cast<std::size_t>(window.first - begin) * kLanes;
    int32_t sums[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] = kHalf;
    for (int tap = 0; tap < window.count; ++tap) {
      const int32_t weight = weights[tap];
      const uint8_t* const column = pixels + static_cast<std::size_t>(tap) * kLanes;
      for (int lane = 0; lane < kLanes; ++lane) sums[lane] += weight * column[lane];
    }
    for (int channel = 0; channel < 3; ++channel, ++byte) {
      for (int row = 0; row < kRows; ++row) target[row][byte] = rounded(sums[channel * kRows + row]);
    }
  }
}

// Makes one row of `count` bytes of window.count rows of as many.
void filter_columns(const Window& window, const int32_t* weights, const uint8_t* rows, std::size_t count,
                    int32_t* __restrict sums, uint8_t* __restrict target) {
  for (std::size_t i = 0; i < count; ++i) sums[i] = kHalf;
  for (int tap = 0; tap < window.count; ++tap) {
    const int32_t weight = weights[tap];
    const uint8_t* const row = rows + static_cast<std::size_t>(tap) * count;
    for (std::size_t i = 0; i < count; ++i) sums[i] += weight * row[i];
  }
  for (std::size_t i = 0; i < count; ++i) target[i] = rounded(sums[i]);
}

}  // namespace

void resample(Filter filter, const uint8_t* source, std::ptrdiff_t row_stride, const Axis& x, const Axis& y,
              uint8_t* target) {
  const Windows across = make_windows(filter, x);
  const Windows down = make_windows(filter, y);
  const int top = down.begin();
  const std::size_t height = static_cast<std::size_t>(down.end() - top);
  const std::size_t row_bytes = 3 * across.of.size();
  std::vector<uint8_t> columns(static_cast<std::size_t>(across.end() - across.begin()) * kLanes);
  std::vector<uint8_t> filtered((height + kRows - 1) / kRows * kRows * row_bytes);
  for (std::size_t group = 0; group < height; group += kRows) {
    const uint8_t* from[kRows];
    uint8_t* to[kRows];
    for (std::size_t row = 0; row < kRows; ++row) {
      const std::size_t existing = std::min(group + row, height - 1);  // the last group is filled up with the last row
      from[row] = source + (top + static_cast<std::ptrdiff_t>(existing)) * row_stride;
      to[row] = filtered.data() + (group + row) * row_bytes;
    }
    interleave(from, across.begin(), across.end(), columns.data());
    filter_rows(across, columns.data(), to);
  }
  std::vector<int32_t> sums(row_bytes);
  for (const Window& window : down.of) {
    filter_columns(window, down.weights.data() + window.weights,
                   filtered.data() + static_cast<std::size_t>(window.first - top) * row_bytes, row_bytes, sums.data(),
                   target);
    target += row_bytes;
  }
}

}  // namespace lit_deploy::runtime
