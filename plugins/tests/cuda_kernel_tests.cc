// The CUDA kernel's source, emulated on the CPU (cuda_emulation.h), against the oracle: three types, both paths.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "cuda_emulation.h"
#include "half.h"
#include "oracle.h"

namespace {

using lit_deploy::MergingShape;
using namespace lit_deploy::cuda;

float decode(Float32, float value) { return value; }
float decode(Float16, uint16_t value) { return lit_deploy::float_from_half(value); }
float decode(BFloat16, uint16_t value) { return float_from_bfloat16(value); }
float encode(Float32, double value) { return static_cast<float>(value); }
uint16_t encode(Float16, double value) { return lit_deploy::half_from_float(static_cast<float>(value)); }
uint16_t encode(BFloat16, double value) { return bfloat16_from_float(static_cast<float>(value)); }

const char* name(Float32) { return "float32"; }
const char* name(Float16) { return "float16"; }
const char* name(BFloat16) { return "bfloat16"; }

// The result's rounding to the type, relative; and what float32 offsets cost, of the output's scale.
double rounding(Float32) { return 0x1p-24; }
double rounding(Float16) { return 0x1p-11; }
double rounding(BFloat16) { return 0x1p-8; }
constexpr double kTolerance = 1e-5;

// Elements on the heap, `shift` elements behind a 16-byte boundary and nothing behind the last one, so that
// AddressSanitizer sees every access beside them.
template <typename T>
class Tensor {
 public:
  Tensor(int64_t size, int shift) : size_(static_cast<size_t>(size)), shift_(static_cast<size_t>(shift)) {
    const size_t bytes = (size_ + shift_) * sizeof(T);
    if (posix_memalign(&memory_, 16, bytes == 0 ? 1 : bytes) != 0) std::abort();
    std::memset(memory_, 0xff, bytes);  // NaN: an element that is never written cannot pass
  }
  ~Tensor() { std::free(memory_); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  T* data() const { return static_cast<T*>(memory_) + shift_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) const { return data()[i]; }

 private:
  void* memory_ = nullptr;
  size_t size_, shift_;
};

template <typename E>
struct Case {
  using T = typename E::Storage;
  MergingShape shape;
  Tensor<T> x, offset_weight, offset_bias, y;

  Case(const MergingShape& s, unsigned seed, double offset_scale, int shift = 0)
      : shape(s), x(s.batch * s.height * s.width * s.channels, shift), offset_weight(32 * s.channels, shift),
        offset_bias(8, 0), y(s.output_rows() * s.output_width() * 4 * s.channels, shift) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](Tensor<T>& out, double scale) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = encode(E{}, scale * normal(generator));
    };
    fill(x, 1.0);
    fill(offset_weight, offset_scale / std::sqrt(4.0 * static_cast<double>(s.channels)));
    fill(offset_bias, 0.3);
  }

  // The elements of y after one launch.
  std::vector<T> run(Schedule schedule = Schedule::kForward) {
    Plan plan;
    const bool taken = make_plan(shape, sizeof(T), x.data(), offset_weight.data(), offset_bias.data(), y.data(), plan);
    CHECK(taken, "%s: the arguments are refused", name(E{}));
    std::memset(y.data(), 0xff, y.size() * sizeof(T));
    const char* error = emulate(
        E{}, plan, 0, make_merging<T>(plan, shape, x.data(), offset_weight.data(), offset_bias.data(), y.data()),
        schedule);
    CHECK(error == nullptr, "%s: %s", name(E{}), error);
    return {y.data(), y.data() + y.size()};
  }

  std::vector<double> expected() const {
    const auto widen = [](const Tensor<T>& in) {
      std::vector<double> out;
      for (size_t i = 0; i < in.size(); ++i) out.push_back(decode(E{}, in[i]));
      return out;
    };
    return oracle(shape, widen(x), widen(offset_weight), widen(offset_bias));
  }
};

