#include "options.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iterator>
#include <string_view>
#include <utility>

namespace lit_service {
namespace {

struct TextOption {
  const char* name;
  std::string Options::*value;
  const char* help;
};

struct NumberOption {
  const char* name;
  long Options::*value;
  long least, most;
  const char* help;
};

constexpr TextOption kTexts[] = {
    {"--address", &Options::address, "IP address to listen on"},
    {"--device", &Options::device, "cpu or cuda"},
    {"--backend", &Options::backend, "auto, onnxruntime, openvino or tensorrt; auto: what the file is for"},
    {"--font", &Options::font, "TrueType or OpenType file for names on pictures; '' for none"},
    {"--precision-hint", &Options::precision_hint, "bf16 or f32: what OpenVINO computes in, instead of the file's own"},
};

constexpr size_t kLongestName = 64;

constexpr std::string_view kBackends[] = {"auto", "onnxruntime", "openvino", "tensorrt"};

constexpr NumberOption kNumbers[] = {
    {"--port", &Options::port, 0, 65535, "TCP port; 0 takes a free one, which is printed"},
    {"--threads", &Options::threads, 0, 1024, "CPU threads of one model run; 0 for all cores"},
    {"--workers", &Options::workers, 1, 1024, "threads that decode and resize"},
    {"--instances", &Options::instances, 1, 64, "batches that run at the same time, each with a context of its own"},
    {"--max-batch", &Options::max_batch, 1, 1024, "images per run, at most what the model takes"},
    {"--max-delay-ms", &Options::max_delay_ms, 0, 10'000, "milliseconds a decoded image waits for others, at most"},
    {"--queue", &Options::queue, 1, 1'000'000, "accepted requests that wait for a run; further ones get 503"},
    {"--max-body-mib", &Options::max_body_mib, 1, 1024, "size of a request's body, MiB"},
    {"--max-pixels", &Options::max_pixels, 1, 1 << 27, "size of a picture; decoding takes 3 bytes of each, and more"},
    {"--max-connections", &Options::max_connections, 1, 100'000, "open connections; further ones get 503"},
    {"--request-timeout-s", &Options::request_timeout_s, 1, 3600, "time to receive a request, or to send its answer"},
    {"--idle-timeout-s", &Options::idle_timeout_s, 1, 86'400, "time a connection may wait for its next request"},
    {"--drain-timeout-s", &Options::drain_timeout_s, 1, 3600, "time to finish accepted requests after SIGTERM"},
};

long number_from(const NumberOption& option, std::string_view text) {
  long value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, fault] = std::from_chars(text.data(), end, value);
  if (fault != std::errc() || rest != end || value < option.least || value > option.most) {
    throw UsageError(std::string(option.name) + " received '" + std::string(text) + "' where a whole number from " +
                     std::to_string(option.least) + " to " + std::to_string(option.most) + " is expected");
  }
  return value;
}

bool names_well(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' || c == '_' || c == '-';
}

// [NAME=]FILE. A file without a name is called as it is without its folder and its ending.
ModelFile model_from(std::string_view text) {
  const size_t equals = text.find('=');
  const std::string_view name = text.substr(0, equals);
  if (equals == text.npos || name.find('/') != name.npos) {
    std::string stem = std::filesystem::path(text).stem().string().substr(0, kLongestName);
    std::replace_if(stem.begin(), stem.end(), std::not_fn(names_well), '_');
    return {stem, std::string(text)};
  }
  if (name.empty() || name.size() > kLongestName || !std::all_of(name.begin(), name.end(), names_well)) {
    throw UsageError("--model received '" + std::string(text) + "' where NAME=FILE is expected, the name of up to " +
                     std::to_string(kLongestName) + " letters, digits, '.', '_' and '-': a file with '=' in its name " +
                     "is written with its folder, ./" + std::string(text));
  }
  return {std::string(name), std::string(text.substr(equals + 1))};
}

void add_model(Options& options, std::string_view text) {
  ModelFile model = model_from(text);
  if (model.path.empty()) {
    throw UsageError("--model received '" + std::string(text) + "' where [NAME=]FILE is expected: give the file");
  }
  for (const ModelFile& other : options.models) {
    if (other.name != model.name) continue;
    throw UsageError("two models are called " + model.name + ", " + other.path + " and " + model.path +
                     ": give one another name, --model NAME=FILE");
  }
  options.models.push_back(std::move(model));
}

// Whether an option of this name exists; its value is set then.
bool set(Options& options, std::string_view name, std::string_view value) {
  if (name == "--model") return (add_model(options, value), true);
  for (const TextOption& option : kTexts) {
    if (name == option.name) return (options.*option.value = value, true);
  }
  for (const NumberOption& option : kNumbers) {
    if (name == option.name) return (options.*option.value = number_from(option, value), true);
  }
  return false;
}

}  // namespace

Options options_from(int count, const char* const* arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    std::string_view name = arguments[i];
    if (name == "--help" || name == "-h") return (options.help = true, options);
    std::string_view value;
    const size_t equals = name.find('=');
    if (equals != name.npos) {
      value = name.substr(equals + 1);
      name = name.substr(0, equals);
    }
    if (!name.starts_with("--")) {
      throw UsageError("'" + std::string(name) + "' is no option: write --model " + std::string(name) + "?");
    }
    if (equals == name.npos && i + 1 < count) value = arguments[++i];
    if (!set(options, name, value)) {
      throw UsageError(std::string(name) + " is no option of lit_service: --help lists them");
    }
  }
  if (options.models.empty()) throw UsageError("--model is missing: give the exported file, --model lit_s.onnx");
  if (options.device != "cpu" && options.device != "cuda") {
    throw UsageError("--device received '" + options.device + "' where cpu or cuda is expected");
  }
  if (std::find(std::begin(kBackends), std::end(kBackends), options.backend) == std::end(kBackends)) {
    throw UsageError("--backend received '" + options.backend +
                     "' where auto, onnxruntime, openvino or tensorrt is expected");
  }
  return options;
}

std::string help_text() {
  const Options defaults;
  std::string text =
      "Usage: lit_service --model [NAME=]FILE [--model [NAME=]FILE ...] [OPTIONS]\n\n"
      "Classify pictures over HTTP, or find what is in them: whatever the files are for.\n\n";
  const auto line = [&text](const char* name, const char* help, const std::string& value) {
    char start[32];
    std::snprintf(start, sizeof start, "  %-22s", name);
    text += start + std::string(help) + (value.empty() ? "" : " [default: " + value + "]") + "\n";
  };
  line("--model", "exported .onnx or .xml file, or .engine with its sidecar; required, one or more", "");
  for (const TextOption& option : kTexts) line(option.name, option.help, defaults.*option.value);
  for (const NumberOption& option : kNumbers) line(option.name, option.help, std::to_string(defaults.*option.value));
  line("--help", "show this text", "");
  return text;
}

}  // namespace lit_service
