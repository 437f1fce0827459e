#include "onnxruntime_api.h"

#include <cstdlib>
#include <list>
#include <mutex>
#include <new>

#include "shared_library.h"

namespace lit_deploy::runtime {
namespace {

constexpr const char* kRemedy =
    "install ONNX Runtime 1.18 or newer and name the file in LIT_DEPLOY_ONNXRUNTIME or lit_options.backend_library";

// Releases from 1.31 on write an identifier of this machine and a database of events into the user's cache as soon as
// an environment is made, and send them; the variable alone prevents it, the API comes too late. It is set once, and
// found from then on: no other thread may use the process's variables meanwhile, which lit_runtime.h says.
void disable_telemetry() {
  constexpr const char* kVariable = "ORT_DISABLE_TELEMETRY";
  if (std::getenv(kVariable) == nullptr && setenv(kVariable, "1", /*overwrite=*/0) != 0) throw std::bad_alloc();
}

}  // namespace

void OnnxRuntime::check(OrtStatus* result, lit_status status, const std::string& before) const {
  if (result == nullptr) return;
  const OrtOwned<OrtStatus> owned(result, api->ReleaseStatus);
  const std::string message = api->GetErrorMessage(result);
  // There is no code for it, only the words of the C++ library, of ONNX Runtime's arena, and of CUDA.
  for (const char* words : {"bad_alloc", "Failed to allocate memory", "out of memory", "ALLOC_FAILED"}) {
    if (message.find(words) != std::string::npos) status = LIT_OUT_OF_MEMORY;
  }
  throw Error(status, before + " (" + message.substr(0, message.find('\n')) + ")");
}

const OnnxRuntime& load_onnxruntime(const std::string& named) {
  static std::mutex mutex;
  // Never destroyed: its environments outlive every session, whatever order a process ends in.
  static auto& known = *new std::list<std::pair<void*, OnnxRuntime>>;
  const std::lock_guard<std::mutex> lock(mutex);
  const Wanted wanted{
      "ONNX Runtime", {"libonnxruntime.so.1", "libonnxruntime.so"}, "LIT_DEPLOY_ONNXRUNTIME", named, true};
  disable_telemetry();
  const SharedLibrary library = load_library(wanted, kRemedy);
  for (const auto& [handle, runtime] : known) {
    if (handle == library.handle) return runtime;
  }
  using GetApiBase = const OrtApiBase*(ORT_API_CALL*)();
  const auto get_base = reinterpret_cast<GetApiBase>(library.symbol("OrtGetApiBase"));
  if (get_base == nullptr) {
    throw Error(LIT_WRONG_VERSION, library.path + " is no ONNX Runtime (it has no OrtGetApiBase); " + kRemedy);
  }
  const OrtApiBase* base = get_base();
  OnnxRuntime runtime{base->GetApi(kOrtApiVersion), nullptr, base->GetVersionString()};
  if (runtime.api == nullptr) {
    throw Error(LIT_WRONG_VERSION,
                library.path + " is ONNX Runtime " + runtime.version + ", which is too old; " + kRemedy);
  }
  // Silent: whatever it would log as an error is in the status as well.
  runtime.check(runtime.api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "lit_deploy", &runtime.env), LIT_INTERNAL_ERROR,
                "ONNX Runtime " + runtime.version + " could not be started");
  return known.emplace_back(library.handle, std::move(runtime)).second;
}

}  // namespace lit_deploy::runtime
