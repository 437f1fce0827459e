// The TensorRT and TensorRT-RTX back end: opens engines, and gives every thread contexts to run them.
//
// No part of it was run on a GPU with the real libraries yet: the tests play CUDA and TensorRT (plugins/tests/
// runtime_fake_*.cc). With the real TensorRT-RTX 1.7.1, without a GPU, were run: loading, logger, runtime, plugin
// registry with our plugin, and deserialising up to its refusal for want of a driver.
#include <algorithm>
#include <cstdlib>
#include <tuple>
#include <utility>

#include "backend.h"
#include "error.h"
#include "tensorrt_context.h"
#include "tensorrt_preflight.h"

namespace lit_deploy::runtime {
namespace {

// Contexts with a CUDA graph of their batch size that one thread keeps; beyond it the one unused longest is used anew.
constexpr size_t kMostGraphs = 8;

class Engine final : public Backend {
 public:
  Engine(const std::string& path, Sidecar sidecar, const Options& options);
  ~Engine() override;

  std::unique_ptr<BackendContext> create_context() const override;

  const Device& device() const { return device_; }
  const LoadedEngine& loaded() const { return loaded_; }
  const std::string& path() const { return path_; }
  const Sidecar& sidecar() const { return sidecar_; }

  // Index of the profile that was tuned nearest to a batch size. Throws LIT_INVALID_ARGUMENT.
  int profile_for(int64_t batch) const;

  void check_picture(PictureSize resized, PictureSize original) const override;

 private:
  Engine(const std::string& path, Sidecar sidecar, const Options& options, Preflight found);
  void load_plugin(const std::string& library);
  void deserialize(const std::string& bytes, const std::string& version);
  void check_tensors();

  std::string path_;
  Sidecar sidecar_;
  Device device_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  LoadedEngine loaded_;  // after its runtime, so that it goes first
};

// The contexts of one thread: one, or with CUDA graphs one per batch size, as a graph holds its context's state.
class EngineRunner final : public BackendContext {
 public:
  explicit EngineRunner(const Engine& engine) : engine_(engine) {
    const Current current(engine.device());
    add();
  }
  ~EngineRunner() override {
    const Current current(engine_.device(), std::nothrow);
    contexts_.clear();
  }

  void run(const std::vector<Values>& inputs, std::vector<Values>* outputs) override {
    const int64_t batch = inputs[0].shape[0];
    const int profile = engine_.profile_for(batch);
    warning_.clear();
    try {
      const Current current(engine_.device());
      take(batch);
      try {
        contexts_.back()->run(inputs, profile, outputs);
      } catch (...) {
        contexts_.pop_back();  // its stream or its buffers may be in any state; the next run makes another one
        throw;
      }
    } catch (const Error& error) {
      throw Error(error.status(), engine_.path() + " failed on the GPU with batch " + std::to_string(batch) + " (" +
                                      error.what() +
                                      "); if memory is short, use smaller batches or fewer contexts; if every further "
                                      "run fails too, the GPU's state is lost: start the process again");
    }
    if (contexts_.back()->complete()) return;
    warning_ = engine_.path() + " compares the best candidates only, and of this picture more of them might have "
               "changed the result; build it again with more --nms-candidates, or a higher --score-threshold";
  }

 private:
  void add() { contexts_.push_back(std::make_unique<EngineContext>(engine_.loaded())); }

  // Puts the context to use last.
  void take(int64_t batch) {
    const auto fits = [&](const auto& context) {
      return !engine_.loaded().capture || context->batch() == batch || context->batch() == 0;
    };
    auto found = std::find_if(contexts_.begin(), contexts_.end(), fits);
    if (found == contexts_.end() && contexts_.size() < kMostGraphs) return add();
    if (found == contexts_.end()) found = contexts_.begin();
    std::rotate(found, found + 1, contexts_.end());
  }

