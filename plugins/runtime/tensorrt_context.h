// One TensorRT execution context with a stream and buffers of its own, for one batch at a time.
#ifndef LIT_DEPLOY_RUNTIME_TENSORRT_CONTEXT_H_
#define LIT_DEPLOY_RUNTIME_TENSORRT_CONTEXT_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "cuda_driver.h"
#include "sidecar.h"

namespace lit_deploy::runtime {

// A tensor of an engine, all of which need memory.
struct EngineTensor {
  TensorSpec spec;
  bool on_host = false;   // an input that is read there, as sizes of other tensors depend on its numbers
  bool returned = false;  // an output that is copied to the host
};

// A deserialised engine and what its contexts must know about it. Immutable, shared between threads.
struct LoadedEngine {
  std::unique_ptr<nvinfer1::ICudaEngine> engine;
  std::vector<EngineTensor> tensors;  // inputs first, in the order of promised_inputs()
  size_t inputs = 0;                  // how many of them
  std::vector<size_t> results;        // places of those that promised_outputs() names, in its order
  int complete = -1;                  // place of the flag that says whether the candidates sufficed; -1: there is none
  bool capture = false;    // replay a CUDA graph from the second run of a shape on
  bool own_graph = false;  // TensorRT-RTX does so itself: it alone knows when its kernels are the final ones
};

// Bytes of one element, 0 for types that are not run here.
size_t bytes_of(const std::string& dtype);

// Make, run and destroy it with the device's context current.
//
// A captured graph is that of the last shapes: it holds the addresses of the buffers and the state of the execution
// context, so other shapes or another profile drop it. The next run is then an ordinary one, which lets TensorRT do
// whatever it does once per shape, and the one after it captures again.
class EngineContext {
 public:
  // Throws LIT_OUT_OF_MEMORY, LIT_RUN_FAILED.
  explicit EngineContext(const LoadedEngine& loaded);
  ~EngineContext();
  EngineContext(const EngineContext&) = delete;
  EngineContext& operator=(const EngineContext&) = delete;

  // Images of the last run, 0 before the first.
  int64_t batch() const { return inputs_.empty() ? 0 : inputs_[0][0]; }

  // Runs one batch and waits. `inputs` are those of promised_inputs(); `outputs`, of promised_outputs(), come with
  // the shapes that are expected, and their data lies in this context until its next run. Throws Error; the context
  // must be destroyed then, as its stream and buffers may be in any state.
  void run(const std::vector<Values>& inputs, int profile, std::vector<Values>* outputs);

  // Whether nothing was left out of the last run's result for want of candidates.
  bool complete() const;

 private:
  void prepare(const std::vector<Values>& inputs, int profile, const std::vector<Values>& outputs);
  void set_inputs(const std::vector<Values>& inputs);
  std::vector<int64_t> shape_of(size_t tensor) const;
  void launch();
  void enqueue();
  CUgraphExec capture();
  void drop_graph();

  const LoadedEngine& loaded_;
  Stream stream_;
  std::vector<Buffer> buffers_;  // in the order of loaded_.tensors
  std::vector<size_t> sizes_;    // bytes of the last shapes
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<std::vector<int64_t>> inputs_;  // shapes of the last run, and behind them what was read on the host
  int profile_ = -1;
  bool warm_ = false;
  CUgraphExec graph_ = nullptr;
};

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_TENSORRT_CONTEXT_H_
