// A file that is read at offsets, whoever wrote it.
#ifndef LIT_DEPLOY_RUNTIME_FILE_H_
#define LIT_DEPLOY_RUNTIME_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "error.h"

namespace lit_deploy::runtime {

class File {
 public:
  // `kind`: what is expected, "an .onnx file". Throws LIT_FILE_ERROR.
  File(const std::string& path, const std::string& kind);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const { return size_; }

  // Reads up to `count` bytes at `offset`; how many there were.
  size_t read(uint64_t offset, char* bytes, size_t count) const;

 private:
  int descriptor_;
  uint64_t size_ = 0;
};

// That a whole file is none of ours.
Error no_manifest(const std::string& path);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_FILE_H_