  const Engine& engine_;
  std::vector<std::unique_ptr<EngineContext>> contexts_;  // the one unused longest first
};

const char* dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return "float32";
    case nvinfer1::DataType::kHALF: return "float16";
    case nvinfer1::DataType::kINT8: return "int8";
    case nvinfer1::DataType::kINT32: return "int32";
    case nvinfer1::DataType::kINT64: return "int64";
    case nvinfer1::DataType::kBOOL: return "bool";
    case nvinfer1::DataType::kUINT8: return "uint8";
    default: return "a type that is not run here";
  }
}

Engine::Engine(const std::string& path, Sidecar sidecar, const Options& options)
    : Engine(path, sidecar, options, preflight(path, sidecar, options)) {}

Engine::Engine(const std::string& path, Sidecar sidecar, const Options& options, Preflight found)
    : path_(path), sidecar_(std::move(sidecar)), device_(options.device_index) {
  const EngineBuild& build = sidecar_.build;
  if (options.cuda_graph && !can_capture(build)) {
    throw Error(LIT_NOT_SUPPORTED,
                "TensorRT-RTX captures CUDA graphs itself, which this liblit_deploy_runtime.so cannot ask for: it was "
                "compiled with TensorRT's headers; build it with TensorRT-RTX's, or open " + path +
                    " without cuda_graph");
  }
  loaded_.own_graph = options.cuda_graph && build.rtx;
  loaded_.capture = options.cuda_graph && !build.rtx;
  const Current current(device_);
  try {
    runtime_ = found.tensorrt.create_runtime(build.title());
    runtime_->setEngineHostCodeAllowed(options.allow_engine_code);
    if (!found.plugin.empty()) load_plugin(found.plugin);
    deserialize(found.bytes, found.tensorrt.version);
    check_tensors();
  } catch (...) {  // while the device is current
    loaded_.engine.reset();
    runtime_.reset();
    throw;
  }
  const bool plugin = sidecar_.plugin.has_value();
  const std::string how = plugin ? (sidecar_.plugin->embedded ? "embedded plugin" : "plugin")
                                 : (sidecar_.manifest.portable ? "inlined" : "built-in function");
  description_ = std::string(build.title()) + " " + found.tensorrt.version + ", " + found.gpu.name + " (" + how +
                 (options.cuda_graph ? ", CUDA graph)" : ")");
  min_batch_ = max_batch_ = sidecar_.manifest.batch;
  if (sidecar_.manifest.batch == 0) {
    min_batch_ = sidecar_.profiles.front()[0];
    for (const auto& profile : sidecar_.profiles) {
      min_batch_ = std::min(min_batch_, profile[0]);
      max_batch_ = std::max(max_batch_, profile[2]);
    }
  }
}

Engine::~Engine() {
  const Current current(device_, std::nothrow);
  loaded_.engine.reset();
  runtime_.reset();
}

std::unique_ptr<BackendContext> Engine::create_context() const try {
  return std::make_unique<EngineRunner>(*this);
} catch (const Error& error) {
  throw Error(error.status(), path_ + " got no context on the GPU (" + error.what() +
                                  "); if memory is short, use fewer contexts");
}

int Engine::profile_for(int64_t batch) const {
  const auto& profiles = sidecar_.profiles;
  if (profiles.empty()) return 0;  // a fixed batch, which was checked with the input
  int nearest = -1;
  std::string ranges;
  for (size_t i = 0; i < profiles.size(); ++i) {
    const auto [least, best, most] = profiles[i];
    ranges += (ranges.empty() ? "" : " and ") + std::to_string(least) + " to " + std::to_string(most);
    if (batch < least || batch > most) continue;
    if (nearest < 0 || std::abs(best - batch) < std::abs(profiles[nearest][1] - batch)) nearest = static_cast<int>(i);
  }
  if (nearest >= 0) return nearest;
  throw Error(LIT_INVALID_ARGUMENT, "the batch has " + std::to_string(batch) + " images, but " + path_ +
                                        " was built for " + ranges + "; run smaller or larger batches, or " +
                                        rebuild(path_, sidecar_, "", batch));
}

