// TensorRT and TensorRT-RTX, loaded at run time, and what they say.
#ifndef LIT_DEPLOY_RUNTIME_TENSORRT_LIBRARY_H_
#define LIT_DEPLOY_RUNTIME_TENSORRT_LIBRARY_H_

#include <NvInferRuntime.h>

#include <memory>
#include <string>

#include "backend.h"
#include "shared_library.h"
#include "sidecar.h"

namespace lit_deploy::runtime {

struct TensorRT {
  SharedLibrary library;
  std::string version;  // "10.9.0.34"

  // With the logger below. The device's context must be current. Throws LIT_NOT_SUPPORTED.
  std::unique_ptr<nvinfer1::IRuntime> create_runtime(const char* title) const;
};

// Loads the back end that built `engine`. Throws LIT_LIBRARY_NOT_FOUND, LIT_WRONG_VERSION (no library of this kind),
// or LIT_NOT_SUPPORTED: C++ classes are laid out differently in TensorRT 10, 11 and TensorRT-RTX, so that this library
// runs only what it was compiled for, or is known to be laid out alike.
TensorRT load_tensorrt(const std::string& engine, const EngineBuild& build, const Options& options);

// Whether a replayed CUDA graph can be asked of the back end. TensorRT-RTX captures by itself, which only its own
// headers tell how to ask for.
bool can_capture(const EngineBuild& build);

// An execution context; with `own_graph`, one that replays CUDA graphs by itself. nullptr where TensorRT refuses.
std::unique_ptr<nvinfer1::IExecutionContext> create_execution_context(nvinfer1::ICudaEngine& engine, bool own_graph);

// TensorRT reports through a logger, on the thread that calls it. What it said first is most often the cause.
void forget_errors() noexcept;
// First line of the first error since forget_errors() on this thread, "" if there was none.
std::string first_error();
// LIT_OUT_OF_MEMORY where the first error speaks of memory, else `otherwise`.
lit_status status_of_first_error(lit_status otherwise);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_TENSORRT_LIBRARY_H_
