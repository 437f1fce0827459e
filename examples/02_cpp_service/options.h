// The command line.
#ifndef LIT_SERVICE_OPTIONS_H_
#define LIT_SERVICE_OPTIONS_H_

#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

namespace lit_service {

struct ModelFile {
  std::string name;  // in requests, metrics and logs: letters, digits, '.', '_' and '-'; no two have the same
  std::string path;
};

struct Options {
  std::vector<ModelFile> models;
  std::string address = "127.0.0.1";
  std::string device = "cpu";
  std::string backend = "auto";
  std::string font = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf";
  std::string precision_hint;

  long port = 8080;
  long threads = 0;
  long workers = 1;
  long instances = 1;
  long max_batch = 8;
  long max_delay_ms = 5;
  long queue = 64;
  long max_body_mib = 16;
  long max_pixels = 50'000'000;
  long max_connections = 256;
  long request_timeout_s = 10;
  long idle_timeout_s = 60;
  long drain_timeout_s = 25;
  bool help = false;
};

// A mistake on the command line; what() is one sentence.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Reads "--name value" and "--name=value"; there is a model at least. Throws UsageError.
Options options_from(int count, const char* const* arguments);

// What --help prints.
std::string help_text();

}  // namespace lit_service

#endif  // LIT_SERVICE_OPTIONS_H_
