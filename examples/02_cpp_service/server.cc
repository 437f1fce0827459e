#include "server.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <exception>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

#include "json.h"
#include "log.h"
#include "openapi.h"
#include "routes.h"

namespace lit_service {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::seconds;
using Parser = http::request_parser<http::string_body>;
using Request = Parser::value_type;

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr size_t kMaxHeaderBytes = 16 << 10;
// Bytes that are read ahead; a piece of the protocol that does not fit (a chunk's header without end) is refused.
constexpr size_t kMaxBuffer = 128 << 10;
// Clients that are told to go away still get to read why, but not for long.
constexpr seconds kLinger{2};
// Connections above --max-connections that are heard and told so at the same time; further ones are just closed.
constexpr size_t kMaxTurnedAway = 64;

auto into(error_code& error) { return asio::redirect_error(asio::use_awaitable, error); }

// What a coroutine threw goes to run_handlers().
void rethrow(std::exception_ptr failure) {
  if (failure) std::rethrow_exception(failure);
}

struct Connection : std::enable_shared_from_this<Connection> {
  enum class Cut { kReading, kEverything };

  explicit Connection(tcp::socket accepted) : socket(std::move(accepted)), timer(socket.get_executor()) {}

  // Ends what the connection does from `time` on, until the next call of limit() or timer.cancel(). Cutting off the
  // reading side alone leaves no gap between two reads in which the cut could be missed, and lets 408 be answered; it
  // does not end a write.
  void limit(seconds time, Cut cut) {
    expired = false;
    timer.expires_after(time);
    timer.async_wait([weak = weak_from_this(), cut](error_code error) {
      const std::shared_ptr<Connection> self = weak.lock();
      if (error || !self || self->timer.expiry() > asio::steady_timer::clock_type::now()) return;  // cancelled or moved
      self->expired = true;
      error_code ignored;
      if (cut == Cut::kReading) {
        self->socket.shutdown(tcp::socket::shutdown_receive, ignored);
      } else {
        self->socket.close(ignored);
      }
    });
  }

  tcp::socket socket;
  asio::steady_timer timer;
  boost::beast::flat_buffer buffer{kMaxBuffer};
  bool expired = false;
  bool idle = false;       // waits for the first byte of a request
  bool accepted = false;   // a picture of it is with a pipeline, or its answer on the way
};

// All of it runs on one thread, that of the io_context: no locks. Pictures are handled by the pipelines' threads.
class Server {
 public:
  Server(const Options& options, Models& models, Metrics& metrics)
      : options_(options), models_(models), metrics_(metrics), acceptor_(io_), drain_timer_(io_), signals_(io_) {}

  bool run() {
    signals_.add(SIGTERM);  // before anyone can know that the service runs
    signals_.add(SIGINT);
    struct sigaction before {};
    const bool kept = sigaction(SIGHUP, nullptr, &before) == 0 && before.sa_handler == SIG_IGN;
    if (!kept) signals_.add(SIGHUP);  // the terminal is gone; under nohup the service stays
    listen();
    signals_.async_wait([this](error_code error, int) {
      if (!error) drain();
    });
    run_handlers();
    log("stopped, " + metrics_.summary());
    return in_time_;
  }

 private:
  using ConnectionPtr = std::shared_ptr<Connection>;

  void listen() {
    error_code error;
    const asio::ip::address address = asio::ip::make_address(options_.address, error);
    if (error) {
      throw std::runtime_error("--address received '" + options_.address + "' where an IP address is expected");
    }
    tcp::endpoint endpoint(address, static_cast<unsigned short>(options_.port));
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(tcp::acceptor::max_listen_connections, error);
    if (error) {
      throw std::runtime_error("cannot listen on " + options_.address + " port " + std::to_string(options_.port) +
                               " (" + error.message() + "): choose others with --address and --port");
    }
    endpoint = acceptor_.local_endpoint();
    const std::string host = address.is_v6() ? "[" + address.to_string() + "]" : address.to_string();
    log("listening on http://" + host + ":" + std::to_string(endpoint.port()));
  }

  // Where memory is short, Asio's and Beast's own steps throw, too, past the coroutine that waits for them: it is gone
  // then, its connection with it, and the others go on. Accepting starts anew, for it may be what is gone.
  void run_handlers() {
    for (;;) {
      try {
        error_code ignored;
        acceptor_.cancel(ignored);
        asio::co_spawn(io_, accept(), rethrow);
        io_.run();
        return;
      } catch (const std::exception& error) {
        log_error(std::string("a connection was cut: ") + error.what());
      }
    }
  }

  asio::awaitable<void> accept() {
    for (;;) {
      error_code error;
      tcp::socket socket = co_await acceptor_.async_accept(into(error));
      if (!error) {
        try {
          open(std::move(socket));
        } catch (const std::exception& failure) {  // memory; the next may do better
          log_error(std::string("a connection was refused: ") + failure.what());
        }
      } else if (!acceptor_.is_open() || error == asio::error::operation_aborted) {
        co_return;  // shutting down, or started anew
      } else {  // out of file descriptors, or the client is gone
        asio::steady_timer pause(io_, std::chrono::milliseconds(50));
        co_await pause.async_wait(into(error));
      }
    }
  }

