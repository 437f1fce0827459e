// ".onnx" files and IRs on OpenVINO's CPU plugin: the C++ counterpart of lit_deploy/backends/openvino.py.
#include <algorithm>
#include <list>
#include <mutex>
#include <utility>
#include <vector>

#include "backend.h"
#include "cpu.h"
#include "openvino_api.h"
#include "shared_library.h"

namespace lit_deploy::runtime {
namespace {

// Shapes of inputs whose compiled networks are kept, as in Python: static shapes are how OpenVINO is fastest, and each of
// them holds the memory of one inference and a packed copy of the weights.
constexpr size_t kMostCompiled = 3;

// The extension with our operators, "" for a file that needs none.
std::string find_extension(const std::string& path, const Manifest& manifest, const Options& options) {
  if (manifest.portable) return "";
  const Wanted wanted{"the lit-deploy extension for OpenVINO",
                      {"liblit_deploy_openvino.so"},
                      "LIT_DEPLOY_OPENVINO_EXTENSION",
                      options.operator_library,
                      false};
  const std::string found = options.use_operator ? find_library(wanted, "correct the path") : "";
  if (!found.empty()) return found;
  // OpenVINO runs no function that a file carries, and its reader ends the process on some files that have one.
  std::string searched;
  for (const std::string& candidate : candidates(wanted)) searched += (searched.empty() ? "" : ", ") + candidate;
  throw Error(LIT_LIBRARY_NOT_FOUND,
              path + " calls operators of lit-deploy, which OpenVINO knows by an extension alone (" +
                  (options.use_operator ? "searched " + searched : "it was left out") +
                  "); name liblit_deploy_openvino.so in LIT_DEPLOY_OPENVINO_EXTENSION or lit_options.operator_library, "
                  "or export the file with --portable");
}

// What everything is computed in that is not quantised: an 8-bit file's integer kernels are what they are.
const char* precision_of(const std::string& path, const Manifest& manifest, const Options& options) {
  const bool capable = computes_bf16();
  const bool asked = options.precision_hint == "bf16";
  if (asked && !capable) {
    throw Error(LIT_NOT_SUPPORTED, "this CPU does not compute in bfloat16 (AMX or AVX512_BF16), which the precision "
                                   "hint asks for " + path + "; leave precision_hint of lit_options out");
  }
  return asked || (options.precision_hint.empty() && manifest.base == "bf16" && capable) ? "bf16" : "f32";
}

// Of every input.
using Shapes = std::vector<std::vector<int64_t>>;

// A network that is compiled for some shapes of its inputs.
using Compiled = std::shared_ptr<ov_compiled_model>;

class OpenVinoBackend;

// A request runs one inference at a time, so every context has its own.
class OpenVinoContext : public BackendContext {
 public:
  explicit OpenVinoContext(const OpenVinoBackend& backend);
  void run(const std::vector<Values>& inputs, std::vector<Values>* outputs) override;

 private:
  void prepare(const Shapes& shapes);
  const void* result(size_t index, const std::vector<int64_t>& shape);

  const OpenVinoBackend& backend_;
  Compiled compiled_;  // of the last run, as its request; gone from the backend's own list perhaps
  OvOwned<ov_infer_request> request_;
  std::vector<OvOwned<ov_tensor>> results_;  // of the last run
  Shapes shapes_;  // it is prepared for
};

class OpenVinoBackend : public Backend {
 public:
  OpenVinoBackend(const std::string& path, const Manifest& manifest, const Options& options)
      : path_(path),
        openvino_(load_openvino(options.backend_library)),
        model_(nullptr, openvino_.api.ov_model_free),
        inputs_(promised_inputs(manifest)),
        outputs_(promised_outputs(manifest)),
        threads_(options.threads),
        precision_(precision_of(path, manifest, options)),
        emulates_int8_(manifest.precision == "int8" && int8_saturates()) {
    if (manifest.batch != 0) min_batch_ = max_batch_ = manifest.batch;
    const std::string extension = find_extension(path, manifest, options);
    core_ = core_of(openvino_, extension);
    ov_model* made = nullptr;
    check(openvino_.api.ov_core_read_model(core_, path.c_str(), nullptr, &made), LIT_BAD_MODEL);
    model_.reset(made);
    const OvApi& api = openvino_.api;
    check_tensors(inputs_, &TensorSpec::equals, api.ov_model_inputs_size, api.ov_model_const_input_by_name);
    check_tensors(outputs_, &TensorSpec::agrees, api.ov_model_outputs_size, api.ov_model_const_output_by_name);
    Shapes shapes;
    bool one_size = true, any_picture = false;
    for (const TensorSpec& input : inputs_) {
      one_size = one_size && input.fixed();
      shapes.push_back(input.shape);
      if (shapes.back()[0] < 0) shapes.back()[0] = min_batch_;
      any_picture = any_picture || *std::min_element(shapes.back().begin(), shapes.back().end()) < 0;
    }
    // What the plugin refuses shows here, and not in the first run; of a network for pictures of any size it does not.
    if (!any_picture) compiled(shapes, LIT_BAD_MODEL);
    if (one_size) model_.reset();  // nothing else will be compiled of it
    description_ = "OpenVINO " + openvino_.version + " cpu (" + precision_ + ", " +
                   (manifest.portable ? "inlined" : "lit-deploy kernels") + (emulates_int8_ ? ", int8 emulated)" : ")");
  }

