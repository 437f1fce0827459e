// What an engine of the fake TensorRT is, lines of text, and what it computes: sums that can be told from the input.
//
//   FAKE ENGINE
//   tensor <name> <in|out> <type> <size> ...     -1: the batch, or a side of a picture; -n: of any size, which turns
//                                                out to be n; 0: the next number of what is read on the host
//   host <name>                                  that input is read on the host, as sizes hang on its numbers
//   profile <least> <most>                       images; as many as there are
//   code                                         refused unless code inside engines is allowed
//
// float32 output: sum of the image's input * (k + 1) + 1000 * profile; int64: (7 * k + image) mod sizes; int32 and
// uint8: (sum + place among the tensors + k) mod 3; others: 0. What is read on the host counts 1, 3, ... times.
#ifndef LIT_DEPLOY_TESTS_RUNTIME_FAKE_ENGINE_H_
#define LIT_DEPLOY_TESTS_RUNTIME_FAKE_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

struct FakeTensor {
  std::string name, type;
  bool input = false, host = false;
  std::vector<int64_t> shape;
};

struct FakeProfile {
  int64_t least, most;
};

struct FakeNetwork {
  std::vector<FakeTensor> tensors;
  std::vector<FakeProfile> profiles;
  bool code = false;

  const FakeTensor* find(const std::string& name) const;
};

using FakeShape = std::vector<int64_t>;

// Nothing where it is no engine.
std::optional<FakeNetwork> read_network(const std::string& text);

// One run: shapes of all tensors, where they are, and a profile. False where memory is not there.
struct FakeRun {
  std::vector<FakeTensor> tensors;
  std::vector<FakeShape> shapes;
  std::vector<void*> addresses;
  int profile;
};
bool compute(const FakeRun& run);

#endif  // LIT_DEPLOY_TESTS_RUNTIME_FAKE_ENGINE_H_
