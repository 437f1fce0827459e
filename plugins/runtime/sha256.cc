#include "sha256.h"

#include <fstream>
#include <iterator>

#include "error.h"
#include "shared_library.h"

namespace lit_deploy::runtime {

std::string sha256_of(const void* data, size_t size) {
  // In every release since 0.9.8, with this signature.
  using Function = unsigned char* (*)(const unsigned char*, size_t, unsigned char*);
  const Wanted wanted{"OpenSSL's libcrypto", {"libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so"}, nullptr, "", true};
  const SharedLibrary library = load_library(wanted, "install OpenSSL (Debian: apt-get install libssl3)");
  const auto function = reinterpret_cast<Function>(library.symbol("SHA256"));
  unsigned char digest[32];
  if (function == nullptr || function(static_cast<const unsigned char*>(data), size, digest) == nullptr) {
    throw Error(LIT_NOT_SUPPORTED, library.path + " computes no SHA-256 here; check OpenSSL's configuration");
  }
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

std::string sha256_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) throw Error(LIT_FILE_ERROR, path + " cannot be read");
  return sha256_of(bytes.data(), bytes.size());
}

}  // namespace lit_deploy::runtime
