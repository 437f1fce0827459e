// An IR is XML, of which one attribute is wanted: <lit_deploy><manifest value="..." /></lit_deploy> in the rt_info of
// the model. A '<' stands for itself nowhere in XML but in comments, of which OpenVINO writes none, so that the words
// are found without a parser; whether the rest is whole shows when OpenVINO reads it.
#include "ir_metadata.h"

#include <cstdint>

#include "contract.h"
#include "error.h"
#include "file.h"
#include "json_fields.h"

namespace lit_deploy::runtime {
namespace {

constexpr uint64_t kMostXmlBytes = 256ull << 20;  // LIT-S has one MiB
constexpr const char* kSpace = " \t\r\n";

struct Entity {
  const char* name;
  char character;
};
constexpr Entity kEntities[] = {{"quot", '"'}, {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"apos", '\''}};

struct NotIr {};

// `name` stands at `text[at]`, behind white space perhaps; where it ends.
size_t expect(const std::string& text, size_t at, const std::string& name) {
  at = text.find_first_not_of(kSpace, at);
  if (at == text.npos || text.compare(at, name.size(), name) != 0) throw NotIr();
  return at + name.size();
}

// A character by its number: "#10", "#x1F"; those that OpenVINO writes so are ASCII.
char numbered(const std::string& name) {
  const bool hexadecimal = name.size() > 1 && name[1] == 'x';
  const std::string digits = name.substr(hexadecimal ? 2 : 1);
  if (digits.empty() || digits.size() > 3 ||
      digits.find_first_not_of(hexadecimal ? "0123456789abcdefABCDEF" : "0123456789") != digits.npos) {
    throw NotIr();
  }
  const int code = std::stoi(digits, nullptr, hexadecimal ? 16 : 10);
  if (code < 1 || code > 127) throw NotIr();
  return static_cast<char>(code);
}

std::string decoded(const std::string& value) {
  std::string text;
  for (size_t at = 0; at < value.size(); ++at) {
    if (value[at] != '&') {
      text += value[at];
      continue;
    }
    const size_t end = value.find(';', at);
    if (end == value.npos) throw NotIr();
    const std::string name = value.substr(at + 1, end - at - 1);
    char character = 0;
    for (const Entity& entity : kEntities) {
      if (name == entity.name) character = entity.character;
    }
    if (character == 0 && !name.empty() && name[0] == '#') character = numbered(name);
    if (character == 0) throw NotIr();
    text += character;
    at = end;
  }
  return text;
}

}  // namespace

std::string ir_metadata(const std::string& path) {
  const File file(path, "an .xml file");
  File(path.substr(0, path.rfind('.')) + ".bin", "the weights of an .xml file");
  if (file.size() > kMostXmlBytes) {
    throw Error(LIT_BAD_MODEL, path + " is not a whole OpenVINO IR (it has more than 256 MiB); export it again");
  }
  std::string text(file.size(), '\0');
  text.resize(file.read(0, text.data(), text.size()));
  try {
    if (text.find("</net>") == text.npos) throw NotIr();
    const std::string element = "<lit_deploy>";
    const size_t found = text.rfind(element);
    if (found == text.npos) throw no_manifest(path);
    size_t at = expect(text, found + element.size(), "<manifest");
    at = expect(text, at, "value=\"");
    const size_t end = text.find('"', at);
    if (end == text.npos || end - at > 6 * contract::kMaxJsonBytes) throw NotIr();
    return decoded(text.substr(at, end - at));
  } catch (const NotIr&) {
    throw Error(LIT_BAD_MODEL, path + " is not a whole OpenVINO IR (truncated or another format); export it again");
  }
}

}  // namespace lit_deploy::runtime
