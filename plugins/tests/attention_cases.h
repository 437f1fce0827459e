// Attention with a relative position bias against an oracle in double precision, for every kernel and every type.
#ifndef LIT_DEPLOY_TESTS_ATTENTION_CASES_H_
#define LIT_DEPLOY_TESTS_ATTENTION_CASES_H_

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "half.h"
#include "relative_position_attention/kernel.h"

namespace attention_cases {

using lit_deploy::AttentionElement;
using lit_deploy::AttentionShape;

constexpr double kTolerance = 1e-5;

struct Half {
  using Storage = uint16_t;
  static constexpr AttentionElement kElement = AttentionElement::kFloat16;
  static constexpr double kRounding = 0x1p-11;
  static uint16_t encode(double value) { return lit_deploy::half_from_float(static_cast<float>(value)); }
  static double decode(uint16_t bits) { return lit_deploy::float_from_half(bits); }
};

struct BFloat16 {
  using Storage = uint16_t;
  static constexpr AttentionElement kElement = AttentionElement::kBFloat16;
  static constexpr double kRounding = 0x1p-8;
  static uint16_t encode(double value) {  // cut off, not rounded: any bfloat16 will do for an input
    const float narrow = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &narrow, sizeof bits);
    return static_cast<uint16_t>(bits >> 16);
  }
  static double decode(uint16_t bits) {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &wide, sizeof value);
    return value;
  }
};

struct Float {
  using Storage = float;
  static constexpr AttentionElement kElement = AttentionElement::kFloat32;
  static constexpr double kRounding = 0x1p-24;
  static float encode(double value) { return static_cast<float>(value); }
  static double decode(float value) { return value; }
};

template <typename T>
struct Case {
  using Storage = typename T::Storage;
  AttentionShape shape;
  float scale;
  // Exactly sized heap blocks: AddressSanitizer sees any access beside them.
  std::vector<Storage> qkv;
  std::vector<float> table;

  Case(const AttentionShape& s, unsigned seed, double sharpness = 1.0, double bias = 1.0)
      : shape(s), scale(1.0f / std::sqrt(static_cast<float>(s.head_dim))) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    const int64_t channels = s.heads * s.head_dim;
    for (int64_t i = 0; i < s.batch * s.tokens * 3 * channels; ++i) {
      const bool value = i / channels % 3 == 2;
      qkv.push_back(T::encode((value ? 1.0 : sharpness) * normal(generator)));
    }
    if (s.rows == 0) return;
    for (int64_t i = 0; i < s.heads * (2 * s.rows - 1) * (2 * s.columns - 1); ++i) {
      table.push_back(static_cast<float>(bias * normal(generator)));
    }
  }

  size_t output_size() const { return static_cast<size_t>(shape.batch * shape.tokens * shape.heads * shape.head_dim); }

  double packed(int64_t image, int64_t token, int64_t which, int64_t head, int64_t d) const {
    const int64_t at = ((image * shape.tokens + token) * 3 + which) * shape.heads * shape.head_dim;
    return T::decode(qkv[static_cast<size_t>(at + head * shape.head_dim + d)]);
  }

  // The outputs of one query, and how much its logits may be off in float32. `sizes` are the outputs of the values'
  // magnitudes: what a relative error of each weight can amount to.
  std::vector<double> expected(int64_t image, int64_t head, int64_t query, double& slack,
                               std::vector<double>& sizes) const {
    std::vector<double> logits, out(static_cast<size_t>(shape.head_dim));
    sizes = out;
    double most = -std::numeric_limits<double>::infinity(), total = 0.0;
    for (int64_t key = 0; key < shape.tokens; ++key) {
      double dot = 0.0, size = 0.0;
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const double term = packed(image, query, 0, head, d) * packed(image, key, 1, head, d) * scale;
        dot += term;
        size += std::fabs(term);
      }
      if (shape.rows > 0) {
        const int64_t row = query / shape.columns - key / shape.columns + shape.rows - 1;
        const int64_t column = query % shape.columns - key % shape.columns + shape.columns - 1;
        dot += table[static_cast<size_t>((head * (2 * shape.rows - 1) + row) * (2 * shape.columns - 1) + column)];
      }
      logits.push_back(dot);
      most = std::fmax(most, dot);
      if (size > 0.0) slack = std::fmax(slack, 0x1p-22 * (size + std::fabs(dot)));
    }
    for (double& logit : logits) total += logit = std::exp(logit - most);
    for (int64_t key = 0; key < shape.tokens; ++key) {
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const double term = logits[static_cast<size_t>(key)] / total * packed(image, key, 2, head, d);
        out[static_cast<size_t>(d)] += term;
        sizes[static_cast<size_t>(d)] += std::fabs(term);
      }
    }
    return out;
  }
};

// `weights`: relative error that a weight may have beside float32's.
template <typename T>
void check_output(const Case<T>& c, const std::vector<typename T::Storage>& y, double weights, const char* kernel,
                  const char* what) {
  const AttentionShape& s = c.shape;
  std::vector<double> sizes;
  // All queries of small maps, some of large ones: the oracle takes its time.
  const int64_t step = s.tokens > 150 ? 29 : 1;
  double worst = 0.0, slack = 0.0, scale = 1.0;
  bool finite = true;
  for (int64_t image = 0; image < s.batch; ++image) {
    for (int64_t head = 0; head < s.heads; ++head) {
      for (int64_t query = (image + head) % step % s.tokens; query < s.tokens; query += step) {
        const std::vector<double> expected = c.expected(image, head, query, slack, sizes);
        for (int64_t d = 0; d < s.head_dim; ++d) {
          const double want = expected[static_cast<size_t>(d)];
          const size_t at = static_cast<size_t>(((image * s.tokens + query) * s.heads + head) * s.head_dim + d);
          const double got = T::decode(y[at]);
          finite = finite && std::isfinite(got);
          const double error = std::fabs(got - want) - weights * sizes[static_cast<size_t>(d)];
          worst = std::fmax(worst, error - T::kRounding * std::fabs(want));
          scale = std::fmax(scale, std::fabs(want));
        }
      }
    }
  }
  CHECK(finite && worst <= (kTolerance + slack) * scale,
        "%s, %s, %zu-byte elements, [%lld, %lld, 3 * %lld * %lld], map %lld x %lld: error %g of scale %g", what,
        kernel, sizeof(y[0]), static_cast<long long>(s.batch), static_cast<long long>(s.tokens),
        static_cast<long long>(s.heads), static_cast<long long>(s.head_dim), static_cast<long long>(s.rows),
        static_cast<long long>(s.columns), worst, scale);
}

}  // namespace attention_cases

#endif  // LIT_DEPLOY_TESTS_ATTENTION_CASES_H_
