// SHA-256 of memory and of files, by OpenSSL's libcrypto, which is loaded when it is needed: .onnx files need none.
#ifndef LIT_DEPLOY_RUNTIME_SHA256_H_
#define LIT_DEPLOY_RUNTIME_SHA256_H_

#include <cstddef>
#include <string>

namespace lit_deploy::runtime {

// 64 lower-case hexadecimal digits. Throws LIT_LIBRARY_NOT_FOUND, or LIT_NOT_SUPPORTED where libcrypto was told to do
// without SHA-256.
std::string sha256_of(const void* data, size_t size);

// The same of a file's bytes. Throws LIT_FILE_ERROR, too.
std::string sha256_of_file(const std::string& path);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_SHA256_H_
