// An .onnx file is one protobuf message (ModelProto); its top-level fields are walked here and all but metadata_props
// are skipped by their length, so that a file of gigabytes costs a few reads. Linking a protobuf library for this one
// entry would put a second copy of it beside ONNX Runtime's. Source: protobuf's encoding guide, onnx.proto.
#include "onnx_metadata.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "error.h"
#include "json_fields.h"

namespace lit_deploy::runtime {
namespace {

constexpr uint64_t kMetadataProps = 14;        // of ModelProto
constexpr uint64_t kKey = 1, kValue = 2;       // of StringStringEntryProto
constexpr int kMostFields = 10000;             // at the top level; ours have about twenty

enum WireType : uint64_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

struct NotOnnx {};

class File {
 public:
  // O_NONBLOCK: opening a pipe would wait for somebody to write; it changes nothing for a file.
  explicit File(const std::string& path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (descriptor_ < 0) throw Error(LIT_FILE_ERROR, path + " cannot be opened (" + std::strerror(errno) + ")");
    struct stat status;
    if (fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
      close(descriptor_);
      throw Error(LIT_FILE_ERROR, path + " is not a file; expected an .onnx file written by `lit-deploy export`");
    }
    size_ = static_cast<uint64_t>(status.st_size);
  }
  ~File() { close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const { return size_; }

  // Reads up to `count` bytes at `offset`; how many there were.
  size_t read(uint64_t offset, char* bytes, size_t count) const {
    size_t done = 0;
    while (done < count) {
      const ssize_t got = pread(descriptor_, bytes + done, count - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      done += static_cast<size_t>(got);
    }
    return done;
  }

 private:
  int descriptor_;
  uint64_t size_ = 0;
};

// A base-128 varint at the start of `bytes`; how long it is.
size_t read_varint(const char* bytes, size_t count, uint64_t* value) {
  *value = 0;
  for (size_t i = 0; i < std::min<size_t>(count, 10); ++i) {
    *value |= static_cast<uint64_t>(bytes[i] & 0x7f) << (7 * i);
    if ((bytes[i] & 0x80) == 0) return i + 1;
  }
  throw NotOnnx();
}

// One field: where its content begins and ends, counted from the start of what was handed to next_field().
struct Field {
  uint64_t number;
  uint64_t wire_type;
  uint64_t begin, end;
};

// The field whose head is in `head`, in a message that has `left` bytes from there on.
Field next_field(const char* head, size_t count, uint64_t left) {
  uint64_t tag = 0, length = 0;
  uint64_t begin = read_varint(head, count, &tag);
  switch (tag & 7) {
    case kVarint:
      begin += read_varint(head + begin, count - begin, &length);
      length = 0;
      break;
    case kFixed64:
      length = 8;
      break;
    case kLengthDelimited:
      begin += read_varint(head + begin, count - begin, &length);
      break;
    case kFixed32:
      length = 4;
      break;
    default:
      throw NotOnnx();
  }
  if (tag >> 3 == 0 || length > left - begin) throw NotOnnx();
  return {tag >> 3, tag & 7, begin, begin + length};
}

// Key and value of one entry.
std::pair<std::string, std::string> parse_entry(const std::string& bytes) {
  std::pair<std::string, std::string> entry;
  for (uint64_t at = 0; at < bytes.size();) {
    const size_t left = bytes.size() - at;
    const Field field = next_field(bytes.data() + at, left, left);
    if (field.wire_type == kLengthDelimited && (field.number == kKey || field.number == kValue)) {
      (field.number == kKey ? entry.first : entry.second) = bytes.substr(at + field.begin, field.end - field.begin);
    }
    at += field.end;
  }
  return entry;
}

bool find_entry(const File& file, const std::string& key, std::string* value) {
  bool found = false;
  int fields = 0;
  for (uint64_t at = 0; at < file.size();) {
    if (++fields > kMostFields) throw NotOnnx();
    char head[20];  // a tag and a length
    const size_t count = file.read(at, head, std::min<uint64_t>(sizeof(head), file.size() - at));
    const Field field = next_field(head, count, file.size() - at);
    if (field.number == kMetadataProps && field.wire_type == kLengthDelimited) {
      if (field.end - field.begin > kMostJsonBytes) throw NotOnnx();
      std::string bytes(field.end - field.begin, '\0');
      if (file.read(at + field.begin, bytes.data(), bytes.size()) != bytes.size()) throw NotOnnx();
      auto [name, text] = parse_entry(bytes);
      if (name == key) {
        *value = std::move(text);
        found = true;
      }
    }
    at += field.end;
  }
  return found;
}

}  // namespace

std::string onnx_metadata(const std::string& path, const std::string& key) {
  const File file(path);
  std::string value;
  try {
    if (file.size() > 0 && find_entry(file, key, &value)) return value;
  } catch (const NotOnnx&) {
    throw Error(LIT_BAD_MODEL, path + " is not a whole ONNX file (truncated or another format); export it again");
  }
  throw Error(LIT_BAD_MODEL, path + " holds no lit-deploy manifest; expected a file written by `lit-deploy export`");
}

}  // namespace lit_deploy::runtime