  void open(tcp::socket socket) {
    const size_t limit = static_cast<size_t>(options_.max_connections);
    if (connections_.size() >= limit + kMaxTurnedAway) return;
    const bool welcome = connections_.size() < limit;
    error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    // The coroutine owns it: however that ends, also by an exception that it never sees, the connection is closed.
    const ConnectionPtr connection(new Connection(std::move(socket)), [this](Connection* gone) { close(gone); });
    connections_.insert(connection.get());
    metrics_.connections(connections_.size());
    asio::co_spawn(io_, welcome ? serve(connection) : turn_away(connection), rethrow);
  }

  void close(Connection* connection) {
    connections_.erase(connection);
    delete connection;
    metrics_.connections(connections_.size());
    if (draining_) stop_when_done();
  }

  asio::awaitable<void> serve(ConnectionPtr connection) {
    for (;;) {
      Parser parser;
      const Request& request = parser.get();
      const seconds idle(options_.idle_timeout_s), most(options_.request_timeout_s);
      error_code error = co_await receive_header(*connection, parser, idle, most);
      if (error == http::error::end_of_stream) co_return;  // nothing was asked
      const char* const fault = error ? nullptr : fault_of(request.version(), request);
      Route route{};
      if (!error && fault == nullptr) {
        route = route_of(request.method(), {request.target().data(), request.target().size()}, request, models_);
        // The body of a request that is refused anyway is not waited for.
        if (route.kind != Route::kRefused) error = co_await receive_body(*connection, parser);
      }
      connection->timer.cancel();
      Reply reply;
      if (error) {
        reply = reply_to(error, connection->expired);
      } else if (fault != nullptr) {
        reply = Reply{400, error_json(fault)};
      } else {
        reply = co_await answer(*connection, route, parser.get());
      }
      const bool keep = !error && fault == nullptr && parser.is_done() && request.keep_alive() && !draining_;
      const bool head = request.method() == http::verb::head;
      const bool stays = co_await send(*connection, std::move(reply), request.version(), keep, head);
      connection->accepted = false;
      if (!stays) break;
    }
    co_await linger(*connection);
  }

  // Too many are open. Whoever asks how the service is, and does not take long, is told all the same.
  asio::awaitable<void> turn_away(ConnectionPtr connection) {
    Parser parser;
    const Request& request = parser.get();
    const error_code error = co_await receive_header(*connection, parser, kLinger, kLinger);
    Route route{Route::kPicture};
    if (!error && fault_of(request.version(), request) == nullptr) {
      route = route_of(request.method(), {request.target().data(), request.target().size()}, request, models_);
    }
    const bool state = route.kind == Route::kHealth || route.kind == Route::kMetrics;
    Reply reply = unavailable("too many connections are open: try again");
    if (state) reply = co_await answer(*connection, route, parser.get());
    const bool head = request.method() == http::verb::head;
    co_await send(*connection, std::move(reply), error ? 11 : request.version(), false, head);
    co_await linger(*connection);
  }

  // Waits for a request, until its first byte for `idle`, from then on for `most`. end_of_stream: none came.
  asio::awaitable<error_code> receive_header(Connection& connection, Parser& parser, seconds idle, seconds most) {
    error_code error;
    if (connection.buffer.size() == 0) {
      if (draining_) co_return http::error::end_of_stream;
      connection.idle = true;
      connection.limit(idle, Connection::Cut::kReading);
      const size_t bytes = co_await connection.socket.async_read_some(connection.buffer.prepare(4096), into(error));
      connection.idle = false;
      connection.buffer.commit(bytes);
      if (error) co_return http::error::end_of_stream;
    }
    connection.limit(most, Connection::Cut::kReading);
    parser.header_limit(kMaxHeaderBytes);
    parser.body_limit(static_cast<uint64_t>(options_.max_body_mib) << 20);
    co_await http::async_read_header(connection.socket, connection.buffer, parser, into(error));
    co_return error;
  }

  asio::awaitable<error_code> receive_body(Connection& connection, Parser& parser) {
    error_code error;
    const Request& request = parser.get();
    const bool asks = request.version() >= 11 && boost::beast::iequals(request[http::field::expect], "100-continue");
    if (asks && !parser.is_done()) {
      connection.limit(seconds(options_.request_timeout_s), Connection::Cut::kEverything);
      co_await asio::async_write(connection.socket, asio::buffer(kContinue), into(error));
      connection.limit(seconds(options_.request_timeout_s), Connection::Cut::kReading);
    }
    if (!error) co_await http::async_read(connection.socket, connection.buffer, parser, into(error));
    co_return error;
  }

