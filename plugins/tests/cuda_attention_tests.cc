// The source of attention's CUDA kernel, emulated on the CPU (emulated_device.h), against the oracle of the CPU's kernel.
#include <cstring>
#include <memory>
#include <vector>

#include "attention_cases.h"
#include "check.h"
#include "emulated_device.h"
#include "relative_position_attention/cuda_tensor_kernel.h"

namespace {

using namespace lit_deploy::cuda;
using attention_cases::Case;
using attention_cases::check_output;
using lit_deploy::AttentionShape;

template <typename T>
struct ElementOf;
template <>
struct ElementOf<attention_cases::Float> {
  using Type = Float32;
};
template <>
struct ElementOf<attention_cases::Half> {
  using Type = Float16;
};
template <>
struct ElementOf<attention_cases::BFloat16> {
  using Type = BFloat16;
};

template <typename E, int kSlices, typename T>
void kernel(EmulatedDevice& device, const Attention<T>& attention, AttentionShared<kSlices>& shared) {
  attend<E>(device, attention, shared);
}

template <typename E, int kDims>
void kernel(EmulatedDevice& device, const Attention<uint16_t>& attention, TensorShared<kDims>& shared) {
  attend_on_tensor_cores<E>(device, attention, shared);
}

template <typename E, typename Shared>
void run_grid(const AttentionCut& cut, const Attention<typename E::Storage>& attention, Schedule schedule) {
  Block group(kAttentionThreads, schedule);
  const auto shared = std::make_unique<Shared>();
  for (int64_t block = 0; block < cut.blocks; ++block) {
    std::memset(static_cast<void*>(shared.get()), 0xff, sizeof *shared);  // NaN: what is read must be written
    const char* error = group.run([&](int thread) {
      EmulatedDevice device(group, thread, block);
      kernel<E>(device, attention, *shared);
    });
    CHECK(error == nullptr, "%s", error);
    if (error != nullptr) return;
  }
}

template <typename T>
std::vector<typename T::Storage> run(const Case<T>& c, Schedule schedule = Schedule::kForward, bool tensor = true) {
  using E = typename ElementOf<T>::Type;
  using Storage = typename T::Storage;
  // One element behind an aligned address, tensor cores are not for it.
  std::vector<Storage> memory(c.output_size() + (tensor ? 0 : 1), T::encode(12345.0));
  Storage* const y = memory.data() + (tensor ? 0 : 1);
  const float* table = c.table.empty() ? nullptr : c.table.data();
  AttentionCut cut;
  const bool taken = cut_attention(c.shape, sizeof(Storage), c.qkv.data(), table, y, cut);
  CHECK(taken, "the arguments are refused");
  if (!taken) return memory;
  const bool half = sizeof(Storage) == 2;
  CHECK(cut.tensor_cores == (tensor && half && (c.shape.head_dim == 32 || c.shape.head_dim == 64)), "another kernel");
  const auto attention = make_attention<Storage>(c.shape, cut, c.scale, c.qkv.data(), table, y);
  if constexpr (half) {
    if (cut.tensor_cores) {
      if (c.shape.head_dim == 32) run_grid<E, TensorShared<32>>(cut, attention, schedule);
      if (c.shape.head_dim == 64) run_grid<E, TensorShared<64>>(cut, attention, schedule);
      return memory;
    }
  }
  if (cut.slices == 1) run_grid<E, AttentionShared<1>>(cut, attention, schedule);
  if (cut.slices == 2) run_grid<E, AttentionShared<2>>(cut, attention, schedule);
  if (cut.slices == 4) run_grid<E, AttentionShared<4>>(cut, attention, schedule);
  return {y, y + c.output_size()};
}

// What a weight may be off: on tensor cores it is rounded to the element.
template <typename T>
double weight_error(const AttentionShape& shape) {
  return sizeof(typename T::Storage) == 2 && (shape.head_dim == 32 || shape.head_dim == 64) ? T::kRounding : 0.0;
}

template <typename T>
void test_element(const char* name) {
  const int before = counts().passed;
  const auto check = [&](const Case<T>& c, const char* what, Schedule schedule = Schedule::kForward) {
    check_output<T>(c, run(c, schedule), weight_error<T>(c.shape), name, what);
  };
  // Less than a tile of keys, a whole one, one more; less than a block of queries, and several; whole and odd heads.
  const int64_t maps[][2] = {{1, 1}, {1, 2}, {33, 1}, {4, 8}, {3, 11}, {7, 7}, {13, 11}};
  unsigned seed = 1;
  for (const auto& [rows, columns] : maps) {
    for (int64_t dim : {5, 32}) {
      const Schedule schedule = static_cast<Schedule>(++seed % 3);
      check(Case<T>({2, rows * columns, 2, dim, rows, columns}, seed), "map", schedule);
      check(Case<T>({1, rows * columns, 2, dim, 0, 0}, ++seed), "no table");
    }
  }
  for (int64_t dim : {33, 64, 65, 128}) check(Case<T>({1, 70, 1, dim, 7, 10}, ++seed), "wide head");
  check(Case<T>({2, 64, 3, 64, 8, 8}, ++seed), "a whole tile, heads of 64", Schedule::kShuffled);
  const Case<T> misaligned({1, 35, 2, 32, 5, 7}, ++seed);
  check_output<T>(misaligned, run(misaligned, Schedule::kForward, false), 0.0, name, "misaligned");
  for (double sharpness : {3.0, 60.0}) check(Case<T>({1, 99, 1, 32, 9, 11}, ++seed, sharpness), "sharp");
  check(Case<T>({1, 99, 1, 16, 9, 11}, ++seed, 1.0, 50.0), "sharp bias");
  for (int64_t dim : {8, 32}) {
    Case<T> moving({1, 90, 1, dim, 1, 90}, ++seed);  // the maximum is another one in every chunk of keys
    for (size_t i = 0; i < moving.table.size(); ++i) moving.table[i] = 0.5f * static_cast<float>(i) - 5000.0f;
    check(moving, "falling logits");
    for (size_t i = 0; i < moving.table.size(); ++i) moving.table[i] = -0.5f * static_cast<float>(i) - 5000.0f;
    check(moving, "rising logits");

    const Case<T> orders({1, 140, 1, dim + 32, 14, 10}, ++seed);
    CHECK(run(orders) == run(orders, Schedule::kShuffled), "%s: the order of the threads gives other bits", name);

    // A key that is not finite spoils its head of its image, and changes no bit of another.
    Case<T> spoilt({2, 35, 2, dim, 5, 7}, ++seed);
    const size_t width = static_cast<size_t>(dim);
    const auto whole = run(spoilt);
    spoilt.qkv[(35 + 20) * 6 * width + 2 * width + 3] = T::encode(std::nan(""));  // image 1, token 20, key of head 0
    const auto after = run(spoilt);
    bool right = true;
    for (size_t i = 0; i < after.size(); ++i) {
      const bool own = i >= after.size() / 2 && i / width % 2 == 0;
      right = right && (own ? std::isnan(T::decode(after[i])) : after[i] == whole[i]);
    }
    CHECK(right, "%s: NaN in a key must reach its head of its image, and nothing else", name);
  }
  std::printf("attention, %s: %d checks passed\n", name, counts().passed - before);
}

alignas(16) float memory[8] = {};

void test_cut() {
  const AttentionShape good{2, 3800, 12, 32, 50, 76};
  AttentionCut cut;
  const auto taken = [&](const AttentionShape& shape) { return cut_attention(shape, 4, memory, memory, memory, cut); };
  CHECK(taken(good) && cut.slices == 1 && cut.query_blocks == 30 && cut.blocks == 720, "LIT-S at 800 x 1216");
  CHECK(taken({1, 196, 1, 64, 0, 0}) && cut.slices == 2 && cut.blocks == 4, "no table");
  CHECK(taken({1, 196, 1, 65, 14, 14}) && cut.slices == 4 && cut.blocks == 7, "a head of three slices takes four");
  const auto taken_half = [&](const AttentionShape& shape, const char* y) {
    return cut_attention(shape, 2, memory, memory, y, cut);
  };
  const char* const aligned = reinterpret_cast<const char*>(memory);
  CHECK(taken_half(good, aligned) && cut.tensor_cores && cut.query_blocks == 60 && cut.blocks == 1440, "tensor cores");
  CHECK(taken_half(good, aligned + 2) && !cut.tensor_cores && cut.blocks == 720, "misaligned for tensor cores");
  CHECK(taken_half({1, 9, 1, 48, 3, 3}, aligned) && !cut.tensor_cores, "a head of neither 32 nor 64");
  const AttentionShape refused[] = {{-1, 9, 1, 8, 3, 3}, {1, -9, 1, 8, 3, 3}, {1, 9, 0, 8, 3, 3}, {1, 9, 1, 0, 3, 3},
                                    {1, 9, 1, 129, 3, 3}, {1, 9, 1, 8, 3, 4}, {1, 9, 1, 8, 9, 0}, {1, 9, 1, 8, -3, -3},
                                    {int64_t{1} << 40, int64_t{1} << 30, 8, 8, 0, 0},
                                    {1, (int64_t{1} << 31) - 1, 1, 8, 1, (int64_t{1} << 31) - 1}};
  for (const AttentionShape& shape : refused) {
    CHECK(!taken(shape), "taken: %lld images, %lld tokens, %lld heads of %lld, map %lld x %lld",
          static_cast<long long>(shape.batch), static_cast<long long>(shape.tokens),
          static_cast<long long>(shape.heads), static_cast<long long>(shape.head_dim),
          static_cast<long long>(shape.rows), static_cast<long long>(shape.columns));
  }
  CHECK(!cut_attention(good, 4, memory, nullptr, memory, cut), "a table that is null");
  CHECK(!cut_attention(good, 4, nullptr, memory, memory, cut), "null");
  CHECK(!cut_attention(good, 2, reinterpret_cast<const char*>(memory) + 1, memory, memory, cut), "misaligned");
  CHECK(cut_attention({0, 9, 1, 8, 3, 3}, 4, nullptr, nullptr, nullptr, cut) && cut.blocks == 0, "no image");
  CHECK(cut_attention({1, 0, 1, 8, 0, 0}, 4, nullptr, nullptr, nullptr, cut) && cut.blocks == 0, "no token");
}

}  // namespace

void test_cuda_attention() {
  test_cut();
  test_element<attention_cases::Float>("float32");
  test_element<attention_cases::Half>("float16");
  test_element<attention_cases::BFloat16>("bfloat16");
}
