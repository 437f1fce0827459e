// ONNX Runtime's C API, loaded at run time, with its objects owned and its errors thrown.
#ifndef LIT_DEPLOY_RUNTIME_ONNXRUNTIME_API_H_
#define LIT_DEPLOY_RUNTIME_ONNXRUNTIME_API_H_

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

#include "error.h"

namespace lit_deploy::runtime {

// The API asked for: that of 1.18, the first that reads exported files (ONNX IR 10). Every later release has it,
// whatever headers this was compiled with; nothing younger than it may be called.
inline constexpr uint32_t kOrtApiVersion = 18;

// One loaded ONNX Runtime. There is one per library and process, and it stays: sessions of the host program may share
// its environment.
struct OnnxRuntime {
  const OrtApi* api;
  OrtEnv* env;
  std::string version;

  // Throws Error(`status`, `before` + what ONNX Runtime says) for a failed call.
  void check(OrtStatus* result, lit_status status, const std::string& before) const;
};

// Loads it, or returns the one that is loaded. `named`: path or "". Throws LIT_LIBRARY_NOT_FOUND or LIT_WRONG_VERSION.
const OnnxRuntime& load_onnxruntime(const std::string& named);

template <typename T>
using Release = void(ORT_API_CALL*)(T*);

// An object of ONNX Runtime and the function that releases its kind: OrtOwned<OrtSession>(session,
// api->ReleaseSession).
template <typename T>
using OrtOwned = std::unique_ptr<T, Release<T>>;

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_ONNXRUNTIME_API_H_
