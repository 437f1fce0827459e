// What a back end offers to api.cc.
#ifndef LIT_DEPLOY_RUNTIME_BACKEND_H_
#define LIT_DEPLOY_RUNTIME_BACKEND_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "contract.h"
#include "error.h"
#include "keep_ratio.h"
#include "lit_runtime.h"
#include "manifest.h"

namespace lit_deploy::runtime {

// lit_options without pointers to the caller's memory.
struct Options {
  lit_device device = LIT_CPU;
  int device_index = 0;
  int threads = 0;
  std::string backend_library;   // "": search
  bool use_operator = true;      // false: leave the operator library out
  std::string operator_library;  // "": search
  bool allow_engine_code = false;
  bool cuda_graph = false;
  lit_backend backend = LIT_BACKEND_AUTO;
  std::string precision_hint;  // "": the file's own
};

// A dense tensor in memory of the CPU.
struct Values {
  const void* data = nullptr;
  std::vector<int64_t> shape;
};

// What one thread needs to run a network.
class BackendContext {
 public:
  virtual ~BackendContext() = default;

  // Runs and waits. `inputs` are those of promised_inputs(), in their order. `outputs`, in the order of
  // promised_outputs(), come with the shapes that are expected and get their data, valid until the next call. Throws
  // Error, for other shapes, too, and stays usable.
  virtual void run(const std::vector<Values>& inputs, std::vector<Values>* outputs) = 0;

  // What is to be said of the last run's results although it succeeded, in one sentence; "" for nothing.
  const std::string& warning() const { return warning_; }

 protected:
  std::string warning_;
};

// A loaded network; immutable, shared between threads.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::unique_ptr<BackendContext> create_context() const = 0;

  // Throws LIT_INVALID_ARGUMENT for a picture that the task takes and this file does not; of detectors and segmentation
  // networks.
  virtual void check_picture(PictureSize /*resized*/, PictureSize /*original*/) const {}

  const std::string& description() const { return description_; }
  int64_t min_batch() const { return min_batch_; }
  int64_t max_batch() const { return max_batch_; }

 protected:
  std::string description_;  // the one line of lit_model_info.backend
  int64_t min_batch_ = 1;
  int64_t max_batch_ = contract::kMaxBatch;
};

// A file's manifest and what runs it. Contexts of `backend` must not outlive it.
struct Loaded {
  Manifest manifest;
  std::unique_ptr<Backend> backend;
};

// A file of any kind on the back end that its options name. Throws every status of lit_model_open().
Loaded open_file(const std::string& path, const Options& options);

// One kind of file on one back end, whatever `options.backend` says; `manifest` is that of the file.
Loaded open_onnxruntime(const std::string& path, Manifest manifest, const Options& options);
Loaded open_openvino(const std::string& path, Manifest manifest, const Options& options);

// Declared always; where TensorRT's headers were not found at build time it throws LIT_NOT_SUPPORTED, which says so.
Loaded open_engine(const std::string& path, const Options& options);

// Why a graph is refused that is not what its manifest promises.
Error other_tensors(const std::string& path);  // before it runs
Error other_results(const std::string& path);  // when it has run

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_BACKEND_H_
