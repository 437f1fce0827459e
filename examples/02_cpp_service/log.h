// What the service prints about itself, a line at a time; names in it may be anybody's.
#ifndef LIT_SERVICE_LOG_H_
#define LIT_SERVICE_LOG_H_

#include <string>
#include <string_view>

namespace lit_service {

// UTF-8 on one line and without control characters, which a terminal would obey: they become \x1b and the like.
std::string printable(std::string_view text);

// "lit_service: <text>" on stdout, at once; any thread.
void log(std::string_view text);

// "lit_service: error: <text>" on stderr; any thread.
void log_error(std::string_view text);

}  // namespace lit_service

#endif  // LIT_SERVICE_LOG_H_