template <typename E>
void check_equal(Case<E>& c, const char* what, Schedule schedule = Schedule::kForward) {
  const auto y = c.run(schedule);
  const std::vector<double> expected = c.expected();
  double scale = 1.0, worst = 0.0;
  for (double value : expected) scale = std::fmax(scale, std::fabs(value));
  bool finite = y.size() == expected.size();
  for (size_t i = 0; finite && i < y.size(); ++i) {
    const double error = std::fabs(decode(E{}, y[i]) - expected[i]) - rounding(E{}) * std::fabs(expected[i]);
    finite = std::isfinite(error);
    worst = std::fmax(worst, error);
  }
  const MergingShape& s = c.shape;
  CHECK(finite && worst <= kTolerance * scale, "%s, %s, x[%lld, %lld, %lld, %lld]: error %g of scale %g", what,
        name(E{}), static_cast<long long>(s.batch), static_cast<long long>(s.height), static_cast<long long>(s.width),
        static_cast<long long>(s.channels), worst, scale);
}

template <typename E>
void test_shapes() {
  // Whole 16-byte vectors with and without a remainder of the K step, in odd and even numbers; single elements; tiles
  // with all and with some of their patches. The last two have samples that are longer than a block has threads,
  // element by element and in vectors.
  const MergingShape shapes[] = {{1, 2, 2, 1},   {1, 2, 2, 3},   {1, 3, 3, 4},    {2, 5, 7, 9},  {1, 2, 9, 8},
                                 {1, 9, 2, 5},   {3, 6, 8, 12},  {1, 8, 8, 16},   {1, 4, 6, 96}, {1, 7, 14, 17},
                                 {2, 9, 14, 31}, {1, 5, 5, 33},  {1, 13, 11, 24}, {3, 4, 7, 40}, {2, 7, 7, 64},
                                 {1, 5, 4, 100}, {2, 6, 10, 104}, {1, 5, 6, 384},
                                 {1, 4, 5, 301}, {1, 3, 4, 2056}};
  unsigned seed = 1;
  for (const MergingShape& shape : shapes) {
    for (double scale : {1.0, 12.0, 0.0}) {  // small offsets, offsets far outside, constant offsets
      Case<E> c(shape, ++seed, scale);
      check_equal(c, "shape", static_cast<Schedule>(seed % 3));
    }
  }
  std::mt19937 generator(7);
  const auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(generator);
  };
  for (int i = 0; i < 12; ++i) {
    Case<E> c({pick(1, 3), pick(2, 10), pick(2, 10), pick(1, 70)}, ++seed, 2.0);
    check_equal(c, "random shape");
  }
}

// Bits must not depend on the order in which threads run, or on the path.
template <typename E>
void test_same_bits() {
  const MergingShape shape{2, 14, 13, 24};
  Case<E> aligned(shape, 3, 1.5), shifted(shape, 3, 1.5, 1);
  const auto y = aligned.run();
  for (Schedule schedule : {Schedule::kForward, Schedule::kBackward, Schedule::kShuffled}) {
    CHECK(aligned.run(schedule) == y, "%s, schedule %d: other bits", name(E{}), static_cast<int>(schedule));
    CHECK(shifted.run(schedule) == y, "%s: element by element gives other bits than 16-byte accesses", name(E{}));
  }
}

// A position that is not finite, or far away, gives 0 and disturbs no other tap.
template <typename E>
void test_wild_offsets(int64_t channels) {
  const size_t width = static_cast<size_t>(channels);
  const double infinity = std::numeric_limits<double>::infinity();
  Case<E> c({1, 5, 6, channels}, 99, 0.5);
  const auto before = c.run();
  for (double value : {std::nan(""), infinity, -infinity, 1e30, -1e30, 65504.0, -2147483648.0}) {
    for (size_t slot = 0; slot < 8; ++slot) {
      const auto bias = c.offset_bias[slot];
      c.offset_bias[slot] = encode(E{}, value);
      const auto after = c.run();
      c.offset_bias[slot] = bias;
      bool zero = true, others_same = true;
      for (size_t i = 0; i < after.size(); ++i) {
        const bool hit = i / width % 4 == slot / 2;
        if (hit) zero = zero && decode(E{}, after[i]) == 0.0f;
        if (!hit) others_same = others_same && after[i] == before[i];
      }
      CHECK(zero && others_same, "%s, offset %g in slot %zu: zero %d, other taps unchanged %d", name(E{}), value, slot,
            zero, others_same);
    }
  }
}

