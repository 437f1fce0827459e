// A libnvinfer.so that needs no GPU: runtime_fake_engine.h says what its engines are, and what they compute.
//
// It holds callers to the rules of the real one, as tests/fake_tensorrt.py does: a context that is still running must
// not be changed or destroyed; a profile comes before a shape, which must lie inside it; a graph is captured only after
// an ordinary run of the same shape; what is read on the host lies there, and everything else does not.
//
// Of TensorRT's classes it fills in the virtual functions that are called, found by their place in the table, so that
// it compiles with the headers of every release without naming the hundred others; calling one of those ends the test.
#include <NvInferRuntime.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "runtime_fake.h"
#include "runtime_fake_engine.h"

namespace {

using nvinfer1::Dims;

// Place of a virtual function in its class's table (Itanium C++ ABI, as GCC and Clang have it on Linux).
template <typename Method>
size_t place(Method method) {
  uintptr_t parts[2];
  static_assert(sizeof(method) == sizeof(parts));
  std::memcpy(parts, &method, sizeof(parts));
#ifdef __aarch64__
  return parts[0] / sizeof(void*);
#else
  return (parts[0] - 1) / sizeof(void*);
#endif
}

void unexpected() {
  std::fprintf(stderr, "fake TensorRT: a function was called that it does not play\n");
  std::abort();
}

class Table {
 public:
  Table() {
    for (void*& entry : entries_) entry = reinterpret_cast<void*>(&unexpected);
  }
  template <typename Method, typename Function>
  Table& set(Method method, Function* function) {
    entries_[place(method)] = reinterpret_cast<void*>(function);
    return *this;
  }
  void* const* entries() const { return entries_; }

 private:
  void* before_[2] = {};  // where a real table has its type information
  void* entries_[100];
};

// The object behind TensorRT's classes: a table, and whose it is.
template <typename Owner>
struct View {
  void* const* table;
  Owner* owner;
};

nvinfer1::ILogger* the_logger = nullptr;
int version[4] = {NV_TENSORRT_MAJOR, 9, 0, 34};

void say(const char* text) {
  if (the_logger != nullptr) the_logger->log(nvinfer1::ILogger::Severity::kERROR, text);
}

// Whether a call may go on; if not, the logger has heard why.
bool enter(const char* call) {
  const int code = fake_enter(call);
  if (code == CUDA_ERROR_OUT_OF_MEMORY) say("Error Code 1: Cuda Runtime (out of memory)\nmore that nobody needs");
  else if (code > 0) say("Error Code 2: told to fail\nmore that nobody needs");
  return code < 0;
}

bool refuse(const char* text) {
  say(text);
  return false;
}

nvinfer1::DataType type_of(const std::string& type) {
  if (type == "float32") return nvinfer1::DataType::kFLOAT;
  if (type == "int64") return nvinfer1::DataType::kINT64;
  if (type == "int32") return nvinfer1::DataType::kINT32;
  if (type == "uint8") return nvinfer1::DataType::kUINT8;
  return type == "float16" ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kBF16;
}

class Engine final : public nvinfer1::ICudaEngine {
 public:
  Engine();
  ~Engine() override { fake_made("engine", -1); }
  View<Engine> view;
  FakeNetwork network;
};

class Context final : public nvinfer1::IExecutionContext {
 public:
  explicit Context(const Engine& engine);
  ~Context() override {
    if (*pending != 0) fake_misuse("an execution context is destroyed while it runs");
    fake_made("execution context", -1);
  }
  bool enqueue(CUstream stream);
  size_t place(const char* name) const { return network.find(name) - network.tensors.data(); }
  FakeShape shape_of(const FakeTensor& tensor) const;

