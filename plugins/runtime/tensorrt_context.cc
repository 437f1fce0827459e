#include "tensorrt_context.h"

#include <algorithm>
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
size_t volume(const std::vector<int64_t>& shape, size_t item) {
  size_t bytes = item;
  for (const int64_t size : shape) {
    if (size <= 0 || static_cast<uint64_t>(size) > std::numeric_limits<ptrdiff_t>::max() / bytes) return 0;
    bytes *= static_cast<size_t>(size);
  }
  return bytes;
}

std::string text_of(const std::vector<int64_t>& shape) {
  std::string sizes;
  for (const int64_t size : shape) sizes += (sizes.empty() ? "" : " x ") + std::to_string(size);
  return sizes;
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
  for (size_t i = 0; i < sizes_.size(); ++i) buffers_.emplace_back(i < loaded.inputs || loaded.tensors[i].returned);
  context_ = create_execution_context(*loaded.engine, loaded.own_graph);
  require(context_ != nullptr, "could not create an execution context, most often for lack of GPU memory",
          LIT_OUT_OF_MEMORY);
}

EngineContext::~EngineContext() {
  cuda_driver().cuStreamSynchronize(stream_.get());
  drop_graph();
}  // then the members, last to first: the execution context before its buffers, these before their stream

void EngineContext::run(const std::vector<Values>& inputs, int profile, std::vector<Values>* outputs) {
  forget_errors();
  prepare(inputs, profile, *outputs);
  const CudaDriver& cuda = cuda_driver();
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (loaded_.tensors[i].on_host) continue;  // it lies there
    std::memcpy(buffers_[i].host(), inputs[i].data, sizes_[i]);
    buffers_[i].upload(sizes_[i], stream_);
  }
  launch();
  for (size_t i = 0; i < buffers_.size(); ++i) {
    if (loaded_.tensors[i].returned) buffers_[i].download(sizes_[i], stream_);
  }
  cuda.check(cuda.cuStreamSynchronize(stream_.get()), "cuStreamSynchronize");
  for (size_t i = 0; i < outputs->size(); ++i) (*outputs)[i].data = buffers_[loaded_.results[i]].host();
}

bool EngineContext::complete() const {
  return loaded_.complete < 0 || *static_cast<const int32_t*>(buffers_[loaded_.complete].host()) != 0;
}

// Tells TensorRT shapes and addresses, with room in every buffer; nothing to do when they are the last ones.
void EngineContext::prepare(const std::vector<Values>& inputs, int profile, const std::vector<Values>& outputs) {
  std::vector<std::vector<int64_t>> wanted;
  for (const Values& input : inputs) wanted.push_back(input.shape);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!loaded_.tensors[i].on_host) continue;
    const auto* const numbers = static_cast<const int64_t*>(inputs[i].data);
    wanted.emplace_back(numbers, numbers + inputs[i].shape[0]);
  }
  if (wanted == inputs_ && profile == profile_) return;
  drop_graph();
  warm_ = false;
  inputs_.clear();
  if (profile != profile_) {
    require(context_->setOptimizationProfileAsync(profile, stream_.get()),
            "refuses optimisation profile " + std::to_string(profile));
    profile_ = profile;
  }
  set_inputs(inputs);
  for (size_t i = 0; i < buffers_.size(); ++i) {
    const EngineTensor& tensor = loaded_.tensors[i];
    if (tensor.on_host) continue;
    const std::vector<int64_t> shape = shape_of(i);
    TensorSpec expected = tensor.spec;
    if (loaded_.tensors[0].spec.shape[0] < 0) expected.shape[0] = inputs[0].shape[0];
    const auto result = std::find(loaded_.results.begin(), loaded_.results.end(), i);
    if (result != loaded_.results.end()) expected.shape = outputs[result - loaded_.results.begin()].shape;
    const bool fits = expected.agrees({expected.name, expected.dtype, shape});
    sizes_[i] = fits ? volume(shape, bytes_of(expected.dtype)) : 0;
    require(sizes_[i] != 0, "gives '" + expected.name + "' another shape than " + tensor.spec.text());
    buffers_[i].reserve(sizes_[i]);
    require(context_->setTensorAddress(expected.name.c_str(), buffers_[i].device()),
            "refuses the memory of '" + expected.name + "'");
  }
  inputs_ = std::move(wanted);
}

// Shapes, and the numbers that sizes depend on: with them TensorRT knows the shape of everything.
void EngineContext::set_inputs(const std::vector<Values>& inputs) {
  for (size_t i = 0; i < inputs.size(); ++i) {
    const EngineTensor& tensor = loaded_.tensors[i];
    nvinfer1::Dims shape{};
    for (const int64_t size : inputs[i].shape) shape.d[shape.nbDims++] = size;
    require(context_->setInputShape(tensor.spec.name.c_str(), shape),
            "refuses the shape " + text_of(inputs[i].shape) + " of '" + tensor.spec.name + "'");
    if (!tensor.on_host) continue;
    sizes_[i] = volume(inputs[i].shape, bytes_of(tensor.spec.dtype));
    buffers_[i].reserve(sizes_[i]);
    std::memcpy(buffers_[i].host(), inputs[i].data, sizes_[i]);
    require(context_->setTensorAddress(tensor.spec.name.c_str(), buffers_[i].host()),
            "refuses the numbers of '" + tensor.spec.name + "'");
  }
}

std::vector<int64_t> EngineContext::shape_of(size_t tensor) const {
  const nvinfer1::Dims shape = context_->getTensorShape(loaded_.tensors[tensor].spec.name.c_str());
  const auto rank = static_cast<size_t>(std::clamp(shape.nbDims, 0, +nvinfer1::Dims::MAX_DIMS));
  return {shape.d, shape.d + rank};
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

}  // namespace lit_deploy::runtime
