#include "diagnostics.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstring>

namespace lit_deploy::trt {
namespace {

// In the order of Method.
constexpr const char* kNames[] = {
    "getCreators",
    "createPlugin",
    "clone",
    "getNbOutputs",
    "getOutputDataTypes",
    "getOutputShapes",
    "supportsFormatCombination",
    "configurePlugin",
    "getWorkspaceSize",
    "getFieldsToSerialize",
    "attachToContext",
    "onShapeChange",
    "enqueue",
};
constexpr size_t kCount = sizeof kNames / sizeof kNames[0];
static_assert(kCount == static_cast<size_t>(Method::kEnqueue) + 1, "one name per method");

std::atomic<int64_t> calls[kCount];

}  // namespace

void record(Method method) noexcept { calls[static_cast<size_t>(method)].fetch_add(1, std::memory_order_relaxed); }

int64_t recorded_calls(const char* method) noexcept {
  for (size_t i = 0; method != nullptr && i < kCount; ++i) {
    if (std::strcmp(method, kNames[i]) == 0) return calls[i].load(std::memory_order_relaxed);
  }
  return -1;
}

void complain(const char* format, ...) noexcept {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "lit-deploy plugin: %s\n", text);
}

}  // namespace lit_deploy::trt