// A runtime has a registry of its own, and this one is new: nothing is in it that was loaded before.
void Engine::load_plugin(const std::string& library) {
  const EnginePlugin& plugin = *sidecar_.plugin;
  nvinfer1::IPluginRegistry& registry = runtime_->getPluginRegistry();
  forget_errors();
  if (registry.loadLibrary(library.c_str()) == nullptr) {
    throw Error(status_of_first_error(LIT_LIBRARY_NOT_FOUND),
                path_ + " needs the plugin library " + library + ", which " + sidecar_.build.title() +
                    " cannot load (" + first_error() +
                    "): it is no plugin library, or was built for another machine; build it again");
  }
  for (const std::string& name : plugin.names) {
    if (registry.getCreator(name.c_str(), plugin.version.c_str(), plugin.name_space.c_str()) != nullptr) continue;
    throw Error(LIT_WRONG_VERSION, path_ + " needs the plugin " + plugin.name_space + "::" + name + " version " +
                                       plugin.version + ", which " + library +
                                       " does not hold; use the library that the engine was built with");
  }
}

void Engine::deserialize(const std::string& bytes, const std::string& version) {
  forget_errors();
  loaded_.engine.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
  if (loaded_.engine != nullptr) return;
  const std::string said = first_error();
  const lit_status status = status_of_first_error(LIT_BAD_MODEL);
  throw Error(status, path_ + " is refused by " + sidecar_.build.title() + " " + version + " (" +
                          (said.empty() ? "it does not say why" : said) + "); " +
                          (status == LIT_OUT_OF_MEMORY ? "free memory on the GPU, or open fewer models"
                                                       : rebuild(path_, sidecar_)));
}

void Engine::check_picture(PictureSize resized, PictureSize original) const {
  if (!sidecar_.sizes) return;
  const EngineSizes& sizes = *sidecar_.sizes;
  const std::string built = ", but " + path_ + " was built for ";
  for (const auto& [side, range, pixels] : {std::tuple("height", sizes.height, resized.height),
                                            std::tuple("width", sizes.width, resized.width)}) {
    if (pixels >= range[0] && pixels <= range[2]) continue;
    throw Error(LIT_INVALID_ARGUMENT,
                "the picture's " + std::string(side) + ", resized, is " + std::to_string(pixels) + " pixels" + built +
                    std::to_string(range[0]) + " to " + std::to_string(range[2]) + "; " + rebuild(path_, sidecar_) +
                    " with another --size");
  }
  const auto [smaller, larger] = std::minmax(original.height, original.width);
  if (smaller >= sizes.original[0] && larger <= sizes.original[2]) return;
  throw Error(LIT_INVALID_ARGUMENT,
              "the picture has " + std::to_string(original.width) + " x " + std::to_string(original.height) +
                  " pixels" + built + "sides of " + std::to_string(sizes.original[0]) + " to " +
                  std::to_string(sizes.original[2]) +
                  "; make it smaller, or build the engine again with --max-original " + std::to_string(larger));
}

