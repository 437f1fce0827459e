// Reading JSON that nobody can be trusted to have written: manifests and sidecars.
#ifndef LIT_DEPLOY_RUNTIME_JSON_FIELDS_H_
#define LIT_DEPLOY_RUNTIME_JSON_FIELDS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "json_document.h"

namespace lit_deploy::runtime {

// The members of an object, each of the type that it must have; throws Damaged.
class Fields {
 public:
  // `where`: name of the object, for messages; "" for the document itself.
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw Damaged{(where_.empty() ? "it" : where_) + " is no object"};
  }

  const Json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) throw Damaged{name(key) + " is missing"};
    return *found;
  }
  const Json& list(const char* key) const {
    if (!at(key).is_array()) throw Damaged{name(key) + " is no list"};
    return at(key);
  }
  std::string text(const char* key) const { return text(at(key), name(key)); }
  bool flag(const char* key) const {
    if (!at(key).is_boolean()) throw Damaged{name(key) + " is neither true nor false"};
    return at(key).get<bool>();
  }
  int64_t integer(const char* key, int64_t least, int64_t most) const {
    return integer(at(key), name(key), least, most);
  }
  std::optional<std::string> optional_text(const char* key) const {
    if (at(key).is_null()) return std::nullopt;
    return text(key);
  }
  std::optional<int64_t> optional_integer(const char* key, int64_t least, int64_t most) const {
    if (at(key).is_null()) return std::nullopt;
    return integer(key, least, most);
  }
  // One of `names`, as its index.
  template <size_t N>
  int choice(const char* key, const std::array<const char*, N>& names) const {
    const std::string value = text(key);
    int index = 0;
    for (const char* known : names) {
      if (value == known) return index;
      ++index;
    }
    throw Damaged{name(key) + " has a value that is not known here"};
  }
  bool has(const char* key) const { return object_.find(key) != object_.end(); }
  std::string name(const char* key) const { return where_.empty() ? key : where_ + "." + key; }

  static std::string text(const Json& value, const std::string& name) {
    if (!value.is_string()) throw Damaged{name + " is no text"};
    return value.get<std::string>();
  }
  static int64_t integer(const Json& value, const std::string& name, int64_t least, int64_t most) {
    // A number beyond int64_t is unsigned, and would come out as another one.
    const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(most)
                                                 : value.is_number_integer() && value.get<int64_t>() <= most;
    if (!fits || value.get<int64_t>() < least) {
      throw Damaged{name + " is no whole number from " + std::to_string(least) + " to " + std::to_string(most)};
    }
    return value.get<int64_t>();
  }

 private:
  const Json& object_;
  std::string where_;
};

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_JSON_FIELDS_H_
