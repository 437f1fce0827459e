// libFuzzer's entry: any bytes are a picture or a DecodeError.
#include <cstdlib>

#include "decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kMaxPixels = 1 << 18;
  try {
    const lit_service::Picture picture =
        lit_service::decode({reinterpret_cast<const char*>(data), size}, {kMaxPixels, {}, true});
    // Read all of it, so that what the decoder left undefined is seen by MemorySanitizer and what is short by ASan.
    const size_t bytes = size_t{3} * picture.width * picture.height;
    if (bytes == 0 || bytes > 3 * kMaxPixels) std::abort();
    unsigned sum = 0;
    for (size_t i = 0; i < bytes; ++i) sum += picture.rgb[i];
    volatile unsigned sink = sum;
    static_cast<void>(sink);
  } catch (const lit_service::DecodeError&) {
  }
  return 0;
}