  std::unique_ptr<BackendContext> create_context() const override { return std::make_unique<OpenVinoContext>(*this); }

 private:
  friend class OpenVinoContext;

  void check(OvStatus result, lit_status status) const {
    if (result == 0) return;  // before any text is put together
    openvino_.check(result, status,
                    "OpenVINO " + openvino_.version +
                        (status == LIT_RUN_FAILED ? " failed while it ran " : " refuses ") + path_);
  }

  // Throws when the graph's inputs or outputs are not those that the manifest promises. By name: their order is not
  // kept by every reader.
  template <typename Count, typename ByName>
  void check_tensors(const std::vector<TensorSpec>& promised, Compare fits, Count count, ByName by_name) const {
    size_t found = 0;
    check(count(model_.get(), &found), LIT_BAD_MODEL);
    bool same = found == promised.size();
    for (const TensorSpec& spec : promised) same = same && (tensor(spec.name, by_name).*fits)(spec);
    if (!same) throw other_tensors(path_);
  }

  // An input or output of the graph, without a shape where there is none of this name.
  template <typename ByName>
  TensorSpec tensor(const std::string& name, ByName by_name) const {
    const OvApi& api = openvino_.api;
    ov_output_const_port* made = nullptr;
    if (by_name(model_.get(), name.c_str(), &made) != 0) return {name, "none", {}};
    const OvOwned<ov_output_const_port> port(made, api.ov_output_const_port_free);
    OvType type = 0;
    check(api.ov_port_get_element_type(made, &type), LIT_BAD_MODEL);
    OvPartialShape found{};
    check(api.ov_port_get_partial_shape(made, &found), LIT_BAD_MODEL);
    const OvOwned<OvPartialShape> owned(&found, api.ov_partial_shape_free);
    TensorSpec spec{name, openvino_.dtype(type), {}};
    const int64_t rank = found.rank.min == found.rank.max ? found.rank.max : 0;
    for (int64_t i = 0; i < rank; ++i) {
      const OvDimension& size = found.dimensions[i];
      spec.shape.push_back(size.min == size.max ? size.max : -1);
    }
    return spec;
  }

  // The network for some shapes; throws `status` where they cannot be compiled. One is compiled at a time; contexts that
  // stay at theirs do not wait for it.
  Compiled compiled(const Shapes& shapes, lit_status status) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = std::find_if(compiled_.begin(), compiled_.end(),
                                    [&shapes](const auto& entry) { return entry.first == shapes; });
    if (known != compiled_.end()) {
      compiled_.splice(compiled_.begin(), compiled_, known);
    } else {
      while (compiled_.size() >= kMostCompiled) compiled_.pop_back();  // before the next one takes as much
      compiled_.emplace_front(shapes, compile(shapes, status));
    }
    return compiled_.front().second;
  }

  Compiled compile(const Shapes& shapes, lit_status status) const {
    const OvApi& api = openvino_.api;
    std::vector<std::vector<OvDimension>> sizes(shapes.size());
    std::vector<OvPartialShape> wanted;
    std::vector<const char*> names;
    for (size_t i = 0; i < shapes.size(); ++i) {
      for (const int64_t size : shapes[i]) sizes[i].push_back({size, size});
      const auto rank = static_cast<int64_t>(shapes[i].size());
      wanted.push_back({{rank, rank}, sizes[i].data()});
      names.push_back(inputs_[i].name.c_str());
    }
    check(api.ov_model_reshape(model_.get(), names.data(), wanted.data(), names.size()), status);
    ov_compiled_model* made = nullptr;
    // Where the CPU has bfloat16 OpenVINO would choose it by itself.
    const std::string threads = std::to_string(threads_);  // 0: its own choice
    const size_t words = emulates_int8_ ? 8 : 6;
    check(api.ov_core_compile_model(core_, model_.get(), "CPU", words, &made,  //
                                    "INFERENCE_PRECISION_HINT", precision_,    //
                                    "PERFORMANCE_HINT", "LATENCY",             //
                                    "INFERENCE_NUM_THREADS", threads.c_str(),  //
                                    "LP_TRANSFORMS_MODE", "NO"),
          status);
    return {made, api.ov_compiled_model_free};
  }