// What is not finite in x reaches the samples that touch it and its own patch, nothing else.
template <typename E>
void test_wild_tokens(int64_t channels) {
  for (double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    Case<E> c({1, 8, 8, channels}, 5, 0.0);  // constant offsets (0.25, 0.25) and the like: known neighbours
    for (size_t i = 0; i < c.offset_weight.size(); ++i) c.offset_weight[i] = encode(E{}, 0.0);
    for (size_t i = 0; i < 8; ++i) c.offset_bias[i] = encode(E{}, 0.25);
    const auto before = c.run();
    for (int64_t i = 0; i < channels; ++i) {  // token (4, 4): first of patch (2, 2), read by samples at (3..4, 3..4)
      c.x[static_cast<size_t>((4 * 8 + 4) * channels + i)] = encode(E{}, value);
    }
    const auto after = c.run();
    bool contained = true, zero = true;
    for (size_t i = 0; i < after.size(); ++i) {
      const size_t tap = i / static_cast<size_t>(channels) % 4, patch = i / static_cast<size_t>(channels) / 4;
      const size_t row = 2 * (patch / 4) + tap / 2, column = 2 * (patch % 4) + tap % 2;
      const bool own_patch = patch == 10;  // its offsets are 0 * value = NaN
      const bool touches = (row == 3 || row == 4) && (column == 3 || column == 4);
      if (own_patch) zero = zero && decode(E{}, after[i]) == 0.0f;
      if (!own_patch && !touches) contained = contained && after[i] == before[i];
    }
    CHECK(contained && zero, "%s, token %g: contained %d, own patch zero %d", name(E{}), value, contained, zero);
  }
  // An infinite corner, and samples just outside of it and exactly beside it: 0 times infinity must not appear.
  Case<E> c({1, 2, 2, channels}, 6, 0.0);
  for (size_t i = 0; i < c.offset_weight.size(); ++i) c.offset_weight[i] = encode(E{}, 0.0);
  for (size_t i = 0; i < 8; ++i) c.offset_bias[i] = encode(E{}, i < 2 ? -1.0 : 0.0);
  const auto y = c.run();
  for (size_t i = 0; i < static_cast<size_t>(channels); ++i) {
    CHECK(decode(E{}, y[i]) == 0.0f, "%s: tap 0 stands at (-1, -1)", name(E{}));
    CHECK(y[i + 3 * static_cast<size_t>(channels)] == c.x[i + 3 * static_cast<size_t>(channels)],
          "%s: a whole offset copies the token", name(E{}));
  }
}

// Samples that fall exactly on, and one step beside, the edges of the map.
template <typename E>
void test_borders() {
  const double size = 6.0;
  const double positions[] = {-1.0,       -1.0 + 0x1p-7, -0.5,          0.0,  0.5,
                              size - 1.0, size - 0.5,    size - 0x1p-5, size, size + 0.5};
  for (double position : positions) {
    for (size_t axis = 0; axis < 2; ++axis) {
      for (int64_t channels : {5, 8}) {
        Case<E> c({1, 6, 6, channels}, 3, 0.0);
        for (size_t i = 0; i < 8; ++i) c.offset_bias[i] = encode(E{}, i == axis ? position : 0.0);
        for (size_t i = 0; i < c.offset_weight.size(); ++i) c.offset_weight[i] = encode(E{}, 0.0);
        check_equal(c, "border");
      }
    }
  }
}

