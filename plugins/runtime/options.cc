// lit_options of any release, read safely.
#include <algorithm>
#include <cstring>
#include <string>

#include "contract.h"
#include "model.h"

namespace lit_deploy::runtime {

Options parse_options(const lit_options* given) {
  Options parsed;
  if (given == nullptr) return parsed;
  // A program that was compiled against other declarations: fields it does not know keep their defaults, fields that
  // are not known here must not ask for anything.
  lit_options options{};
  const size_t size = given->struct_size;
  require(size >= offsetof(lit_options, threads) && size <= kLargestOptions,
          "options were not initialised; call lit_options_init() first");
  std::memcpy(&options, given, std::min(size, sizeof(options)));
  const char* bytes = reinterpret_cast<const char*>(given);
  if (size > sizeof(options) && std::any_of(bytes + sizeof(options), bytes + size, [](char byte) { return byte; })) {
    throw Error(LIT_WRONG_VERSION, "an option was set that this library (" + std::string(lit_version()) +
                                       ") does not have; use the library that came with the header");
  }
  require(options.device == LIT_CPU || options.device == LIT_CUDA, "the device is neither LIT_CPU nor LIT_CUDA");
  require(options.device_index >= 0, "device_index is negative; expected 0 or more");
  require(options.threads >= 0 && options.threads <= contract::kMaxThreads,
          "threads is outside 0.." + std::to_string(contract::kMaxThreads));
  require(options.backend >= LIT_BACKEND_AUTO && options.backend <= LIT_BACKEND_TENSORRT,
          "the backend is none of LIT_BACKEND_AUTO, _ONNXRUNTIME, _OPENVINO and _TENSORRT");
  parsed.device = options.device;
  parsed.device_index = options.device_index;
  parsed.threads = options.threads;
  if (options.backend_library != nullptr) parsed.backend_library = options.backend_library;
  if (options.operator_library != nullptr) {
    parsed.operator_library = options.operator_library;
    parsed.use_operator = !parsed.operator_library.empty();
  }
  parsed.allow_engine_code = options.allow_engine_code != 0;
  parsed.cuda_graph = options.cuda_graph != 0;
  parsed.backend = options.backend;
  if (options.precision_hint != nullptr) parsed.precision_hint = options.precision_hint;
  const auto& hints = contract::kPrecisionHints;
  require(parsed.precision_hint.empty() || std::find(hints.begin(), hints.end(), parsed.precision_hint) != hints.end(),
          "precision_hint is '" + parsed.precision_hint + "'; expected \"bf16\", \"f32\" or NULL");
  return parsed;
}

}  // namespace lit_deploy::runtime
