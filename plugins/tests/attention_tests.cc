// Every instruction set and every type against an oracle in double precision, over maps with odd sizes, heads of any
// width, several blocks of keys and several parts of queries.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "attention_cases.h"
#include "check.h"
#include "relative_position_attention/kernel.h"

namespace {

using attention_cases::BFloat16;
using attention_cases::Float;
using attention_cases::Half;
using attention_cases::check_output;
using lit_deploy::AttentionElement;
using lit_deploy::AttentionShape;
using lit_deploy::CpuIsa;

constexpr CpuIsa kIsas[] = {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAmx};

template <typename T>
struct Case : attention_cases::Case<T> {
  using attention_cases::Case<T>::Case;
  using typename attention_cases::Case<T>::Storage;

  void run(CpuIsa isa, Storage* y, int64_t begin, int64_t end) const {
    const float* biases = this->table.empty() ? nullptr : this->table.data();
    lit_deploy::relative_position_attention(this->shape, T::kElement, this->scale, this->qkv.data(), biases, y, begin,
                                            end, isa);
  }

  std::vector<Storage> run(CpuIsa isa) const {
    std::vector<Storage> y(this->output_size());
    run(isa, y.data(), 0, lit_deploy::attention_tasks(this->shape));
    return y;
  }
};

template <typename T>
void check_equal(const Case<T>& c, CpuIsa isa, const char* what) {
  // A weight that goes through tiles is rounded to the eight bits of bfloat16.
  const double weights = T::kElement == AttentionElement::kBFloat16 && isa == CpuIsa::kAmx ? 0x1p-8 : 0.0;
  check_output<T>(c, c.run(isa), weights, cpu_isa_name(isa), what);
}

template <typename T>
void test_shapes(CpuIsa isa) {
  const int64_t maps[][2] = {{1, 1}, {1, 2}, {2, 1}, {1, 17}, {33, 1}, {3, 5}, {7, 7}, {14, 14}, {13, 31}};
  unsigned seed = 1;
  for (const auto& [rows, columns] : maps) {
    for (int64_t dim : {8, 32, 64}) {
      check_equal(Case<T>({2, rows * columns, 2, dim, rows, columns}, ++seed), isa, "map");
      check_equal(Case<T>({1, rows * columns, 3, dim, 0, 0}, ++seed), isa, "no table");
    }
  }
  for (int64_t dim : {1, 7, 16, 24, 40, 48, 80, 128, 250, 512}) {
    check_equal(Case<T>({1, 60, 2, dim, 6, 10}, ++seed), isa, "head_dim");
  }
  check_equal(Case<T>({1, 23 * 41, 1, 32, 23, 41}, ++seed), isa, "several blocks");
  check_equal(Case<T>({1, 30 * 29, 1, 64, 30, 29}, ++seed), isa, "several blocks");
  check_equal(Case<T>({1, 1500, 1, 8, 1, 1500}, ++seed), isa, "one row");
  check_equal(Case<T>({1, 700, 1, 32, 0, 0}, ++seed), isa, "several blocks, no table");
  std::mt19937 generator(7);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator);
  };
  for (int i = 0; i < 25; ++i) {
    const int64_t rows = pick(1, 24), columns = pick(1, 24);
    check_equal(Case<T>({pick(1, 2), rows * columns, pick(1, 3), pick(1, 9) * 8, rows, columns}, ++seed, 1.5, 3.0), isa,
                "random");
  }
  for (const AttentionShape& empty : {AttentionShape{0, 6, 2, 8, 2, 3}, AttentionShape{1, 0, 2, 8, 0, 0}}) {
    CHECK(lit_deploy::attention_tasks(empty) == 0, "an empty input must be no work");
    CHECK(Case<T>(empty, 1).run(isa).empty(), "an empty input must have an empty output");
  }
}

// Logits far apart: nearly all weight on one key, and a maximum that moves from block to block.
template <typename T>
void test_sharp(CpuIsa isa) {
  for (double sharpness : {3.0, 10.0, 60.0}) {
    check_equal(Case<T>({1, 19 * 23, 2, 32, 19, 23}, 5, sharpness), isa, "sharp");
  }
  check_equal(Case<T>({1, 19 * 23, 2, 16, 19, 23}, 6, 1.0, 50.0), isa, "sharp bias");
  // All logits far below zero, in maps that fill no whole vector.
  Case<T> low({1, 21, 1, 8, 3, 7}, 8);
  for (float& bias : low.table) bias -= 5000.0f;
  check_equal(low, isa, "low logits");
  Case<T> rising({1, 900, 1, 8, 1, 900}, 9);
  for (size_t i = 0; i < rising.table.size(); ++i) rising.table[i] = 0.5f * static_cast<float>(i);
  check_equal(rising, isa, "rising logits");
  std::reverse(rising.table.begin(), rising.table.end());
  check_equal(rising, isa, "falling logits");
}

