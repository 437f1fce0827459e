#include "sha256.h"

#include <openssl/evp.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "error.h"

namespace lit_deploy::runtime {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    if (context_ == nullptr) throw std::bad_alloc();
    check(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr));
  }

  void add(const void* data, size_t size) { check(EVP_DigestUpdate(context_.get(), data, size)); }

  std::string digits() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    check(EVP_DigestFinal_ex(context_.get(), digest, &size));
    std::string text;
    for (unsigned int i = 0; i < size; ++i) {
      text += "0123456789abcdef"[digest[i] >> 4];
      text += "0123456789abcdef"[digest[i] & 15];
    }
    return text;
  }

 private:
  static void check(int success) {
    if (success != 1) throw Error(LIT_INTERNAL_ERROR, "OpenSSL cannot compute SHA-256 here; check its configuration");
  }
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256_of(const void* data, size_t size) {
  Sha256 hash;
  hash.add(data, size);
  return hash.digits();
}

std::string sha256_of_file(const std::string& path) {
  const std::unique_ptr<std::FILE, decltype(&std::fclose)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) throw Error(LIT_FILE_ERROR, path + " cannot be opened: " + std::strerror(errno));
  Sha256 hash;
  std::vector<char> piece(1 << 20);
  while (const size_t size = std::fread(piece.data(), 1, piece.size(), file.get())) hash.add(piece.data(), size);
  if (std::ferror(file.get())) throw Error(LIT_FILE_ERROR, path + " cannot be read: " + std::strerror(errno));
  return hash.digits();
}

}  // namespace lit_deploy::runtime
