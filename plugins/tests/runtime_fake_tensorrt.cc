// A libnvinfer.so that needs no GPU: its engines are lines of text, and what they compute can be told from the input.
//
//   FAKE ENGINE
//   tensor <name> <in|out> <type> <size> ...     -1: the batch; -n: of any size, which turns out to be n
//   profile <least> <most>                       as many as there are
//   code                                         refused unless code inside engines is allowed
//
// float32 output: sum of the image's input * (k + 1) + 1000 * profile; int64: (7 * k + image) mod sizes; others: 0.
//
// It holds callers to the rules of the real one, as tests/fake_tensorrt.py does: a context that is still running must
// not be changed or destroyed; a profile comes before a shape, which must lie inside it; a graph is captured only after
// an ordinary run of the same shape.
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
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "runtime_fake.h"

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

struct Tensor {
  std::string name, type;
  bool input;
  std::vector<int64_t> shape;
};
struct Profile {
  int64_t least, most;
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

size_t item(const std::string& type) { return type == "float32" ? 4 : type == "int64" ? 8 : type == "uint8" ? 1 : 2; }

nvinfer1::DataType type_of(const std::string& type) {
  if (type == "float32") return nvinfer1::DataType::kFLOAT;
  if (type == "int64") return nvinfer1::DataType::kINT64;
  if (type == "uint8") return nvinfer1::DataType::kUINT8;
  return type == "float16" ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kBF16;
}

class Engine final : public nvinfer1::ICudaEngine {
 public:
  Engine();
  ~Engine() override { fake_made("engine", -1); }
  const Tensor* find(const char* name) const {
    for (const Tensor& tensor : tensors) {
      if (tensor.name == name) return &tensor;
    }
    return nullptr;
  }
  View<Engine> view;
  std::vector<Tensor> tensors;
  std::vector<Profile> profiles;
};

class Context final : public nvinfer1::IExecutionContext {
 public:
  explicit Context(const Engine& engine);
  ~Context() override {
    if (*pending != 0) fake_misuse("an execution context is destroyed while it runs");
    fake_made("execution context", -1);
  }
  bool enqueue(CUstream stream);

