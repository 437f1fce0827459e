// What the plugin leaves behind for people: a count of every call, and one line on stderr for every refusal.
//
// TensorRT's ILogger would be the natural place for messages, but its virtual table changed in TensorRT 11: one library
// for 10.x, 11.x and RTX must never call it.
#ifndef LIT_DEPLOY_TENSORRT_DIAGNOSTICS_H_
#define LIT_DEPLOY_TENSORRT_DIAGNOSTICS_H_

#include <cstdint>

namespace lit_deploy::trt {

enum class Method : int32_t {
  kGetCreators,
  kCreatePlugin,
  kClone,
  kGetNbOutputs,
  kGetOutputDataTypes,
  kGetOutputShapes,
  kSupportsFormatCombination,
  kConfigurePlugin,
  kGetWorkspaceSize,
  kGetFieldsToSerialize,
  kAttachToContext,
  kOnShapeChange,
  kEnqueue,
};

// Adds one to the count of `method`. Lock-free.
void record(Method method) noexcept;

// The count of the method of that name; -1 for an unknown name or null.
int64_t recorded_calls(const char* method) noexcept;

// Prints "lit-deploy plugin: " and the formatted text as one line on stderr, in one write.
__attribute__((format(printf, 1, 2))) void complain(const char* format, ...) noexcept;

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_DIAGNOSTICS_H_
