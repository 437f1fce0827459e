// consumer_c/main.c in C++17, with lit_runtime.hpp: the same arguments, the same output.
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <future>
#include <iterator>
#include <lit_runtime.hpp>
#include <string>
#include <vector>

namespace {

std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Bytes of one run, by a context of its own.
std::string run(const lit::Model& model, const lit::Tensor& input) {
  lit::Context context(model);
  const lit::Output output = context.run(input);
  const auto count = static_cast<std::size_t>(output.batch * output.count);
  std::string bytes(reinterpret_cast<const char*>(output.scores), count * sizeof(float));
  if (output.classes != nullptr)
    bytes.append(reinterpret_cast<const char*>(output.classes), count * sizeof(std::int64_t));
  return bytes;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 8) return 2;
  lit::Options options;
  if (argc > 8) options.operator_library = argv[8];
  const lit::Model model(argv[1], options);
  std::printf("%s\n", model.info().backend);

  const std::vector<char> bytes = read_file(argv[3]);
  const lit_type type = std::string(argv[2]) == "float" ? LIT_FLOAT32 : LIT_UINT8;
  const lit::Tensor input{type, bytes.data(), std::stoll(argv[4]), std::stoll(argv[5]), 0};
  std::ofstream output(argv[7], std::ios::binary);
  output << run(model, input);
  std::vector<std::future<std::string>> runs;
  for (int i = 0; i < std::stoi(argv[6]); ++i) {
    runs.push_back(std::async(std::launch::async, [model, &input] { return run(model, input); }));
  }
  for (auto& result : runs) output << result.get();
  output.close();
  return output ? 0 : 2;
} catch (const lit::Error& error) {
  std::fprintf(stderr, "%s: %s\n", lit_status_name(error.status()), error.what());
  return 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
