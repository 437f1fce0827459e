#include "routes.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>
#include <string>
#include <utility>

#include <boost/beast/core/string.hpp>
#include <boost/beast/http/error.hpp>

#include "json.h"
#include "page.h"

namespace lit_service {
namespace {

namespace http = boost::beast::http;

constexpr size_t kMostPredictions = 1000;

Route refused(unsigned status, std::string_view sentence, const char* allow = nullptr) {
  Reply reply{status, error_json(sentence)};
  reply.allow = allow;
  return {Route::kRefused, nullptr, 0, Media::kJson, std::move(reply)};
}

// What a query says: top=N, model=NAME, both or nothing. False for anything else.
struct Query {
  std::string_view model;
  size_t top = 0;
};

bool read(std::string_view text, Query& query) {
  while (!text.empty()) {
    const size_t end = std::min(text.find('&'), text.size());
    const std::string_view pair = text.substr(0, end);
    text = end == text.size() ? "" : text.substr(end + 1);
    const std::string_view value = pair.substr(std::min(pair.find('='), pair.size() - 1) + 1);
    if (pair.starts_with("model=") && query.model.empty() && !value.empty()) {
      query.model = value;
    } else if (pair.starts_with("top=") && query.top == 0) {
      const auto [rest, fault] = std::from_chars(value.data(), value.data() + value.size(), query.top);
      if (fault != std::errc() || rest != value.data() + value.size()) return false;
      if (query.top < 1 || query.top > kMostPredictions) return false;
    } else {
      return false;
    }
  }
  return true;
}

Route picture(std::string_view text, Task task, const Fields& fields, Models& models) {
  Query query;
  if (!read(text, query)) {
    // The query is not repeated: it may be anything, also what is no UTF-8 and would spoil the JSON.
    return refused(400, "the query is not top=N with N from 1 to " + std::to_string(kMostPredictions) +
                            ", model=NAME, or both with & between them: correct it");
  }
  Served* const model = query.model.empty() ? models.first_of(task) : models.named(query.model);
  if (model == nullptr && query.model.empty()) {
    return refused(404, "no model here is for this task: POST to " + models.paths());
  }
  if (model == nullptr) return refused(404, "no model here has this name: there are " + models.names());
  if (model->task != task) {
    return refused(404, "the model " + model->name + " is for another task: POST to " + model->path());
  }
  std::string accept;  // fields of one name are one list
  const auto [first, last] = fields.equal_range(http::field::accept);
  for (auto field = first; field != last; ++field) accept += (accept.empty() ? "" : ",") + std::string(field->value());
  const std::optional<Media> media = preferred(accept, gives_picture(task));
  if (!media) {
    return refused(406, std::string(path_of(task)) + " answers with application/json" +
                            (gives_picture(task) ? " or image/png" : "") + ", which the request does not accept");
  }
  return {Route::kPicture, model, query.top == 0 ? usual_top(task) : query.top, *media};
}

bool is_host(std::string_view text) {
  constexpr std::string_view kOthers = "-._~!$&'()*+,;=%:[]";
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || kOthers.find(c) != kOthers.npos;
  });
}

// A whole URL, as proxies send it, without what is before its path; a path as it is; "" for a URL without a host.
std::string_view path_of(std::string_view target) {
  const size_t scheme = target.find("://");
  if (scheme == target.npos || target.starts_with('/')) return target;
  const std::string_view name = target.substr(0, scheme), rest = target.substr(scheme + 3);
  const size_t path = std::min(rest.find_first_of("/?"), rest.size());
  const bool known = boost::beast::iequals(name, "http") || boost::beast::iequals(name, "https");
  if (!known || path == 0 || !is_host(rest.substr(0, path))) return "";
  return path == rest.size() ? "/" : rest.substr(path);
}

}  // namespace

