#include "golden_file.h"

#include <cstdio>

#include "check.h"

namespace {

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

}  // namespace

std::vector<GoldenCase> read_golden(const char* path) {
  std::vector<GoldenCase> cases;
  std::FILE* file = std::fopen(path, "rb");
  CHECK(file != nullptr, "cannot open %s; tests/golden_data.py writes it", path);
  if (file == nullptr) return cases;
  int64_t count = 0;
  const bool header = std::fread(&count, sizeof count, 1, file) == 1;
  CHECK(header && count == 11, "%lld cases, expected 11", static_cast<long long>(count));
  for (int64_t i = 0; i < count; ++i) {
    GoldenCase c;
    const bool complete = read_array(file, 4, c.input) && read_array(file, 4, c.offset) &&
                          read_array(file, 4, c.weight) && read_array(file, 1, c.bias) && read_array(file, 4, c.output);
    CHECK(complete, "case %lld is damaged", static_cast<long long>(i));
    if (!complete) break;
    cases.push_back(c);
  }
  std::fclose(file);
  return cases;
}

MergingCase widened(const GoldenCase& golden) {
  const Array& input = golden.input;
  const int64_t channels = input.shape[1];
  MergingCase c{{input.shape[0], input.shape[2], input.shape[3], channels + kGoldenOffsets}, {}, {}, {}};
  const lit_deploy::MergingShape& s = c.shape;
  for (int64_t b = 0; b < s.batch; ++b) {
    for (int64_t row = 0; row < s.height; ++row) {
      for (int64_t column = 0; column < s.width; ++column) {
        for (int64_t k = 0; k < channels; ++k) c.x.push_back(input.at(b, k, row, column));
        const int64_t r = row / 2, q = column / 2;
        const bool first_tap = row % 2 == 0 && column % 2 == 0 && r < s.output_height() && q < s.output_width();
        for (int64_t k = 0; k < kGoldenOffsets; ++k) c.x.push_back(first_tap ? golden.offset.at(b, k, r, q) : 0.0f);
      }
    }
  }
  c.offset_weight.resize(static_cast<size_t>(kGoldenOffsets * 4 * s.channels));
  for (int64_t k = 0; k < kGoldenOffsets; ++k) {
    c.offset_weight[static_cast<size_t>(k * 4 * s.channels + channels + k)] = 1.0f;
  }
  c.offset_bias.resize(static_cast<size_t>(kGoldenOffsets));
  return c;
}
