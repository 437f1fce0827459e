// An ONNX Runtime whose Run() is timed: the real library's table of functions with that one replaced. What a call of
// liblit_deploy_runtime.so takes beyond it is the C API's own, of the very same run.
//
// LIT_DEPLOY_ONNXRUNTIME names this file, REAL_ONNXRUNTIME the real library.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>

namespace {

const OrtApiBase* real_base;
OrtApi api;
thread_local int64_t last_run;

OrtStatusPtr ORT_API_CALL timed_run(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                                    const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                                    size_t output_count, OrtValue** outputs) NO_EXCEPTION {
  const auto begin = std::chrono::steady_clock::now();
  OrtStatusPtr status = real_base->GetApi(18)->Run(session, options, input_names, inputs, input_count, output_names,
                                                   output_count, outputs);
  last_run = std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count();
  return status;
}

const OrtApi* ORT_API_CALL get_api(uint32_t version) NO_EXCEPTION {
  const OrtApi* real = real_base->GetApi(version);
  // A copy of what this header knows of the table: the real library is newer than it.
  if (real == nullptr || version != 18) return real;
  api = *real;
  api.Run = timed_run;
  return &api;
}

const char* ORT_API_CALL get_version() NO_EXCEPTION { return real_base->GetVersionString(); }

const OrtApiBase base = {get_api, get_version};

}  // namespace

extern "C" const OrtApiBase* ORT_API_CALL OrtGetApiBase(void) NO_EXCEPTION {
  void* library = dlopen(std::getenv("REAL_ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL);
  using GetApiBase = const OrtApiBase* (*)();
  real_base = reinterpret_cast<GetApiBase>(dlsym(library, "OrtGetApiBase"))();
  return &base;
}

extern "C" int64_t clock_of_last_run() { return last_run; }
