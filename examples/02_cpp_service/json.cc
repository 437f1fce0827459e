#include "json.h"

#include <charconv>
#include <cstdio>

namespace lit_service {

std::string quoted(std::string_view text) {
  std::string json = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      json += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      json += escape;
    } else {
      json += c;
    }
  }
  return json + "\"";
}

std::string error_json(std::string_view sentence) { return "{\"error\": " + quoted(sentence) + "}\n"; }

std::string predictions_json(const std::vector<lit::Prediction>& predictions) {
  std::string json = "{\"predictions\": [";
  for (const lit::Prediction& prediction : predictions) {
    char number[32];  // the shortest text that reads back as the same float
    const char* end = std::to_chars(number, number + sizeof number, prediction.probability).ptr;
    if (json.back() != '[') json += ", ";
    json += "{\"class\": " + std::to_string(prediction.class_index) + ", \"label\": " + quoted(prediction.label) +
            ", \"probability\": " + std::string(number, static_cast<size_t>(end - number)) + "}";
  }
  return json + "]}\n";
}

}  // namespace lit_service
