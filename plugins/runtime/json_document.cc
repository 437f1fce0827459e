#include "json_document.h"

#include <array>
#include <utility>

#include "contract.h"

namespace lit_deploy::runtime {
namespace {

// Takes the members out, from the innermost on: clear() then meets values without any, which need no memory.
void dismantle(Json& value) noexcept {
  if (!value.is_structured()) return;
  for (Json& member : value) dismantle(member);
  value.clear();
}

// Puts the tree together as the parser reads it. The parser's own way ends, where memory is short, in a destructor.
class Builder {
 public:
  explicit Builder(Json& root) : next_(&root) {}

  bool null() { return place(nullptr); }
  bool boolean(bool value) { return place(value); }
  bool number_integer(Json::number_integer_t value) { return place(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return place(value); }
  bool number_float(Json::number_float_t value, const Json::string_t&) { return place(value); }
  bool string(Json::string_t& value) { return place(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // JSON has none
  bool start_object(size_t) { return open(Json::value_t::object); }
  bool start_array(size_t) { return open(Json::value_t::array); }
  bool end_object() { return --depth_, true; }
  bool end_array() { return --depth_, true; }
  bool parse_error(size_t, const std::string&, const Json::exception&) { return false; }

  bool key(Json::string_t& name) {
    next_ = &(*parents_[depth_ - 1])[std::move(name)];
    dismantle(*next_);  // of two members of one name the last counts
    return true;
  }

 private:
  template <typename Value>
  bool place(Value&& value) {
    slot() = std::forward<Value>(value);
    return true;
  }

  bool open(Json::value_t kind) {
    if (depth_ == contract::kMaxNesting) return false;
    Json& made = slot();
    made = Json(kind);
    parents_[depth_++] = &made;
    return true;
  }

  // Where the next value belongs: the root, the member whose key was read last, or the end of a list.
  Json& slot() {
    if (depth_ == 0 || parents_[depth_ - 1]->is_object()) return *next_;
    parents_[depth_ - 1]->push_back(nullptr);
    return parents_[depth_ - 1]->back();
  }

  std::array<Json*, contract::kMaxNesting> parents_{};  // they stay where they are while they are open
  int depth_ = 0;
  Json* next_;
};

}  // namespace

Document::~Document() { dismantle(root_); }

void Document::read(const std::string& text) {
  if (text.size() > contract::kMaxJsonBytes) {
    throw Damaged{"it has more than " + std::to_string(contract::kMaxJsonBytes) + " bytes"};
  }
  Builder builder(root_);
  if (!Json::sax_parse(text, &builder)) throw Damaged{"it is no JSON of ours"};
}

}  // namespace lit_deploy::runtime