  const std::string path_;
  const OpenVino& openvino_;
  const ov_core* core_ = nullptr;
  OvOwned<ov_model> model_;  // reshaped under the mutex
  const std::vector<TensorSpec> inputs_;
  const std::vector<TensorSpec> outputs_;
  const int threads_;
  const char* const precision_;
  const bool emulates_int8_;  // by float32, exactly, where products of int8 would clip sums
  mutable std::mutex mutex_;
  mutable std::list<std::pair<Shapes, Compiled>> compiled_;  // used last, first
};

OpenVinoContext::OpenVinoContext(const OpenVinoBackend& backend)
    : backend_(backend), request_(nullptr, backend.openvino_.api.ov_infer_request_free) {}

void OpenVinoContext::prepare(const Shapes& shapes) {
  if (shapes == shapes_) return;
  results_.clear();
  request_.reset();
  compiled_.reset();  // before another takes as much
  shapes_.clear();
  Compiled compiled = backend_.compiled(shapes, LIT_RUN_FAILED);
  ov_infer_request* made = nullptr;
  backend_.check(backend_.openvino_.api.ov_compiled_model_create_infer_request(compiled.get(), &made), LIT_RUN_FAILED);
  request_.reset(made);
  compiled_ = std::move(compiled);
  shapes_ = shapes;
}

void OpenVinoContext::run(const std::vector<Values>& inputs, std::vector<Values>* outputs) {
  const OvApi& api = backend_.openvino_.api;
  Shapes shapes;
  for (const Values& input : inputs) shapes.push_back(input.shape);
  prepare(shapes);
  results_.clear();
  std::vector<OvOwned<ov_tensor>> tensors;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorSpec& taken = backend_.inputs_[i];
    ov_tensor* made = nullptr;
    // const_cast: OpenVINO has no type for input that it does not write to
    backend_.check(api.ov_tensor_create_from_host_ptr(backend_.openvino_.type(taken.dtype),
                                                      {static_cast<int64_t>(shapes[i].size()), shapes[i].data()},
                                                      const_cast<void*>(inputs[i].data), &made),
                   LIT_RUN_FAILED);
    OvOwned<ov_tensor> owned(made, api.ov_tensor_free);
    tensors.push_back(std::move(owned));
    backend_.check(api.ov_infer_request_set_tensor(request_.get(), taken.name.c_str(), made), LIT_RUN_FAILED);
  }
  backend_.check(api.ov_infer_request_infer(request_.get()), LIT_RUN_FAILED);
  for (size_t i = 0; i < outputs->size(); ++i) (*outputs)[i].data = result(i, (*outputs)[i].shape);
}

// Data of an output, valid until the next run.
const void* OpenVinoContext::result(size_t index, const std::vector<int64_t>& shape) {
  const OvApi& api = backend_.openvino_.api;
  const TensorSpec& promised = backend_.outputs_[index];
  ov_tensor* made = nullptr;
  backend_.check(api.ov_infer_request_get_tensor(request_.get(), promised.name.c_str(), &made), LIT_RUN_FAILED);
  OvOwned<ov_tensor> owned(made, api.ov_tensor_free);
  results_.push_back(std::move(owned));
  size_t count = 0, expected = 1;
  void* data = nullptr;
  backend_.check(api.ov_tensor_get_size(made, &count), LIT_RUN_FAILED);
  for (const int64_t size : shape) expected *= static_cast<size_t>(size);
  // A graph may say less of its shapes than the manifest does.
  if (count != expected) throw other_results(backend_.path_);
  backend_.check(api.ov_tensor_data(made, &data), LIT_RUN_FAILED);
  return data;
}

}  // namespace

Loaded open_openvino(const std::string& path, Manifest manifest, const Options& options) {
  if (options.device != LIT_CPU) {
    throw Error(LIT_NOT_SUPPORTED, "OpenVINO runs " + path + " on the CPU alone; open it with LIT_CPU");
  }
  if (manifest.precision == "fp8") {
    throw Error(LIT_NOT_SUPPORTED, "OpenVINO's CPU has no products of 8-bit floats, which " + path +
                                       " holds; use LIT_BACKEND_ONNXRUNTIME");
  }
  auto backend = std::make_unique<OpenVinoBackend>(path, manifest, options);
  return {std::move(manifest), std::move(backend)};
}

}  // namespace lit_deploy::runtime
