// Runs a model through lit_runtime.hpp; prints one line per call: nanoseconds of the call, and those of ONNX Runtime's
// Run() inside it (see embedding_clock.cc).
//
//     embedding_calls MODEL.onnx native|pixels|picture THREADS CALLS CLOCK.so
#include <dlfcn.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "lit_runtime.hpp"

namespace {

constexpr int kWidth = 500, kHeight = 375;  // of the picture: a usual ImageNet size

int run(const char* path, const std::string& input, int threads, int calls, const char* clock) {
  lit::Options options;
  options.threads = threads;
  options.backend_library = clock;
  const lit::Model model(path, options);
  lit::Context context(model);
  const auto clock_of_last_run =
      reinterpret_cast<int64_t (*)()>(dlsym(dlopen(clock, RTLD_NOW | RTLD_NOLOAD), "clock_of_last_run"));

  const lit_input_spec& spec = model.info().input;
  std::vector<uint8_t> pixels(3 * kWidth * kHeight);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 2654435761u >> 24);
  std::vector<float> values(size_t{3} * spec.height * spec.width);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(pixels[i % pixels.size()]) / 128 - 1;
  const lit_type own = input == "native" ? spec.type : LIT_UINT8;
  const void* data = own == LIT_UINT8 ? static_cast<const void*>(pixels.data()) : values.data();
  const lit::Tensor tensor{own, data, 1, 0, 0};
  const std::vector<lit::Image> pictures = {{pixels.data(), kWidth, kHeight, 0}};

  for (int i = -5; i < calls; ++i) {  // five to warm up
    const auto begin = std::chrono::steady_clock::now();
    input == "picture" ? context.run(pictures) : context.run(tensor);
    const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - begin;
    if (i >= 0) std::printf("%lld %lld\n", static_cast<long long>(took.count()), static_cast<long long>(clock_of_last_run()));
  }
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count != 6) {
    std::fprintf(stderr, "usage: %s MODEL.onnx native|pixels|picture THREADS CALLS CLOCK.so\n", words[0]);
    return 2;
  }
  try {
    return run(words[1], words[2], std::atoi(words[3]), std::atoi(words[4]), words[5]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
