// The official network's deformable convolutions, and the operator's inputs that say the same.
#ifndef LIT_DEPLOY_TESTS_GOLDEN_FILE_H_
#define LIT_DEPLOY_TESTS_GOLDEN_FILE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "deformable_token_merging/kernel.h"

constexpr int64_t kGoldenOffsets = 8;  // channels that widened() adds

struct Array {
  std::vector<int64_t> shape;
  std::vector<float> data;

  // Element of a four-dimensional array.
  float at(int64_t i, int64_t j, int64_t k, int64_t l) const {
    return data[static_cast<size_t>(((i * shape[1] + j) * shape[2] + k) * shape[3] + l)];
  }
};

struct GoldenCase {
  Array input, offset, weight, bias, output;  // channels first, as the official code has them
};

// The operator's inputs.
struct MergingCase {
  lit_deploy::MergingShape shape;
  std::vector<float> x, offset_weight, offset_bias;
};

// Reads what golden_data.py writes; CHECKs that all eleven cases are there and whole.
std::vector<GoldenCase> read_golden(const char* path);

// The golden cases give the offsets as a field, our operator computes them. So the tokens are widened by eight channels
// that hold the wanted offsets at tap 0 of every patch, and offset_weight picks exactly those.
MergingCase widened(const GoldenCase& golden);

#endif  // LIT_DEPLOY_TESTS_GOLDEN_FILE_H_