void test_plan() {
  alignas(16) float memory[64] = {};
  const auto plan = [&](const MergingShape& shape, int size, const void* x, Plan& out) {
    return make_plan(shape, size, x, memory, memory, memory, out);
  };
  Plan p;
  const int64_t huge = int64_t{1} << 40;
  const MergingShape refused[] = {
      {-1, 2, 2, 1},
      {1, 1, 2, 1},
      {1, 2, 1, 1},
      {1, 2, 2, 0},
      {1, 2, 2, -8},
      {1, 2, 2, huge},
      {1, 2, 2, (1 << 25) + 1},
      {huge, 2, 2, huge},
      {1, kMaxSide + 1, 2, 1},
      {1, 2, kMaxSide + 1, 1},
      {huge, huge, huge, 1},
      {1, kMaxSide, kMaxSide, 2},
      {1 << 22, 1 << 20, 1 << 20, 1}};
  for (const MergingShape& shape : refused) {
    CHECK(!plan(shape, 2, memory, p), "taken: [%lld, %lld, %lld, %lld]", static_cast<long long>(shape.batch),
          static_cast<long long>(shape.height), static_cast<long long>(shape.width),
          static_cast<long long>(shape.channels));
  }
  CHECK(!plan({1, 2, 2, 8}, 2, nullptr, p), "a null pointer is taken");
  CHECK(!plan({1, 2, 2, 8}, 2, reinterpret_cast<const char*>(memory) + 1, p), "a misaligned pointer is taken");
  CHECK(plan({0, 2, 2, 8}, 2, nullptr, p) && p.blocks == 0, "an empty batch is no work");
  CHECK(plan({128, 56, 56, 96}, 2, memory, p) && p.vectors && p.warps == 4 && p.blocks == 6272, "LIT-S, first merging");
  CHECK(plan({128, 14, 14, 384}, 2, memory, p) && p.vectors && p.warps == 8 && p.blocks == 512, "LIT-S, third merging");
  CHECK(plan({1, 2, 2, 4}, 2, memory, p) && !p.vectors && p.warps == 2, "eight bytes of channels are no vector");
  CHECK(plan({1, 2, 2, 8}, 2, memory + 1, p) && !p.vectors, "x is not aligned to a vector");
  CHECK(!plan({kMaxBlocks, 10, 2, 1}, 2, memory, p), "more tiles than a grid has blocks");
  CHECK(plan({kMaxBlocks, 8, 8, 1}, 2, memory, p) && p.blocks == kMaxBlocks, "as many tiles as a grid has blocks");
}

// Exact at the edges of what is asked of it: below, at and behind each multiple.
void test_divider() {
  struct Host {
    uint32_t multiply_high(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }
  } host;
  const uint32_t most = 0x7fffffffu;
  std::mt19937 generator(3);
  std::vector<uint32_t> divisors = {most, most - 1, 1u << 30, (1u << 30) + 1, (1u << 30) - 1, 65537, 65535};
  for (uint32_t d = 1; d < 200; ++d) divisors.push_back(d);
  for (int i = 0; i < 200; ++i) divisors.push_back(1 + (generator() % most >> generator() % 30));
  for (uint32_t divisor : divisors) {
    const Divider divider = make_divider(divisor);
    bool exact = divider.divisor == divisor;
    const auto check = [&](uint32_t n) {
      if (n <= most) exact = exact && quotient(host, n, divider) == n / divisor;
    };
    for (uint32_t n : {0u, 1u, divisor - 1, divisor, divisor + 1, most - 1, most}) check(n);
    for (int i = 0; i < 100; ++i) {
      const uint32_t multiple = generator() % (most / divisor) * divisor + divisor;
      check(multiple - 1);
      check(multiple);
      check(multiple + 1);
    }
    CHECK(exact, "division by %u", divisor);
  }
}

