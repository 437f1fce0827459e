#include "oracle.h"

#include <cmath>
#include <cstddef>

namespace {

using lit_deploy::MergingShape;

double token(const MergingShape& s, const std::vector<double>& x, int64_t b, int64_t row, int64_t column, int64_t c) {
  if (row < 0 || row >= s.height || column < 0 || column >= s.width) return 0.0;
  return x[static_cast<size_t>(((b * s.height + row) * s.width + column) * s.channels + c)];
}

double bilinear(const MergingShape& s, const std::vector<double>& x, int64_t b, double row, double column, int64_t c) {
  const double height = static_cast<double>(s.height), width = static_cast<double>(s.width);
  if (!(row > -1.0 && row < height && column > -1.0 && column < width)) return 0.0;
  const double top = std::floor(row), left = std::floor(column);
  double sum = 0.0;
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) {
      const double weight = (1.0 - std::abs(row - (top + i))) * (1.0 - std::abs(column - (left + j)));
      sum += weight * token(s, x, b, static_cast<int64_t>(top) + i, static_cast<int64_t>(left) + j, c);
    }
  }
  return sum;
}

}  // namespace

std::vector<double> oracle(const MergingShape& s, const std::vector<double>& x,
                           const std::vector<double>& offset_weight, const std::vector<double>& offset_bias) {
  std::vector<double> y;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t r = 0; r < s.height / 2; ++r) {
      for (int64_t q = 0; q < s.width / 2; ++q) {
        for (int tap = 0; tap < 4; ++tap) {
          double position[2] = {static_cast<double>(2 * r + tap / 2), static_cast<double>(2 * q + tap % 2)};
          for (int axis = 0; axis < 2; ++axis) {
            const size_t o = static_cast<size_t>(2 * tap + axis);
            double offset = offset_bias[o];
            for (int k = 0; k < 4; ++k) {
              for (int64_t c = 0; c < s.channels; ++c) {
                offset += offset_weight[(o * 4 + static_cast<size_t>(k)) * static_cast<size_t>(s.channels) +
                                        static_cast<size_t>(c)] *
                          token(s, x, b, 2 * r + k / 2, 2 * q + k % 2, c);
              }
            }
            position[axis] += offset;
          }
          for (int64_t c = 0; c < s.channels; ++c) y.push_back(bilinear(s, x, b, position[0], position[1], c));
        }
      }
    }
  }
  return y;
}
