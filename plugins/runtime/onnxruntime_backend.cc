// ".onnx" files on ONNX Runtime: the C++ counterpart of lit_deploy/runtime/onnxruntime.py.
#include <cstring>
#include <utility>
#include <vector>

#include "backend.h"
#include "contract.h"
#include "cpu.h"
#include "onnxruntime_api.h"
#include "shared_library.h"

namespace lit_deploy::runtime {
namespace {

// As NumPy names it.
const char* dtype_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return "int64";
    default: return "a type that no manifest promises";
  }
}

// Of what inputs are of.
ONNXTensorElementDataType type_of(const std::string& dtype) {
  if (dtype == "float32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  return dtype == "int64" ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

// The operator library of this file on this device, "" for none: then the function inside the file runs.
std::string find_operators(const Manifest& manifest, const Options& options) {
  if (!options.use_operator || manifest.portable) return "";
  const Wanted wanted{"the lit-deploy operator library",
                      {"liblit_deploy_onnxruntime.so"},
                      "LIT_DEPLOY_LIBRARY",
                      options.operator_library,
                      false};
  const std::string path = find_library(wanted, "correct the path, or leave it out: the file has a built-in function");
  if (path.empty()) return path;
  // Loaded here as well, and for good: ONNX Runtime unloads it with the session, and what it registered would be lost.
  const SharedLibrary library = load_library({wanted.title, {}, wanted.variable, path, false}, "build it again");
  if (options.device != LIT_CUDA) return path;
  // Its CPU kernel would copy every token map to the host and back; the function stays on the GPU.
  const auto has_cuda = reinterpret_cast<int32_t (*)()>(library.symbol("lit_deploy_has_cuda"));
  if (has_cuda != nullptr && has_cuda() == 1) return path;
  if (options.operator_library.empty()) return "";
  throw Error(LIT_NOT_SUPPORTED, path +
                                     " holds no CUDA kernel for this GPU and driver; build it where nvcc is found, or "
                                     "leave it out: the file has a built-in function");
}

class OnnxRuntimeBackend;

class OnnxRuntimeContext : public BackendContext {
 public:
  explicit OnnxRuntimeContext(const OnnxRuntimeBackend& backend);
  ~OnnxRuntimeContext() override { release_outputs(); }
  void run(const std::vector<Values>& inputs, std::vector<Values>* outputs) override;

 private:
  void release_outputs();

  const OnnxRuntimeBackend& backend_;
  std::vector<OrtValue*> values_;  // of the last run
};

class OnnxRuntimeBackend : public Backend {
 public:
  OnnxRuntimeBackend(const std::string& path, const Manifest& manifest, const Options& options)
      : runtime_(load_onnxruntime(options.backend_library)),
        path_(path),
        session_(nullptr, runtime_.api->ReleaseSession),
        cpu_memory_(nullptr, runtime_.api->ReleaseMemoryInfo),
        inputs_(promised_inputs(manifest)),
        outputs_(promised_outputs(manifest)) {
    if (manifest.batch != 0) min_batch_ = max_batch_ = manifest.batch;
    const std::string operators = find_operators(manifest, options);
    create_session(manifest, options, operators);
    check_tensors(inputs_, &TensorSpec::equals, runtime_.api->SessionGetInputCount, runtime_.api->SessionGetInputName,
                  runtime_.api->SessionGetInputTypeInfo);
    check_tensors(outputs_, &TensorSpec::agrees, runtime_.api->SessionGetOutputCount,
                  runtime_.api->SessionGetOutputName, runtime_.api->SessionGetOutputTypeInfo);
    OrtMemoryInfo* memory = nullptr;
    check(runtime_.api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), LIT_INTERNAL_ERROR);
    cpu_memory_.reset(memory);
    description_ = "ONNX Runtime " + runtime_.version + (options.device == LIT_CUDA ? " cuda (" : " cpu (") +
                   (manifest.portable   ? "inlined"
                    : operators.empty() ? "built-in function"
                                        : "lit-deploy kernel") +
                   ")";
  }

  std::unique_ptr<BackendContext> create_context() const override {
    return std::make_unique<OnnxRuntimeContext>(*this);
  }

 private:
  friend class OnnxRuntimeContext;

  void check(OrtStatus* result, lit_status status) const {
    if (result == nullptr) return;  // before any text is put together
    runtime_.check(result, status,
                   "ONNX Runtime " + runtime_.version +
                       (status == LIT_RUN_FAILED ? " failed while it ran " : " refuses ") + path_);
  }

  void create_session(const Manifest& manifest, const Options& options, const std::string& operators) {
    const OrtApi* api = runtime_.api;
    OrtSessionOptions* made = nullptr;
    check(api->CreateSessionOptions(&made), LIT_INTERNAL_ERROR);
    const OrtOwned<OrtSessionOptions> settings(made, api->ReleaseSessionOptions);
    check(api->SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_FATAL), LIT_INTERNAL_ERROR);
    if (options.threads > 0) check(api->SetIntraOpNumThreads(made, options.threads), LIT_INVALID_ARGUMENT);
    if (int8_saturates()) {  // slower, and exact
      check(api->AddSessionConfigEntry(made, "session.x64quantprecision", "1"), LIT_INTERNAL_ERROR);
    }
    if (manifest.precision == "fp8" && options.device == LIT_CPU) {
      // The CPU's integer kernels, into which ONNX Runtime would fuse Q/DQ pairs, take no float8.
      check(api->AddSessionConfigEntry(made, "session.disable_quant_qdq", "1"), LIT_INTERNAL_ERROR);
    }
    if (!operators.empty()) {
      if (options.device == LIT_CUDA) {
        check(api->AddSessionConfigEntry(made, contract::kDeviceEntry, contract::kCudaDevice), LIT_INTERNAL_ERROR);
      }
      runtime_.check(api->RegisterCustomOpsLibrary_V2(made, operators.c_str()), LIT_WRONG_VERSION,
                     "ONNX Runtime " + runtime_.version + " cannot load " + operators);
    }
    if (options.device == LIT_CUDA) append_cuda(made, options.device_index);
    OrtSession* session = nullptr;
    OrtStatus* result = api->CreateSession(runtime_.env, path_.c_str(), made, &session);
    const bool bf16 = manifest.base == "bf16" && options.device == LIT_CPU;
    if (result != nullptr && bf16) {
      const OrtOwned<OrtStatus> owned(result, api->ReleaseStatus);
      throw Error(LIT_NOT_SUPPORTED, path_ + " is of bf16, which ONNX Runtime " + runtime_.version +
                                         " does not compute on a CPU; export it with --precision fp32, fp16 or int8");
    }
    // A GPU that cannot be used shows when the session starts.
    const bool no_gpu =
        result != nullptr && options.device == LIT_CUDA && std::strstr(api->GetErrorMessage(result), "CUDA") != nullptr;
    check(result, no_gpu ? LIT_NO_DEVICE : LIT_BAD_MODEL);
    session_.reset(session);
  }

  void append_cuda(OrtSessionOptions* settings, int device_index) const {
    const OrtApi* api = runtime_.api;
    const std::string before = "ONNX Runtime " + runtime_.version + " could not start its CUDA provider";
    OrtCUDAProviderOptionsV2* made = nullptr;
    // A build for the CPU alone has the functions, and they fail.
    runtime_.check(api->CreateCUDAProviderOptions(&made), LIT_NOT_SUPPORTED,
                   before + ": name the library of onnxruntime-gpu, or open the model with LIT_CPU");
    const OrtOwned<OrtCUDAProviderOptionsV2> cuda(made, api->ReleaseCUDAProviderOptions);
    // float32 means float32: TensorFloat-32 products have 10 bits
    const std::string device = std::to_string(device_index);
    const char* keys[] = {"device_id", "use_tf32"};
    const char* values[] = {device.c_str(), "0"};
    runtime_.check(api->UpdateCUDAProviderOptions(made, keys, values, 2), LIT_NO_DEVICE, before);
    runtime_.check(api->SessionOptionsAppendExecutionProvider_CUDA_V2(settings, made), LIT_NO_DEVICE, before);
  }

  // Throws when the graph's inputs or outputs are not those that the manifest promises.
  template <typename Count, typename Name, typename TypeInfo>
  void check_tensors(const std::vector<TensorSpec>& promised, Compare fits, Count count, Name name,
                     TypeInfo type_info) const {
    size_t found = 0;
    check(count(session_.get(), &found), LIT_BAD_MODEL);
    bool same = found == promised.size();
    for (size_t i = 0; same && i < found; ++i) same = (tensor(i, name, type_info).*fits)(promised[i]);
    if (!same) throw other_tensors(path_);
  }

  // An input or output of the graph; without a shape where it is no tensor at all.
  template <typename Name, typename TypeInfo>
  TensorSpec tensor(size_t index, Name name, TypeInfo type_info) const {
    const OrtApi* api = runtime_.api;
    OrtTypeInfo* made = nullptr;
    check(type_info(session_.get(), index, &made), LIT_BAD_MODEL);
    const OrtOwned<OrtTypeInfo> info(made, api->ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo* described = nullptr;
    check(api->CastTypeInfoToTensorInfo(made, &described), LIT_BAD_MODEL);
    if (described == nullptr) return {tensor_name(index, name), "no tensor", {}};
    ONNXTensorElementDataType type;
    size_t rank = 0;
    check(api->GetTensorElementType(described, &type), LIT_BAD_MODEL);
    check(api->GetDimensionsCount(described, &rank), LIT_BAD_MODEL);
    std::vector<int64_t> shape(rank);
    check(api->GetDimensions(described, shape.data(), rank), LIT_BAD_MODEL);
    return {tensor_name(index, name), dtype_of(type), std::move(shape)};
  }

  template <typename Name>
  std::string tensor_name(size_t index, Name name) const {
    OrtAllocator* allocator = nullptr;
    check(runtime_.api->GetAllocatorWithDefaultOptions(&allocator), LIT_INTERNAL_ERROR);
    char* text = nullptr;
    check(name(session_.get(), index, allocator, &text), LIT_BAD_MODEL);
    const auto release = [this, allocator](char* memory) {
      if (OrtStatus* result = runtime_.api->AllocatorFree(allocator, memory)) runtime_.api->ReleaseStatus(result);
    };
    const std::unique_ptr<char, decltype(release)> owned(text, release);
    return text;
  }

  const OnnxRuntime& runtime_;
  const std::string path_;
  OrtOwned<OrtSession> session_;
  OrtOwned<OrtMemoryInfo> cpu_memory_;
  const std::vector<TensorSpec> inputs_;
  const std::vector<TensorSpec> outputs_;
};

OnnxRuntimeContext::OnnxRuntimeContext(const OnnxRuntimeBackend& backend)
    : backend_(backend), values_(backend.outputs_.size()) {}

void OnnxRuntimeContext::release_outputs() {
  for (OrtValue*& value : values_) {
    if (value != nullptr) backend_.runtime_.api->ReleaseValue(std::exchange(value, nullptr));
  }
}

void OnnxRuntimeContext::run(const std::vector<Values>& inputs, std::vector<Values>* outputs) {
  const OrtApi* api = backend_.runtime_.api;
  release_outputs();
  std::vector<OrtOwned<OrtValue>> given;
  std::vector<const OrtValue*> values;
  std::vector<const char*> input_names, output_names;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorSpec& taken = backend_.inputs_[i];
    const ONNXTensorElementDataType type = type_of(taken.dtype);
    size_t bytes = taken.dtype == "float32" ? sizeof(float) : taken.dtype == "int64" ? sizeof(int64_t) : 1;
    for (const int64_t size : inputs[i].shape) bytes *= static_cast<size_t>(size);
    OrtValue* made = nullptr;
    // const_cast: ONNX Runtime has no type for input that it does not write to
    backend_.check(api->CreateTensorWithDataAsOrtValue(backend_.cpu_memory_.get(), const_cast<void*>(inputs[i].data),
                                                       bytes, inputs[i].shape.data(), inputs[i].shape.size(), type,
                                                       &made),
                   LIT_RUN_FAILED);
    OrtOwned<OrtValue> owned(made, api->ReleaseValue);
    given.push_back(std::move(owned));
    values.push_back(made);
    input_names.push_back(taken.name.c_str());
  }
  for (const TensorSpec& promised : backend_.outputs_) output_names.push_back(promised.name.c_str());
  backend_.check(api->Run(backend_.session_.get(), nullptr, input_names.data(), values.data(), values.size(),
                          output_names.data(), output_names.size(), values_.data()),
                 LIT_RUN_FAILED);
  for (size_t i = 0; i < values_.size(); ++i) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    backend_.check(api->GetTensorTypeAndShape(values_[i], &info), LIT_RUN_FAILED);
    const OrtOwned<OrtTensorTypeAndShapeInfo> owned(info, api->ReleaseTensorTypeAndShapeInfo);
    size_t rank = 0;
    backend_.check(api->GetDimensionsCount(info, &rank), LIT_RUN_FAILED);
    std::vector<int64_t> found(rank);
    backend_.check(api->GetDimensions(info, found.data(), rank), LIT_RUN_FAILED);
    // ONNX Runtime does not hold a graph to the shapes that it declares.
    if (found != (*outputs)[i].shape) throw other_results(backend_.path_);
    void* data = nullptr;
    backend_.check(api->GetTensorMutableData(values_[i], &data), LIT_RUN_FAILED);
    (*outputs)[i].data = data;
  }
}

}  // namespace

Loaded open_onnxruntime(const std::string& path, Manifest manifest, const Options& options) {
  auto backend = std::make_unique<OnnxRuntimeBackend>(path, manifest, options);
  return {std::move(manifest), std::move(backend)};
}

}  // namespace lit_deploy::runtime
