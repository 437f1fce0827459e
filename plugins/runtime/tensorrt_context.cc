#include "tensorrt_context.h"

#include <cstring>
#include <limits>
#include <utility>

#include "error.h"
#include "tensorrt_library.h"

namespace lit_deploy::runtime {
namespace {

// TensorRT refused something: with what it said, if anything.
void require(bool accepted, const std::string& otherwise, lit_status status = LIT_RUN_FAILED) {
  if (accepted) return;
  const std::string said = first_error();
  throw Error(status_of_first_error(said.empty() ? status : LIT_RUN_FAILED),
              "TensorRT " + otherwise + (said.empty() ? "" : ": " + said));
}

// Bytes of a tensor of a shape without dynamic sizes; 0 where there is no such number.
size_t volume(const nvinfer1::Dims& shape, size_t item) {
  size_t size = item;
  for (int i = 0; i < shape.nbDims; ++i) {
    if (shape.d[i] <= 0 || static_cast<uint64_t>(shape.d[i]) > std::numeric_limits<ptrdiff_t>::max() / size) return 0;
    size *= static_cast<size_t>(shape.d[i]);
  }
  return size;
}

}  // namespace

size_t bytes_of(const std::string& dtype) {
  for (const auto& [name, size] : {std::pair{"uint8", 1}, {"int8", 1}, {"bool", 1}, {"float16", 2}, {"float32", 4},
                                   {"int32", 4}, {"int64", 8}}) {
    if (dtype == name) return static_cast<size_t>(size);
  }
  return 0;
}

EngineContext::EngineContext(const LoadedEngine& loaded) : loaded_(loaded), sizes_(loaded.tensors.size()) {
  forget_errors();
  for (const TensorSpec& tensor : loaded.tensors) {
    const bool pinned = tensor.name == loaded.input || tensor.name == loaded.scores || tensor.name == loaded.classes;
    buffers_.emplace_back(pinned);
  }
  context_ = create_execution_context(*loaded.engine, loaded.own_graph);
  require(context_ != nullptr, "could not create an execution context, most often for lack of GPU memory",
          LIT_OUT_OF_MEMORY);
}

EngineContext::~EngineContext() {
  cuda_driver().cuStreamSynchronize(stream_.get());
  drop_graph();
}  // then the members, last to first: the execution context before its buffers, these before their stream

void EngineContext::run(const void* input, int64_t batch, int profile, lit_output* output) {
  forget_errors();
  prepare(batch, profile);
  const CudaDriver& cuda = cuda_driver();
  const size_t in = index(loaded_.input);
  std::memcpy(buffers_[in].host(), input, sizes_[in]);
  buffers_[in].upload(sizes_[in], stream_);
  launch();
  const size_t scores = index(loaded_.scores);
  const size_t classes = loaded_.classes.empty() ? scores : index(loaded_.classes);
  buffers_[scores].download(sizes_[scores], stream_);
  if (classes != scores) buffers_[classes].download(sizes_[classes], stream_);
  cuda.check(cuda.cuStreamSynchronize(stream_.get()), "cuStreamSynchronize");
  output->scores = static_cast<const float*>(buffers_[scores].host());
  if (classes != scores) output->classes = static_cast<const int64_t*>(buffers_[classes].host());
}

// Tells TensorRT shapes and addresses, with room in every buffer; nothing to do when they are the last ones.
void EngineContext::prepare(int64_t batch, int profile) {
  if (batch == batch_ && profile == profile_) return;
  drop_graph();
  warm_ = false;
  if (profile != profile_) {
    require(context_->setOptimizationProfileAsync(profile, stream_.get()),
            "refuses optimisation profile " + std::to_string(profile));
    profile_ = profile;
  }
  const TensorSpec& input = loaded_.tensors[index(loaded_.input)];
  nvinfer1::Dims wanted{};
  wanted.nbDims = static_cast<int32_t>(input.shape.size());
  for (int d = 0; d < wanted.nbDims; ++d) wanted.d[d] = input.shape[d];
  wanted.d[0] = batch;
  require(context_->setInputShape(input.name.c_str(), wanted),
          "refuses a batch of " + std::to_string(batch) + " for '" + input.name + "'");
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const TensorSpec& tensor = loaded_.tensors[i];
    const char* name = tensor.name.c_str();
    const nvinfer1::Dims shape = context_->getTensorShape(name);
    bool fits = shape.nbDims == static_cast<int>(tensor.shape.size()) && shape.d[0] == batch;
    for (int d = 1; fits && d < shape.nbDims; ++d) fits = tensor.shape[d] < 0 || tensor.shape[d] == shape.d[d];
    sizes_[i] = fits ? volume(shape, bytes_of(tensor.dtype)) : 0;
    require(sizes_[i] != 0, "gives '" + tensor.name + "' another shape than " + tensor.text());
    buffers_[i].reserve(sizes_[i]);
    require(context_->setTensorAddress(name, buffers_[i].device()), "refuses the memory of '" + tensor.name + "'");
  }
  batch_ = batch;
}

// Enqueues the network: kernel by kernel, or as a graph once an ordinary run of the same shape is over.
void EngineContext::launch() {
  if (loaded_.capture && warm_ && graph_ == nullptr) graph_ = capture();
  if (graph_ != nullptr) {
    const CudaDriver& cuda = cuda_driver();
    return cuda.check(cuda.cuGraphLaunch(graph_, stream_.get()), "cuGraphLaunch");
  }
  enqueue();
  warm_ = true;
}

void EngineContext::enqueue() { require(context_->enqueueV3(stream_.get()), "could not enqueue the network"); }

CUgraphExec EngineContext::capture() {
  const CudaDriver& cuda = cuda_driver();
  // Thread-local: what other threads do meanwhile (allocate, say) must not spoil the capture.
  cuda.check(cuda.cuStreamBeginCapture(stream_.get(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), "cuStreamBeginCapture");
  CUgraph graph = nullptr;
  try {
    enqueue();
  } catch (const Error& error) {
    if (cuda.cuStreamEndCapture(stream_.get(), &graph) == CUDA_SUCCESS) cuda.cuGraphDestroy(graph);
    throw Error(error.status(), std::string("the network cannot be captured as a CUDA graph (") + error.what() +
                                    "): open it without cuda_graph");
  }
  cuda.check(cuda.cuStreamEndCapture(stream_.get(), &graph), "cuStreamEndCapture");
  CUgraphExec runnable = nullptr;
  const CUresult result = cuda.cuGraphInstantiate(&runnable, graph, 0);
  cuda.cuGraphDestroy(graph);
  cuda.check(result, "cuGraphInstantiate");
  return runnable;
}

void EngineContext::drop_graph() {
  if (graph_ != nullptr) cuda_driver().cuGraphExecDestroy(graph_);
  graph_ = nullptr;
}

size_t EngineContext::index(const std::string& name) const {
  size_t i = 0;
  while (loaded_.tensors[i].name != name) ++i;
  return i;
}

}  // namespace lit_deploy::runtime