  View<Context> view;
  const FakeNetwork& network;
  int profile = -1;
  std::vector<FakeShape> shapes;  // of the inputs, empty before they are set
  std::vector<void*> addresses;
  std::set<std::pair<int, std::vector<FakeShape>>> warm;
  std::shared_ptr<std::atomic<int>> pending = std::make_shared<std::atomic<int>>(0);
};

class Runtime final : public nvinfer1::IRuntime {
 public:
  Runtime();
  ~Runtime() override { fake_made("runtime", -1); }
  View<Runtime> view;
  View<Runtime> registry;
  bool code_allowed = false;
  bool plugin = false;
};

// --- engines

int32_t count_tensors(View<Engine>* view) { return static_cast<int32_t>(view->owner->network.tensors.size()); }
int32_t count_profiles(View<Engine>* view) {
  return std::max<int32_t>(1, static_cast<int32_t>(view->owner->network.profiles.size()));
}
nvinfer1::TensorIOMode tensor_mode(View<Engine>* view, const char* name) {
  const FakeTensor* tensor = view->owner->network.find(name);
  if (tensor == nullptr) return nvinfer1::TensorIOMode::kNONE;
  return tensor->input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
}
nvinfer1::DataType tensor_type(View<Engine>* view, const char* name) {
  return type_of(view->owner->network.find(name)->type);
}
nvinfer1::TensorLocation tensor_location(View<Engine>* view, const char* name) {
  return view->owner->network.find(name)->host ? nvinfer1::TensorLocation::kHOST : nvinfer1::TensorLocation::kDEVICE;
}
Dims dims_of(const FakeShape& shape) {
  Dims dims{};
  for (const int64_t size : shape) dims.d[dims.nbDims++] = size > 0 ? size : -1;
  return dims;
}
Dims tensor_shape(View<Engine>* view, const char* name) { return dims_of(view->owner->network.find(name)->shape); }
nvinfer1::IExecutionContext* make_context(View<Engine>* view, nvinfer1::ExecutionContextAllocationStrategy) {
  return enter("createExecutionContext") ? new Context(*view->owner) : nullptr;
}

Engine::Engine() {
  using nvinfer1::apiv::VCudaEngine;
  static const Table table = Table()
                                 .set(&VCudaEngine::getNbIOTensors, count_tensors)
                                 .set(&VCudaEngine::getNbOptimizationProfiles, count_profiles)
                                 .set(&VCudaEngine::getTensorIOMode, tensor_mode)
                                 .set(&VCudaEngine::getTensorDataType, tensor_type)
                                 .set(&VCudaEngine::getTensorLocation, tensor_location)
                                 .set(&VCudaEngine::getTensorShape, tensor_shape)
                                 .set(&VCudaEngine::createExecutionContext, make_context);
  view = {table.entries(), this};
  mImpl = reinterpret_cast<VCudaEngine*>(&view);
  fake_made("engine", 1);
}

// --- execution contexts

bool set_profile(View<Context>* view, int32_t index, cudaStream_t) {
  if (!enter("setOptimizationProfileAsync")) return false;
  Context& context = *view->owner;
  if (*context.pending != 0) fake_misuse("a context that runs gets another profile");
  const int profiles = std::max(1, static_cast<int>(context.network.profiles.size()));
  if (index < 0 || index >= profiles) return refuse("no such profile");
  context.profile = index;
  context.shapes.assign(context.network.tensors.size(), {});
  return true;
}
bool set_shape(View<Context>* view, const char* name, const Dims& shape) {
  if (!enter("setInputShape")) return false;
  Context& context = *view->owner;
  if (*context.pending != 0) fake_misuse("a context that runs gets another shape");
  if (context.profile < 0) return refuse("a shape is set before a profile");
  const Dims wanted = dims_of(context.network.find(name)->shape);
  bool fits = shape.nbDims == wanted.nbDims;
  for (int i = 0; fits && i < shape.nbDims; ++i) fits = wanted.d[i] < 0 || wanted.d[i] == shape.d[i];
  if (!fits) return refuse("the shape is not one of the engine");
  if (!context.network.profiles.empty()) {
    const FakeProfile& profile = context.network.profiles[context.profile];
    if (shape.d[0] < profile.least || shape.d[0] > profile.most) return refuse("the shape is outside the profile");
  }
  context.shapes[context.place(name)].assign(shape.d, shape.d + shape.nbDims);
  return true;
}
Dims run_shape(View<Context>* view, const char* name) {
  Dims none{};
  none.nbDims = -1;
  if (!enter("getTensorShape")) return none;
  return dims_of(view->owner->shape_of(*view->owner->network.find(name)));
}
bool set_address(View<Context>* view, const char* name, void* address) {
  if (!enter("setTensorAddress")) return false;
  Context& context = *view->owner;
  if (*context.pending != 0) fake_misuse("a context that runs gets other memory");
  if (context.network.find(name)->host == fake_is_memory(address, 1)) fake_misuse("memory is on the other side");
  context.addresses[context.place(name)] = address;
  return true;
}
bool enqueue(View<Context>* view, cudaStream_t stream) { return enter("enqueueV3") && view->owner->enqueue(stream); }

// Of an input what was set; of an output what follows from the inputs, 0 for what nobody can know yet.
FakeShape Context::shape_of(const FakeTensor& tensor) const {
  if (tensor.input) return shapes[&tensor - network.tensors.data()];
  const int64_t* number = nullptr;
  for (size_t i = 0; i < addresses.size(); ++i) {
    if (network.tensors[i].host) number = static_cast<const int64_t*>(addresses[i]);
  }
  FakeShape shape;
  for (const int64_t size : tensor.shape) {
    if (size == 0) shape.push_back(number == nullptr ? 0 : *number++);
    else if (shape.empty() && size < 0) shape.push_back(shapes[0].empty() ? 0 : shapes[0][0]);
    else shape.push_back(std::abs(size));
  }
  return shape;
}

bool Context::enqueue(CUstream stream) {
  for (const void* address : addresses) {
    if (address == nullptr) return refuse("an address is not set");
  }
  if (profile < 0) return refuse("a profile is not set");
  FakeRun run{network.tensors, {}, addresses, profile};
  for (const FakeTensor& tensor : network.tensors) {
    run.shapes.push_back(shape_of(tensor));
    if (run.shapes.back().empty()) return refuse("a shape is not set");
  }
  const bool capturing = fake_capturing(stream);
  if (capturing && warm.count({profile, run.shapes}) == 0) return refuse("not permitted while the stream is capturing");
  warm.insert({profile, run.shapes});
  *pending += !capturing;
  fake_enqueue(stream, [run, capturing, running = pending] {
    *running -= !capturing;
    return compute(run);
  });
  return true;
}

Context::Context(const Engine& engine) : network(engine.network), addresses(engine.network.tensors.size()) {
  using nvinfer1::apiv::VExecutionContext;
  static const Table table = Table()
                                 .set(&VExecutionContext::setOptimizationProfileAsync, set_profile)
                                 .set(&VExecutionContext::setInputShape, set_shape)
                                 .set(&VExecutionContext::getTensorShape, run_shape)
                                 .set(&VExecutionContext::setTensorAddress, set_address)
                                 .set(&VExecutionContext::enqueueV3, ::enqueue);
  view = {table.entries(), this};
  mImpl = reinterpret_cast<VExecutionContext*>(&view);
  fake_made("execution context", 1);
}

// --- the runtime and its registry

void allow_code(View<Runtime>* view, bool allowed) { view->owner->code_allowed = allowed; }
void* registry_of(View<Runtime>* view) { return &view->owner->registry; }

void* load_library(View<Runtime>* registry, const char*) {
  if (!enter("loadLibrary")) return nullptr;
  if (registry->owner->plugin) {
    fake_misuse("a plugin library is loaded twice");
    return nullptr;
  }
  registry->owner->plugin = true;
  return registry;
}
void* get_creator(View<Runtime>* registry, const char* name, const char* plugin_version, const char* name_space) {
  const bool known = registry->owner->plugin && std::string(name) == "DeformableTokenMerging" &&
                     std::string(plugin_version) == "1" && std::string(name_space) == "lit_deploy";
  if (!known) say("Cannot find plugin");
  return known && enter("getCreator") ? registry : nullptr;
}

nvinfer1::ICudaEngine* deserialize(View<Runtime>* view, const void* blob, size_t size) {
  if (!enter("deserializeCudaEngine")) return nullptr;
  std::optional<FakeNetwork> network = read_network(std::string(static_cast<const char*>(blob), size));
  if (!network) {
    say("Error Code 4: magic tag does not match\nmore that nobody needs");
    return nullptr;
  }
  if (network->code && !view->owner->code_allowed) {
    say("host code is not allowed");
    return nullptr;
  }
  auto engine = std::make_unique<Engine>();
  engine->network = std::move(*network);
  return engine.release();
}

Runtime::Runtime() {
  using nvinfer1::IPluginRegistry;
  using nvinfer1::apiv::VRuntime;
  using Deserialize = nvinfer1::ICudaEngine* (VRuntime::*)(void const*, std::size_t) noexcept;
  static const Table table = Table()
                                 .set(static_cast<Deserialize>(&VRuntime::deserializeCudaEngine), deserialize)
                                 .set(&VRuntime::getPluginRegistry, registry_of)
                                 .set(&VRuntime::setEngineHostCodeAllowed, allow_code);
  static const Table plugins = Table()
                                   .set(&IPluginRegistry::loadLibrary, load_library)
                                   .set(&IPluginRegistry::getCreator, get_creator);
  view = {table.entries(), this};
  registry = {plugins.entries(), this};
  mImpl = reinterpret_cast<VRuntime*>(&view);
  fake_made("runtime", 1);
}

}  // namespace

extern "C" {
#pragma GCC visibility push(default)

void fake_version(int major, int minor, int patch, int build) {
  const int numbers[] = {major, minor, patch, build};
  std::memcpy(version, numbers, sizeof version);
}
int32_t getInferLibMajorVersion() noexcept { return version[0]; }
int32_t getInferLibMinorVersion() noexcept { return version[1]; }
int32_t getInferLibPatchVersion() noexcept { return version[2]; }
int32_t getInferLibBuildVersion() noexcept { return version[3]; }
int32_t getInferLibVersion() noexcept { return version[0] * 10000 + version[1] * 100 + version[2]; }

void* createInferRuntime_INTERNAL(void* logger, int32_t asked) noexcept {
  if (asked != getInferLibVersion()) fake_misuse("a runtime of another version was asked for");
  the_logger = static_cast<nvinfer1::ILogger*>(logger);
  return enter("createInferRuntime") ? static_cast<nvinfer1::IRuntime*>(new Runtime) : nullptr;
}

#pragma GCC visibility pop
}  // extern "C"
