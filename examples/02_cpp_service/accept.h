// Content negotiation: in which form a client wants its answer.
#ifndef LIT_SERVICE_ACCEPT_H_
#define LIT_SERVICE_ACCEPT_H_

#include <optional>
#include <string_view>

namespace lit_service {

enum class Media { kJson, kPng };

// "application/json", "image/png"
const char* name_of(Media media);

// What the value of an Accept field prefers among JSON and, where `png`, PNG; nullopt: it takes neither. The higher
// quality wins, of equal ones the more specific range, then JSON, which an empty value gets, too. Ranges that cannot be
// read are left out, parameters but q ignored. Source: RFC 9110, 12.5.1.
std::optional<Media> preferred(std::string_view accept, bool png);

}  // namespace lit_service

#endif  // LIT_SERVICE_ACCEPT_H_