  asio::awaitable<Reply> answer(Connection& connection, const Route& route, Request& request) {
    switch (route.kind) {
      case Route::kPicture:
        co_return co_await ask(connection, route, request.body(), is_form(request, request.body()));
      case Route::kPage:
        co_return page();
      case Route::kModels:
        co_return Reply{200, models_.json()};
      case Route::kOpenApi:
        co_return Reply{200, kOpenApi};
      case Route::kHealth:
        // Out of the load balancer first: 503 from the moment when no new connections are taken.
        co_return draining_ ? unavailable("the service is shutting down") : Reply{200, "{\"status\": \"ok\"}\n"};
      case Route::kMetrics:
        co_return Reply{200, metrics_.text(), "text/plain; version=0.0.4; charset=utf-8"};
      case Route::kRefused:
        break;
    }
    co_return route.refusal;
  }

  // Hands a picture to its model's pipeline, and goes on here, on this thread, when it has answered.
  asio::awaitable<Reply> ask(Connection& connection, const Route& route, std::string& file, bool form) {
    if (file.empty()) co_return Reply{400, error_json("the body is empty: send a JPEG or PNG file")};
    co_return co_await asio::async_initiate<const asio::use_awaitable_t<>&, void(Reply)>(
        [this, &connection, &route, &file, form](auto handler) {
          // std::function wants to be copied, the handler cannot be.
          auto resume = std::make_shared<decltype(handler)>(std::move(handler));
          const auto done = [this, resume, begin = std::chrono::steady_clock::now()](Answer answer) {
            asio::post(io_, [resume, begin, answer = std::move(answer)]() mutable {
              Reply reply{answer.status, std::move(answer.body), name_of(answer.media)};
              reply.took = std::chrono::steady_clock::now() - begin;
              if (reply.status == 503) reply.retry = true;
              std::move (*resume)(std::move(reply));
            });
          };
          connection.accepted = route.model->pipeline.submit({std::move(file), route.top, route.media, form}, done);
          if (!connection.accepted) done({503, error_json("the queue is full: try again")});
        },
        asio::use_awaitable);
  }

  // Whether the connection stays open.
  asio::awaitable<bool> send(Connection& connection, Reply reply, unsigned version, bool keep, bool head) {
    http::response<http::string_body> response = response_from(std::move(reply), version, keep);
    if (head) response.body().clear();  // the length stays
    connection.limit(seconds(options_.request_timeout_s), Connection::Cut::kEverything);
    error_code error;
    co_await http::async_write(connection.socket, response, into(error));
    connection.timer.cancel();
    if (error) {
      metrics_.undelivered();
    } else {
      metrics_.responded(response.result_int());
    }
    co_return keep && !error;
  }

  // Reads what still comes, for a moment: closing with unread bytes would reset the connection, and the client might
  // never see the answer.
  asio::awaitable<void> linger(Connection& connection) {
    error_code error;
    connection.socket.shutdown(tcp::socket::shutdown_send, error);
    connection.limit(kLinger, Connection::Cut::kEverything);
    std::array<char, 16384> scratch;
    while (!error) co_await connection.socket.async_read_some(asio::buffer(scratch), into(error));
  }

  void drain() {
    log("shutting down, " + std::to_string(metrics_.in_flight()) + " pictures in flight");
    draining_ = true;
    signals_.clear();  // a second signal ends the process as if this service did not handle it
    error_code ignored;
    acceptor_.close(ignored);
    models_.hurry();
    for (Connection* connection : connections_) {
      if (connection->idle) connection->socket.shutdown(tcp::socket::shutdown_receive, ignored);
    }
    drain_timer_.expires_after(seconds(options_.drain_timeout_s));
    drain_timer_.async_wait([this](error_code error) {
      if (!error) give_up();
    });
    stop_when_done();
  }

  // The time to drain is over.
  void give_up() {
    in_time_ = std::none_of(connections_.begin(), connections_.end(),
                            [](const Connection* connection) { return connection->accepted; });
    const size_t abandoned = models_.abandon();
    log_error(std::to_string(connections_.size()) + " connections are cut and " + std::to_string(abandoned) +
              " pictures are not run: they took longer than --drain-timeout-s " +
              std::to_string(options_.drain_timeout_s));
    error_code ignored;
    for (Connection* connection : connections_) connection->socket.close(ignored);
  }

  void stop_when_done() {
    if (!connections_.empty()) return;
    drain_timer_.cancel();
    work_.reset();
  }

  const Options& options_;
  Models& models_;
  Metrics& metrics_;
  asio::io_context io_{1};
  // A request that is with a pipeline is no work in io_'s eyes.
  asio::executor_work_guard<asio::io_context::executor_type> work_ = asio::make_work_guard(io_);
  tcp::acceptor acceptor_;
  asio::steady_timer drain_timer_;
  asio::signal_set signals_;
  std::set<Connection*> connections_;
  bool draining_ = false;
  bool in_time_ = true;
};

}  // namespace

bool serve(const Options& options, Models& models, Metrics& metrics) {
  return Server(options, models, metrics).run();
}

}  // namespace lit_service
