#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lit_deploy::runtime {

// O_NONBLOCK: opening a pipe would wait for somebody to write; it changes nothing for a file.
File::File(const std::string& path, const std::string& kind)
    : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) throw Error(LIT_FILE_ERROR, path + " cannot be opened (" + std::strerror(errno) + ")");
  struct stat status;
  if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(descriptor_);
    throw Error(LIT_FILE_ERROR, path + " is not a file; expected " + kind + " written by `lit-deploy export`");
  }
  size_ = static_cast<uint64_t>(status.st_size);
}

File::~File() { close(descriptor_); }

size_t File::read(uint64_t offset, char* bytes, size_t count) const {
  size_t done = 0;
  while (done < count) {
    const ssize_t got = pread(descriptor_, bytes + done, count - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  return done;
}

Error no_manifest(const std::string& path) {
  return Error(LIT_BAD_MODEL, path + " holds no lit-deploy manifest; expected a file written by `lit-deploy export`");
}

}  // namespace lit_deploy::runtime
