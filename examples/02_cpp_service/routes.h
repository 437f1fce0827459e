// What a request asks for, and what answers look like; no input or output here.
#ifndef LIT_SERVICE_ROUTES_H_
#define LIT_SERVICE_ROUTES_H_

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

#include <boost/beast/http/fields.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/verb.hpp>
#include <boost/system/error_code.hpp>

#include "accept.h"
#include "models.h"

namespace lit_service {

struct Reply {
  unsigned status = 0;
  std::string body;
  const char* type = "application/json";
  const char* allow = nullptr;  // of 405: the methods that would do
  bool retry = false;           // soon: Retry-After
  std::chrono::duration<double, std::milli> took{-1};  // of a picture's answer: Server-Timing
  const char* policy = nullptr; // of a page: Content-Security-Policy, what a browser lets it do
};

struct Route {
  enum Kind { kPicture, kPage, kModels, kOpenApi, kHealth, kMetrics, kRefused };

  Kind kind;
  Served* model = nullptr;     // of kPicture: which is asked
  size_t top = 0;              // of kPicture: how many predictions
  Media media = Media::kJson;  // of kPicture: the form of the answer
  Reply refusal{};             // of kRefused
};

using Fields = boost::beast::http::fields;

// `target`: a path with its query, or a whole URL.
Route route_of(boost::beast::http::verb method, std::string_view target, const Fields& fields, Models& models);

// What is wrong with the head of a request, whatever it asks for: where its body ends, or whose it is, can be read in
// two ways. nullptr: nothing. `version`: 10 or 11.
const char* fault_of(unsigned version, const Fields& fields);

// Whether the body is a form, as curl --form makes one, or came as such and lost what lines end with, as curl --data
// drops it. (curl --data-binary calls its body a form as well.)
bool is_form(const Fields& fields, std::string_view body);

// The page of `GET /`.
Reply page();

// To a request that could not be received; `expired`: because it took too long.
Reply reply_to(const boost::system::error_code& error, bool expired);

// 503 with Retry-After.
Reply unavailable(std::string_view sentence);

// `version`: 10 or 11, of the request.
boost::beast::http::response<boost::beast::http::string_body> response_from(Reply reply, unsigned version,
                                                                            bool keep_alive);

}  // namespace lit_service

#endif  // LIT_SERVICE_ROUTES_H_
