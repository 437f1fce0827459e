// One TensorRT execution context with a stream and buffers of its own, for one batch at a time.
#ifndef LIT_DEPLOY_RUNTIME_TENSORRT_CONTEXT_H_
#define LIT_DEPLOY_RUNTIME_TENSORRT_CONTEXT_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda_driver.h"
#include "lit_runtime.h"
#include "sidecar.h"

namespace lit_deploy::runtime {

// A deserialised engine and what its contexts must know about it. Immutable, shared between threads.
struct LoadedEngine {
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
  std::vector<TensorSpec> tensors;  // all of them: every one needs memory
  std::string input, scores, classes;  // names; classes: "" unless LIT_TOP5
  bool capture = false;    // replay a CUDA graph from the second run of a shape on
  bool own_graph = false;  // TensorRT-RTX does so itself: it alone knows when its kernels are the final ones
};

// Bytes of one element, 0 for types that are not run here.
size_t bytes_of(const std::string& dtype);

// Make, run and destroy it with the device's context current.
//
// A captured graph is that of the last batch size: it holds the addresses of the buffers and the state of the execution
// context, so another batch size or profile drops it. The next run is then an ordinary one, which lets TensorRT do
// whatever it does once per shape, and the one after it captures again.
class EngineContext {
 public:
  // Throws LIT_OUT_OF_MEMORY, LIT_RUN_FAILED.
  explicit EngineContext(const LoadedEngine& loaded);
  ~EngineContext();
  EngineContext(const EngineContext&) = delete;
  EngineContext& operator=(const EngineContext&) = delete;

  // Images of the last run, 0 before the first.
  int64_t batch() const { return batch_; }

  // Runs `batch` dense images and waits. `output` points into this context until its next run. Throws Error; the
  // context must be destroyed then, as its stream and buffers may be in any state.
  void run(const void* input, int64_t batch, int profile, lit_output* output);

 private:
  void prepare(int64_t batch, int profile);
  void launch();
  void enqueue();
  CUgraphExec capture();
  void drop_graph();
  size_t index(const std::string& name) const;  // of a tensor

  const LoadedEngine& loaded_;
  Stream stream_;
  std::vector<Buffer> buffers_;  // in the order of loaded_.tensors
  std::vector<size_t> sizes_;    // bytes of the last shapes
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  int64_t batch_ = 0;
  int profile_ = -1;
  bool warm_ = false;
  CUgraphExec graph_ = nullptr;
};

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_TENSORRT_CONTEXT_H_
