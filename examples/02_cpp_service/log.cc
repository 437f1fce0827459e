#include "log.h"

#include <cstdio>

namespace lit_service {

std::string printable(std::string_view text) {
  std::string line;
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char byte = static_cast<unsigned char>(text[i]);
    const unsigned char next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    const bool second_set = byte == 0xc2 && next >= 0x80 && next < 0xa0;  // U+0080 to U+009f, in two bytes
    if (byte >= 0x20 && byte != 0x7f && !second_set) {
      line += text[i];
      continue;
    }
    char escape[8];
    std::snprintf(escape, sizeof escape, "\\x%02x", second_set ? next : byte);
    line += escape;
    i += second_set ? 1 : 0;
  }
  return line;
}

void log(std::string_view text) {
  std::printf("lit_service: %s\n", printable(text).c_str());
  std::fflush(stdout);
}

void log_error(std::string_view text) { std::fprintf(stderr, "lit_service: error: %s\n", printable(text).c_str()); }

}  // namespace lit_service
