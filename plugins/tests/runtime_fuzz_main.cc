// Runs LLVMFuzzerTestOneInput() without libFuzzer:  runtime_fuzz SEED COUNT FILE...
// Every file as it is, then COUNT damaged copies of each. The same SEED makes the same copies, on every machine.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

// `random() % n` and not std::uniform_int_distribution, whose numbers differ between libraries.
void damage(Bytes& bytes, std::mt19937_64& random) {
  for (uint64_t left = 1 + random() % 4; left > 0 && !bytes.empty(); --left) {
    // Half of the time near an end: there lie the graph's head and the metadata, between them megabytes of weights.
    const uint64_t near = std::min<uint64_t>(bytes.size(), 6000);
    const uint64_t place = random() % 4;
    const size_t at = place == 0   ? random() % near
                      : place == 1 ? bytes.size() - 1 - random() % near
                                   : random() % bytes.size();
    const size_t count = std::min<size_t>(1 + random() % 64, bytes.size() - at);
    switch (random() % 7) {
      case 0: bytes[at] ^= static_cast<uint8_t>(1u << random() % 8); break;
      case 1: bytes[at] = static_cast<uint8_t>(random()); break;
      case 2: std::fill_n(bytes.begin() + at, count, random() % 2 != 0 ? 0xff : 0x00); break;
      case 3: bytes.erase(bytes.begin() + at, bytes.begin() + at + count); break;
      case 4: bytes.insert(bytes.begin() + at, count, static_cast<uint8_t>(random())); break;
      case 5: {  // a piece from elsewhere
        const size_t from = random() % (bytes.size() - count + 1);
        std::copy_n(Bytes(bytes.begin() + from, bytes.begin() + from + count).begin(), count, bytes.begin() + at);
        break;
      }
      default: bytes.resize(at);  // cut off
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s SEED COUNT FILE...\n", argv[0]);
    return 2;
  }
  std::mt19937_64 random(std::strtoull(argv[1], nullptr, 10));
  const long count = std::strtol(argv[2], nullptr, 10);
  long done = 0;
  for (int i = 3; i < argc; ++i) {
    std::ifstream file(argv[i], std::ios::binary);
    const Bytes whole((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (whole.empty()) {
      std::fprintf(stderr, "%s is empty or cannot be read\n", argv[i]);
      return 2;
    }
    for (long copy = 0; copy <= count; ++copy, ++done) {
      Bytes bytes = whole;
      if (copy > 0) damage(bytes, random);
      // What is running is on disk when it crashes.
      if (const char* current = std::getenv("LIT_DEPLOY_FUZZ_CURRENT")) {
        std::ofstream(current, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      }
      LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
  }
  std::printf("%ld inputs\n", done);
  return 0;
}
