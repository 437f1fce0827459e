#include "accept.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include <boost/beast/core/string.hpp>

namespace lit_service {
namespace {

using boost::beast::iequals;

// How well a range fits: thousandths of quality, then how much of the type it names. Nothing fits less than {0, 0}.
using Fit = std::pair<int, int>;

std::string_view trimmed(std::string_view text) {
  const size_t first = std::min(text.find_first_not_of(" \t"), text.size());
  return text.substr(first, text.find_last_not_of(" \t") + 1 - first);
}

// Takes off what is before the next separator outside of quotes, and the separator.
std::string_view take(std::string_view& text, char separator) {
  size_t end = 0;
  for (bool quoted = false; end < text.size() && (quoted || text[end] != separator); ++end) {
    if (text[end] == '"') quoted = !quoted;
    if (text[end] == '\\' && quoted && end + 1 < text.size()) ++end;
  }
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return trimmed(part);
}

// Thousandths; -1 for what is no quality. Java writes .2 where 0.2 is meant.
int quality(std::string_view text) {
  const std::string whole = text.starts_with('.') ? "0" + std::string(text) : std::string();
  if (!whole.empty()) text = whole;
  if (text.empty() || text.size() > 5 || (text[0] != '0' && text[0] != '1')) return -1;
  if (text.size() > 1 && text[1] != '.') return -1;
  int value = (text[0] - '0') * 1000;
  for (size_t place = 2, weight = 100; place < text.size(); ++place, weight /= 10) {
    if (text[place] < '0' || text[place] > '9') return -1;
    value += (text[place] - '0') * static_cast<int>(weight);
  }
  return value <= 1000 ? value : -1;
}

// How much of a type a range names: 3 all of it, 2 "image/*", 1 "*/*" or Java's "*", 0 another.
int named(std::string_view range, std::string_view type) {
  if (iequals(range, type)) return 3;
  if (range == "*/*" || range == "*") return 1;
  const bool all = range.ends_with("/*");
  return all && iequals(range.substr(0, range.size() - 1), type.substr(0, type.find('/') + 1)) ? 2 : 0;
}

}  // namespace

const char* name_of(Media media) { return media == Media::kJson ? "application/json" : "image/png"; }

std::optional<Media> preferred(std::string_view accept, bool png) {
  if (trimmed(accept).empty()) return Media::kJson;
  std::array<Fit, 2> fits{};
  while (!accept.empty()) {
    std::string_view element = take(accept, ',');
    const std::string_view range = take(element, ';');
    int value = 1000;
    while (!element.empty()) {
      const std::string_view parameter = take(element, ';');
      if (parameter.size() >= 2 && iequals(parameter.substr(0, 2), "q=")) value = quality(parameter.substr(2));
    }
    for (const Media media : {Media::kJson, Media::kPng}) {
      Fit& fit = fits[static_cast<size_t>(media)];
      const int much = value < 0 ? 0 : named(range, name_of(media));
      if (much > fit.second) fit = {value, much};  // the most specific range decides, also with 0
    }
  }
  const auto [json, picture] = fits;
  if (png && picture.first > 0 && picture > json) return Media::kPng;
  if (json.first > 0) return Media::kJson;
  return std::nullopt;
}

}  // namespace lit_service