// Zeros that take no memory until they are touched.
template <typename T>
class SparseTensor {
 public:
  explicit SparseTensor(int64_t size) : bytes_(static_cast<size_t>(size) * sizeof(T)) {
    memory_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~SparseTensor() {
    if (exists()) munmap(memory_, bytes_);
  }
  SparseTensor(const SparseTensor&) = delete;
  SparseTensor& operator=(const SparseTensor&) = delete;
  bool exists() const { return memory_ != MAP_FAILED; }
  T* data() const { return static_cast<T*>(memory_); }

 private:
  void* memory_;
  size_t bytes_;
};

// The last tile of two images that are wider than 2^31 elements: the strides of a row and of an image, the origin of a
// sample and the place of its result all need 64 bits. Its four columns must come out like those of a narrow map.
template <typename E>
void test_large_map(int64_t channels) {
  using T = typename E::Storage;
  constexpr int64_t kWidth = int64_t{1} << 23, kNarrow = 16;  // float32 still tells half columns apart
  Case<E> narrow({1, 2, kNarrow, channels}, 21, 0.0);
  // Half a pixel for each unit of the first channel of the offset's own tap, and some: every offset is whole or a half.
  const double offsets[] = {0.5, -0.5, -0.5, -2.0, 0.0, 1.5, -1.0, -0.5};
  for (size_t i = 0; i < narrow.offset_weight.size(); ++i) narrow.offset_weight[i] = encode(E{}, 0.0);
  for (int64_t i = 0; i < 8; ++i) {
    narrow.offset_weight[static_cast<size_t>((4 * i + i / 2) * channels)] = encode(E{}, 0.5);
    narrow.offset_bias[static_cast<size_t>(i)] = encode(E{}, offsets[i]);
  }
  for (int64_t i = 0; i < 2 * kNarrow; ++i) {
    narrow.x[static_cast<size_t>(i * channels)] = encode(E{}, static_cast<double>(7 * i % 5 - 2));
  }
  const std::vector<T> expected = narrow.run();

  const MergingShape shape{2, 2, kWidth, channels};
  const int64_t row = kWidth * channels, tokens = kNarrow * channels, last = 4 * 4 * channels;
  const SparseTensor<T> x(4 * row), y(4 * row);
  if (!x.exists() || !y.exists()) {
    std::printf("SKIPPED: a map of more than 2^31 elements (no address space)\n");
    return;
  }
  for (int64_t i = 0; i < 2; ++i) {
    std::copy_n(narrow.x.data() + i * tokens, tokens, x.data() + (i + 3) * row - tokens);
  }
  Plan plan;
  CHECK(make_plan(shape, sizeof(T), x.data(), narrow.offset_weight.data(), narrow.offset_bias.data(), y.data(), plan),
        "%s: the arguments are refused", name(E{}));
  const auto merging =
      make_merging<T>(plan, shape, x.data(), narrow.offset_weight.data(), narrow.offset_bias.data(), y.data());
  const char* error = emulate(E{}, plan, plan.blocks - 1, merging, Schedule::kForward);
  CHECK(error == nullptr, "%s: %s", name(E{}), error);
  const T* result = y.data() + 4 * row - last;
  CHECK(std::equal(result, result + last, expected.end() - last), "%s, %lld channels: the last tile of a large map",
        name(E{}), static_cast<long long>(channels));
}

template <typename E>
void test_element() {
  const int before = counts().passed;
  test_shapes<E>();
  test_same_bits<E>();
  for (int64_t channels : {11, 16}) {
    test_wild_offsets<E>(channels);
    test_wild_tokens<E>(channels);
  }
  test_borders<E>();
  std::printf("%s: %d checks passed\n", name(E{}), counts().passed - before);
}

}  // namespace

void test_cuda() {
  test_plan();
  test_divider();
  for (int64_t channels : {263, 264}) test_large_map<Float16>(channels);
  test_element<Float32>();
  test_element<Float16>();
  test_element<BFloat16>();
}
