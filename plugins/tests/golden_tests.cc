// The official network's deformable convolution, case by case.
//
// The golden cases give the offsets as a field, our operator computes them. So the test widens the tokens by eight
// channels that hold the wanted offsets at tap 0 of every patch, lets offset_weight pick exactly those, and leaves the
// eight channels out of the output. The convolution's weights, which are not the operator's business, are applied here.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "check.h"
#include "deformable_token_merging.h"

namespace {

using lit_deploy::CpuIsa;
using lit_deploy::MergingShape;

constexpr double kTolerance = 5e-6;  // of the output's scale
constexpr int64_t kOffsets = 8;

struct Array {
  std::vector<int64_t> shape;
  std::vector<float> data;

  // Element of a four-dimensional array.
  float at(int64_t i, int64_t j, int64_t k, int64_t l) const {
    return data[static_cast<size_t>(((i * shape[1] + j) * shape[2] + k) * shape[3] + l)];
  }
};

bool read_array(std::FILE* file, size_t rank_expected, Array& array) {
  int64_t rank = 0;
  if (std::fread(&rank, sizeof rank, 1, file) != 1 || rank != static_cast<int64_t>(rank_expected)) return false;
  array.shape.resize(rank_expected);
  if (std::fread(array.shape.data(), sizeof(int64_t), rank_expected, file) != rank_expected) return false;
  size_t size = 1;
  for (int64_t dim : array.shape) size *= static_cast<size_t>(dim);
  array.data.resize(size);
  return std::fread(array.data.data(), sizeof(float), size, file) == size;
}

struct GoldenCase {
  Array input, offset, weight, bias, output;  // channels first, as the official code has them
};

// y of the widened operator: [batch, rows, columns, 4, channels + 8].
std::vector<float> run(const GoldenCase& c, CpuIsa isa) {
  const int64_t batch = c.input.shape[0], channels = c.input.shape[1];
  const int64_t height = c.input.shape[2], width = c.input.shape[3];
  const MergingShape shape{batch, height, width, channels + kOffsets};
  std::vector<float> x(static_cast<size_t>(batch * height * width * shape.channels));
  size_t next = 0;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t row = 0; row < height; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        for (int64_t k = 0; k < channels; ++k) x[next++] = c.input.at(b, k, row, column);
        const bool first_tap = row % 2 == 0 && column % 2 == 0 && row / 2 < height / 2 && column / 2 < width / 2;
        for (int64_t k = 0; k < kOffsets; ++k) x[next++] = first_tap ? c.offset.at(b, k, row / 2, column / 2) : 0.0f;
      }
    }
  }
  std::vector<float> offset_weight(static_cast<size_t>(kOffsets * 4 * shape.channels)), offset_bias(kOffsets);
  for (int64_t k = 0; k < kOffsets; ++k) {
    offset_weight[static_cast<size_t>(k * 4 * shape.channels + channels + k)] = 1.0f;
  }
  std::vector<float> y(static_cast<size_t>(shape.output_rows() * shape.output_width() * 4 * shape.channels));
  lit_deploy::deformable_token_merging(shape, x.data(), offset_weight.data(), offset_bias.data(), y.data(), 0,
                                       shape.output_rows(), isa);
  return y;
}

// Largest error of the convolution built on the operator, as a fraction of the output's scale.
double relative_error(const GoldenCase& c, CpuIsa isa) {
  const std::vector<float> y = run(c, isa);
  const int64_t channels = c.input.shape[1], rows = c.output.shape[2], columns = c.output.shape[3];
  double worst = 0.0, scale = 0.0;
  for (int64_t b = 0; b < c.output.shape[0]; ++b) {
    for (int64_t o = 0; o < c.output.shape[1]; ++o) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t s = 0; s < columns; ++s) {
          double sum = c.bias.data[static_cast<size_t>(o)];
          for (int64_t tap = 0; tap < 4; ++tap) {
            const int64_t token = ((b * rows + r) * columns + s) * 4 + tap;
            for (int64_t k = 0; k < channels; ++k) {
              sum += static_cast<double>(c.weight.at(o, k, tap / 2, tap % 2)) *
                     static_cast<double>(y[static_cast<size_t>(token * (channels + kOffsets) + k)]);
            }
          }
          const double expected = c.output.at(b, o, r, s);
          worst = std::fmax(worst, std::fabs(sum - expected));
          scale = std::fmax(scale, std::fabs(expected));
        }
      }
    }
  }
  return worst / scale;
}

}  // namespace

void test_golden(const char* path) {
  std::FILE* file = std::fopen(path, "rb");
  CHECK(file != nullptr, "cannot open %s; tests/golden_data.py writes it", path);
  if (file == nullptr) return;
  int64_t cases = 0;
  const bool header = std::fread(&cases, sizeof cases, 1, file) == 1;
  CHECK(header && cases == 11, "%lld cases, expected 11", static_cast<long long>(cases));
  for (int64_t i = 0; i < cases; ++i) {
    GoldenCase c;
    const bool complete = read_array(file, 4, c.input) && read_array(file, 4, c.offset) &&
                          read_array(file, 4, c.weight) && read_array(file, 1, c.bias) && read_array(file, 4, c.output);
    CHECK(complete, "case %lld is damaged", static_cast<long long>(i));
    if (!complete) break;
    for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
      if (!lit_deploy::cpu_isa_supported(isa)) continue;
      const double error = relative_error(c, isa);
      CHECK(error <= kTolerance, "case %lld, %s: error %g of the output scale", static_cast<long long>(i),
            cpu_isa_name(isa), error);
    }
  }
  std::fclose(file);
}
