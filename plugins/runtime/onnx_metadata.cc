// An .onnx file is one protobuf message (ModelProto); its top-level fields are walked here and all but metadata_props
// are skipped by their length, so that a file of gigabytes costs a few reads. Linking a protobuf library for this one
// entry would put a second copy of it beside ONNX Runtime's. Source: protobuf's encoding guide, onnx.proto.
#include "onnx_metadata.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "contract.h"
#include "error.h"
#include "file.h"
#include "json_fields.h"

namespace lit_deploy::runtime {
namespace {

constexpr uint64_t kMetadataProps = 14;        // of ModelProto
constexpr uint64_t kFunctions = 25;            // of ModelProto
constexpr uint64_t kKey = 1, kValue = 2;       // of StringStringEntryProto
constexpr int kMostFields = 10000;             // at the top level; ours have about twenty

enum WireType : uint64_t { kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5 };

struct NotOnnx {};

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

// Hands every field of the top level that has a length to `function`, with the offset at which its content begins.
template <typename Function>
void for_each_field(const File& file, Function&& function) {
  int fields = 0;
  for (uint64_t at = 0; at < file.size();) {
    if (++fields > kMostFields) throw NotOnnx();
    char head[20];  // a tag and a length
    const size_t count = file.read(at, head, std::min<uint64_t>(sizeof(head), file.size() - at));
    const Field field = next_field(head, count, file.size() - at);
    if (field.wire_type == kLengthDelimited) function(field, at + field.begin);
    at += field.end;
  }
}

bool find_entry(const File& file, const std::string& key, std::string* value) {
  bool found = false;
  for_each_field(file, [&](const Field& field, uint64_t begin) {
    if (field.number != kMetadataProps) return;
    if (field.end - field.begin > contract::kMaxJsonBytes) throw NotOnnx();
    std::string bytes(field.end - field.begin, '\0');
    if (file.read(begin, bytes.data(), bytes.size()) != bytes.size()) throw NotOnnx();
    auto [name, text] = parse_entry(bytes);
    if (name == key) {
      *value = std::move(text);
      found = true;
    }
  });
  return found;
}

Error not_whole(const std::string& path) {
  return Error(LIT_BAD_MODEL, path + " is not a whole ONNX file (truncated or another format); export it again");
}

}  // namespace

std::string onnx_metadata(const std::string& path, const std::string& key) {
  const File file(path, "an .onnx file");
  std::string value;
  try {
    if (file.size() > 0 && find_entry(file, key, &value)) return value;
  } catch (const NotOnnx&) {
    throw not_whole(path);
  }
  throw no_manifest(path);
}

bool onnx_has_functions(const std::string& path) {
  const File file(path, "an .onnx file");
  bool found = false;
  try {
    for_each_field(file, [&](const Field& field, uint64_t) { found = found || field.number == kFunctions; });
  } catch (const NotOnnx&) {
    throw not_whole(path);
  }
  return found;
}

}  // namespace lit_deploy::runtime