  View<Context> view;
  const Engine& engine;
  int profile = -1;
  int64_t batch = 0;
  std::vector<void*> addresses;
  std::set<std::pair<int, int64_t>> warm;
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

int32_t count_tensors(View<Engine>* view) { return static_cast<int32_t>(view->owner->tensors.size()); }
int32_t count_profiles(View<Engine>* view) {
  return std::max<int32_t>(1, static_cast<int32_t>(view->owner->profiles.size()));
}
nvinfer1::TensorIOMode tensor_mode(View<Engine>* view, const char* name) {
  const Tensor* tensor = view->owner->find(name);
  if (tensor == nullptr) return nvinfer1::TensorIOMode::kNONE;
  return tensor->input ? nvinfer1::TensorIOMode::kINPUT : nvinfer1::TensorIOMode::kOUTPUT;
}
nvinfer1::DataType tensor_type(View<Engine>* view, const char* name) { return type_of(view->owner->find(name)->type); }
Dims shape_of(const Tensor& tensor, int64_t batch) {
  Dims shape{};
  for (const int64_t size : tensor.shape) shape.d[shape.nbDims++] = size >= 0 ? size : batch == 0 ? -1 : -size;
  if (batch != 0) shape.d[0] = batch;
  return shape;
}
Dims tensor_shape(View<Engine>* view, const char* name) { return shape_of(*view->owner->find(name), 0); }
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
  const int profiles = std::max(1, static_cast<int>(context.engine.profiles.size()));
  if (index < 0 || index >= profiles) return refuse("no such profile");
  context.profile = index;
  context.batch = 0;
  return true;
}
bool set_shape(View<Context>* view, const char* name, const Dims& shape) {
  if (!enter("setInputShape")) return false;
  Context& context = *view->owner;
  if (*context.pending != 0) fake_misuse("a context that runs gets another shape");
  if (context.profile < 0) return refuse("a shape is set before a profile");
  const Dims wanted = shape_of(*context.engine.find(name), 0);
  bool fits = shape.nbDims == wanted.nbDims;
  for (int i = 0; fits && i < shape.nbDims; ++i) fits = wanted.d[i] < 0 || wanted.d[i] == shape.d[i];
  if (!fits) return refuse("the shape is not one of the engine");
  if (!context.engine.profiles.empty()) {
    const Profile& profile = context.engine.profiles[context.profile];
    if (shape.d[0] < profile.least || shape.d[0] > profile.most) return refuse("the shape is outside the profile");
  }
  context.batch = shape.d[0];
  return true;
}
Dims run_shape(View<Context>* view, const char* name) {
  Dims none{};
  none.nbDims = -1;
  if (!enter("getTensorShape")) return none;
  return shape_of(*view->owner->engine.find(name), view->owner->batch);
}
bool set_address(View<Context>* view, const char* name, void* address) {
  if (!enter("setTensorAddress")) return false;
  const Context& context = *view->owner;
  if (*context.pending != 0) fake_misuse("a context that runs gets other memory");
  view->owner->addresses[context.engine.find(name) - context.engine.tensors.data()] = address;
  return true;
}
bool enqueue(View<Context>* view, cudaStream_t stream) { return enter("enqueueV3") && view->owner->enqueue(stream); }

// What the "GPU" does: false where memory is not there.
bool compute(const std::vector<Tensor>& tensors, const std::vector<void*>& addresses, int64_t batch, int profile) {
  std::vector<double> sums(batch);
  for (const bool inputs : {true, false}) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      const Tensor& tensor = tensors[i];
      if (tensor.input != inputs) continue;
      int64_t sizes = 1;
      for (size_t d = 1; d < tensor.shape.size(); ++d) sizes *= tensor.shape[d];
      if (!fake_is_memory(addresses[i], batch * sizes * item(tensor.type))) return false;
      auto* const floats = static_cast<float*>(addresses[i]);
      auto* const bytes = static_cast<unsigned char*>(addresses[i]);
      for (int64_t at = 0; at < batch * sizes; ++at) {
        const int64_t image = at / sizes, k = at % sizes;
        if (inputs) sums[image] += tensor.type == "uint8" ? bytes[at] : floats[at];
        else if (tensor.type == "float32") floats[at] = static_cast<float>(sums[image] * (k + 1) + 1000 * profile);
        else if (tensor.type == "int64") static_cast<int64_t*>(addresses[i])[at] = (7 * k + image) % sizes;
      }
    }
  }
  return true;
}

bool Context::enqueue(CUstream stream) {
  for (const void* address : addresses) {
    if (address == nullptr) return refuse("an address is not set");
  }
  if (profile < 0 || batch == 0) return refuse("a profile or a shape is not set");
  const bool capturing = fake_capturing(stream);
  if (capturing && warm.count({profile, batch}) == 0) return refuse("not permitted while the stream is capturing");
  warm.insert({profile, batch});
  *pending += !capturing;
  fake_enqueue(stream, [tensors = engine.tensors, all = addresses, images = batch, index = profile, capturing,
                        running = pending] {
    *running -= !capturing;
    return compute(tensors, all, images, index);
  });
  return true;
}

Context::Context(const Engine& the_engine) : engine(the_engine), addresses(the_engine.tensors.size()) {
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
  std::istringstream text(std::string(static_cast<const char*>(blob), size));
  auto engine = std::make_unique<Engine>();
  std::string line, word;
  if (!std::getline(text, line) || line != "FAKE ENGINE") {
    say("Error Code 4: magic tag does not match\nmore that nobody needs");
    return nullptr;
  }
  while (std::getline(text, line)) {
    std::istringstream words(line);
    words >> word;
    if (word == "profile") {
      engine->profiles.emplace_back();
      words >> engine->profiles.back().least >> engine->profiles.back().most;
    } else if (word == "tensor") {
      Tensor tensor;
      std::string mode;
      words >> tensor.name >> mode >> tensor.type;
      tensor.input = mode == "in";
      for (int64_t number; words >> number;) tensor.shape.push_back(number);
      engine->tensors.push_back(tensor);
    } else if (word == "code" && !view->owner->code_allowed) {
      say("host code is not allowed");
      return nullptr;
    }
  }
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