const char* fault_of(unsigned version, const Fields& fields) {
  const auto hosts = fields.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && version >= 11)) return "the request has no Host, or more than one: send one";
  if (hosts == 1 && !is_host(fields[http::field::host])) return "the request's Host is no name of a host: correct it";
  const auto codings = fields.count(http::field::transfer_encoding);
  if (codings == 0) return nullptr;
  const bool chunked = codings == 1 && boost::beast::iequals(fields[http::field::transfer_encoding], "chunked");
  if (chunked && version >= 11 && fields.count(http::field::content_length) == 0) return nullptr;
  return "the request's Transfer-Encoding is not chunked alone, without a Content-Length: send one of them";
}

bool is_form(const Fields& fields, std::string_view body) {
  constexpr std::string_view kParts = "multipart/form-data", kPairs = "application/x-www-form-urlencoded";
  const std::string_view type = fields[http::field::content_type];
  if (boost::beast::iequals(type.substr(0, kParts.size()), kParts)) return true;
  return boost::beast::iequals(type.substr(0, kPairs.size()), kPairs) && body.find_first_of("\r\n") == body.npos;
}

Route route_of(http::verb method, std::string_view target, const Fields& fields, Models& models) {
  target = path_of(target);
  if (target.empty()) return refused(400, "the target is neither a path nor a URL of a host: correct it");
  const size_t mark = target.find('?');
  const std::string_view path = target.substr(0, mark);
  const std::string_view query = mark == target.npos ? "" : target.substr(mark + 1);
  for (const Task task : {Task::kClassify, Task::kDetect, Task::kSegment}) {
    if (path != path_of(task)) continue;
    if (method == http::verb::post || models.first_of(task) == nullptr) return picture(query, task, fields, models);
    return refused(405, std::string(path) + " takes POST with a JPEG or PNG file", "POST");
  }
  constexpr std::pair<std::string_view, Route::Kind> kOthers[] = {
      {"/", Route::kPage},
      {"/v1/models", Route::kModels},
      {"/openapi.json", Route::kOpenApi},
      {"/healthz", Route::kHealth},
      {"/metrics", Route::kMetrics}};
  for (const auto& [known, kind] : kOthers) {
    if (path != known) continue;
    if (method == http::verb::get || method == http::verb::head) return {kind};
    return refused(405, std::string(path) + " takes GET", "GET, HEAD");
  }
  return refused(404, "there is no such path: " + models.paths() + ", /, /v1/models, /openapi.json, /healthz and " +
                          "/metrics are known");
}

Reply page() {
  Reply reply{200, std::string(kPage), "text/html; charset=utf-8"};
  reply.policy = kPagePolicy;
  return reply;
}

Reply reply_to(const boost::system::error_code& error, bool expired) {
  if (expired) return {408, error_json("the request took too long to arrive: send it faster")};
  if (error == http::error::body_limit) return {413, error_json("the body is larger than this service takes")};
  if (error == http::error::header_limit) return {431, error_json("the header is larger than this service takes")};
  return {400, error_json("this is no HTTP request that can be read (" + error.message() + ")")};
}

Reply unavailable(std::string_view sentence) {
  Reply reply{503, error_json(sentence)};
  reply.retry = true;
  return reply;
}

http::response<http::string_body> response_from(Reply reply, unsigned version, bool keep_alive) {
  http::response<http::string_body> response(static_cast<http::status>(reply.status), version);
  response.set(http::field::server, "lit_service");
  response.set(http::field::content_type, reply.type);
  if (reply.allow != nullptr) response.set(http::field::allow, reply.allow);
  if (reply.retry) response.set(http::field::retry_after, "1");
  if (reply.took.count() >= 0) response.set("Server-Timing", "total;dur=" + std::to_string(reply.took.count()));
  if (reply.policy != nullptr) response.set("Content-Security-Policy", reply.policy);
  response.keep_alive(keep_alive);
  response.body() = std::move(reply.body);
  response.prepare_payload();
  return response;
}

}  // namespace lit_service