// Throws LIT_BAD_MODEL when engine, sidecar and manifest do not describe the same inputs and outputs.
void Engine::check_tensors() {
  const auto expect = [&](bool condition, const std::string& found, const std::string& promised) {
    if (condition) return;
    throw Error(LIT_BAD_MODEL,
                path_ + " has " + found + ", its sidecar promises " + promised + "; " + rebuild(path_, sidecar_));
  };
  const std::vector<TensorSpec> inputs = promised_inputs(sidecar_.manifest);
  const std::vector<TensorSpec> outputs = promised_outputs(sidecar_.manifest);
  std::vector<TensorSpec> promised = sidecar_.inputs;
  expect(promised.size() == inputs.size(), std::to_string(promised.size()) + " inputs",
         std::to_string(inputs.size()) + " in its manifest");
  promised.insert(promised.end(), sidecar_.outputs.begin(), sidecar_.outputs.end());

  const nvinfer1::ICudaEngine& engine = *loaded_.engine;
  const size_t count = static_cast<size_t>(std::max(engine.getNbIOTensors(), 0));
  expect(count == promised.size(), std::to_string(count) + " tensors", std::to_string(promised.size()));
  loaded_.inputs = inputs.size();
  loaded_.results.assign(outputs.size(), count);
  for (size_t i = 0; i < promised.size(); ++i) {
    const char* name = promised[i].name.c_str();
    const nvinfer1::TensorIOMode mode = engine.getTensorIOMode(name);
    expect(mode != nvinfer1::TensorIOMode::kNONE, "no tensor '" + promised[i].name + "'", promised[i].text());
    const nvinfer1::Dims shape = engine.getTensorShape(name);
    const size_t rank = static_cast<size_t>(std::clamp(shape.nbDims, 0, +nvinfer1::Dims::MAX_DIMS));
    const TensorSpec found{name, dtype_of(engine.getTensorDataType(name)), {shape.d, shape.d + rank}};
    const bool is_input = mode == nvinfer1::TensorIOMode::kINPUT;
    expect(found.agrees(promised[i]) && is_input == (i < inputs.size()), found.text(), promised[i].text());
    expect(bytes_of(found.dtype) != 0, found.text(), "types that this library runs");
    EngineTensor tensor{promised[i], false, false};
    // From here on, what the manifest says: it fixes every size but the batch, and those of a picture.
    const auto is_same = [&](const TensorSpec& spec) { return spec.name == found.name; };
    const auto result = std::find_if(outputs.begin(), outputs.end(), is_same);
    const bool is_result = !is_input && result != outputs.end();
    if (is_input || is_result) {
      const TensorSpec& same = is_input ? inputs[i] : *result;
      expect(promised[i].agrees(same), promised[i].text(), same.text() + " in its manifest");
      tensor.spec = same;
    }
    if (is_result) loaded_.results[result - outputs.begin()] = i;
    if (!is_input && found.name == contract::kCompleteName) {
      const TensorSpec flag{contract::kCompleteName, "int32", {1}};
      expect(found.agrees(flag), found.text(), flag.text());
      loaded_.complete = static_cast<int>(i);
    }
    tensor.returned = is_result || loaded_.complete == static_cast<int>(i);
    tensor.on_host = is_input && engine.getTensorLocation(name) == nvinfer1::TensorLocation::kHOST;
    expect(!tensor.on_host || (found.dtype == "int64" && rank == 1), found.text() + " on the host", "a picture");
    loaded_.tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    expect(loaded_.results[i] < count, "no '" + outputs[i].name + "'", "it in its manifest");
  }
  const int profiles = engine.getNbOptimizationProfiles();
  const int expected = std::max(1, static_cast<int>(sidecar_.profiles.size()));
  expect(profiles == expected, std::to_string(profiles) + " profiles", std::to_string(expected));
}

}  // namespace

Loaded open_engine(const std::string& path, const Options& options) try {
  Sidecar sidecar = read_sidecar(path);
  Manifest manifest = sidecar.manifest;
  auto engine = std::make_unique<Engine>(path, std::move(sidecar), options);
  return {std::move(manifest), std::move(engine)};
} catch (const Error& error) {
  if (std::string(error.what()).find(path) != std::string::npos) throw;
  // The driver's: what fails on the GPU before anything was run is the GPU's state.
  throw Error(error.status() == LIT_RUN_FAILED ? LIT_NO_DEVICE : error.status(),
              path + " cannot be opened on this machine (" + error.what() + ")");
}

}  // namespace lit_deploy::runtime
