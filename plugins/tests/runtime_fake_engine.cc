#include "runtime_fake_engine.h"

#include <sstream>

#include "runtime_fake.h"

namespace {

int64_t volume(const FakeShape& shape) {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

size_t item(const std::string& type) {
  return type == "float32" || type == "int32" ? 4 : type == "int64" ? 8 : type == "uint8" ? 1 : 2;
}

// What the input of every image sums up to.
std::optional<std::vector<double>> sums_of(const FakeRun& run) {
  std::vector<double> sums(run.shapes[0][0]);
  for (size_t i = 0; i < run.tensors.size(); ++i) {
    const FakeTensor& tensor = run.tensors[i];
    if (!tensor.input) continue;
    const int64_t count = volume(run.shapes[i]);
    const auto* const floats = static_cast<const float*>(run.addresses[i]);
    const auto* const bytes = static_cast<const unsigned char*>(run.addresses[i]);
    const auto* const numbers = static_cast<const int64_t*>(run.addresses[i]);
    if (!tensor.host && !fake_is_memory(run.addresses[i], count * item(tensor.type))) return std::nullopt;
    for (int64_t at = 0; at < count; ++at) {
      if (tensor.type == "int64") sums[0] += static_cast<double>(numbers[at] * (2 * at + 1));
      else sums[at / (count / run.shapes[i][0])] += tensor.type == "uint8" ? bytes[at] : floats[at];
    }
  }
  return sums;
}

}  // namespace

const FakeTensor* FakeNetwork::find(const std::string& name) const {
  for (const FakeTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

std::optional<FakeNetwork> read_network(const std::string& content) {
  std::istringstream text(content);
  FakeNetwork network;
  std::string line, word;
  if (!std::getline(text, line) || line != "FAKE ENGINE") return std::nullopt;
  while (std::getline(text, line)) {
    std::istringstream words(line);
    words >> word;
    if (word == "profile") {
      network.profiles.emplace_back();
      words >> network.profiles.back().least >> network.profiles.back().most;
    } else if (word == "tensor") {
      FakeTensor tensor;
      std::string mode;
      words >> tensor.name >> mode >> tensor.type;
      tensor.input = mode == "in";
      for (int64_t number; words >> number;) tensor.shape.push_back(number);
      network.tensors.push_back(tensor);
    } else if (word == "host") {
      words >> word;
      for (FakeTensor& tensor : network.tensors) tensor.host = tensor.host || tensor.name == word;
    } else if (word == "code") {
      network.code = true;
    }
  }
  return network;
}

bool compute(const FakeRun& run) {
  const std::optional<std::vector<double>> sums = sums_of(run);
  if (!sums) return false;
  for (size_t i = 0; i < run.tensors.size(); ++i) {
    const FakeTensor& tensor = run.tensors[i];
    if (tensor.input) continue;
    const int64_t count = volume(run.shapes[i]), sizes = count / run.shapes[i][0];
    if (!fake_is_memory(run.addresses[i], count * item(tensor.type))) return false;
    for (int64_t at = 0; at < count; ++at) {
      const int64_t image = at / sizes, k = at % sizes;
      const double sum = (*sums)[image % sums->size()];
      const auto small = (static_cast<int64_t>(sum) + static_cast<int64_t>(i) + k) % 3;
      const auto number = static_cast<float>(sum * (k + 1) + 1000 * run.profile);
      void* const address = run.addresses[i];
      if (tensor.type == "float32") static_cast<float*>(address)[at] = number;
      else if (tensor.type == "int64") static_cast<int64_t*>(address)[at] = (7 * k + image) % sizes;
      else if (tensor.type == "int32") static_cast<int32_t*>(address)[at] = static_cast<int32_t>(small);
      else if (tensor.type == "uint8") static_cast<uint8_t*>(address)[at] = static_cast<uint8_t>(small);
    }
  }
  return true;
}