// Finite whatever the size of the input, as long as the logits themselves are.
void test_enormous(CpuIsa isa) {
  for (double size : {1e15, 5e18}) {
    const Case<Float> c({1, 400, 1, 8, 20, 20}, 3, size, 1e30);
    bool finite = true;
    for (float value : c.run(isa)) finite = finite && std::isfinite(value);
    CHECK(finite, "%s: inputs of %g give something that is not finite", cpu_isa_name(isa), size);
  }
  Case<Float> edges({1, 40, 1, 8, 1, 40}, 3, 0.0, 0.0);
  for (size_t i = 0; i < edges.table.size(); ++i) edges.table[i] = i % 3 == 0 ? 3.4e38f : -3.4e38f;
  check_equal(edges, isa, "largest logits");
}

// Two keys, one of them x below the other: the relative error of e^x shows in the output.
void test_exponential(CpuIsa isa) {
  double worst = 0.0;
  for (int i = 0; i <= 8600; ++i) {
    const float x = -0.01f * static_cast<float>(i);
    Case<Float> c({1, 2, 1, 1, 1, 2}, 1, 0.0);
    c.table = {0.0f, 0.0f, x};  // offsets -1, 0, 1: the second query sees the first key at x
    c.qkv = {0.0f, 0.0f, 1.0f, 0.0f, 0.0f, 0.0f};
    const double weight = std::exp(static_cast<double>(x));
    const double want = weight / (1.0 + weight);
    worst = std::fmax(worst, std::fabs(c.run(isa)[1] / want - 1.0));
  }
  // One unit of e^x, one of the sum, one of the division.
  CHECK(worst <= 3 * 0x1p-23, "%s: relative error %g of a weight", cpu_isa_name(isa), worst);
}

// However the parts are split among threads, the bits are the same; and each element belongs to one part.
template <typename T>
void test_parts(CpuIsa isa) {
  using Storage = typename T::Storage;
  const Case<T> c({2, 26 * 27, 2, 24, 26, 27}, 11);
  const int64_t tasks = lit_deploy::attention_tasks(c.shape);
  CHECK(tasks > 4, "the case must have several parts a head: %lld", static_cast<long long>(tasks));
  const std::vector<Storage> whole = c.run(isa);
  const Storage canary = T::encode(12345.0);
  std::vector<int> writers(whole.size());
  bool same = true;
  for (int64_t task = 0; task < tasks; ++task) {
    std::vector<Storage> y(whole.size(), canary);
    c.run(isa, y.data(), task, task + 1);
    for (size_t i = 0; i < y.size(); ++i) {
      if (y[i] == canary) continue;
      ++writers[i];
      same = same && y[i] == whole[i];
    }
  }
  // Three threads at once, each with every third part: what ThreadSanitizer looks at.
  std::vector<Storage> shared(whole.size());
  std::vector<std::thread> threads;
  for (int64_t first = 0; first < 3; ++first) {
    threads.emplace_back([&, first] {
      for (int64_t task = first; task < tasks; task += 3) c.run(isa, shared.data(), task, task + 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  same = same && shared == whole;
  const bool once = std::all_of(writers.begin(), writers.end(), [](int count) { return count == 1; });
  CHECK(same && once, "%s, %zu-byte elements: same bits %d, every element in one part %d", cpu_isa_name(isa),
        sizeof(Storage), same, once);
}

// A key that is not finite spoils its head of its image, and changes no bit of another.
template <typename T>
void test_not_finite(CpuIsa isa) {
  Case<T> c({2, 7 * 9, 3, 24, 7, 9}, 12);
  const std::vector<typename T::Storage> before = c.run(isa);
  for (double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    c.qkv[(7 * 9 + 40) * 3 * 72 + 72 + 24 + 5] = T::encode(value);  // image 1, token 40, key of head 1
    const std::vector<typename T::Storage> after = c.run(isa);
    bool spoilt = true, kept = true;
    for (size_t i = 0; i < after.size(); ++i) {
      if (i >= after.size() / 2 && i / 24 % 3 == 1) {
        spoilt = spoilt && (value == value || std::isnan(T::decode(after[i])));
      } else {
        kept = kept && after[i] == before[i];
      }
    }
    CHECK(spoilt && kept, "%s, %zu-byte elements, %g: NaN in its head %d, no change elsewhere %d", cpu_isa_name(isa),
          sizeof(after[0]), value, spoilt, kept);
  }
}

template <typename T>
void test_type(CpuIsa isa) {
  test_not_finite<T>(isa);
  test_shapes<T>(isa);
  test_sharp<T>(isa);
  test_parts<T>(isa);
}

}  // namespace

void test_attention() {
  for (CpuIsa isa : kIsas) {
    if (!lit_deploy::cpu_isa_supported(isa)) {
      std::printf("%s: not on this machine, not tested\n", cpu_isa_name(isa));
      continue;
    }
    const int before = counts().passed;
    test_type<Float>(isa);
    test_type<Half>(isa);
    test_type<BFloat16>(isa);
    test_enormous(isa);
    test_exponential(isa);
    std::printf("%s: %d checks passed\n", cpu_isa_name(isa), counts().passed - before);
  }
}
