#include "deformable_token_merging_plugin.h"

#include <cstring>
#include <new>

#include "deformable_token_merging/cuda.h"
#include "deformable_token_merging_contract.h"
#include "diagnostics.h"

namespace lit_deploy::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::IPluginV3;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int32_t kOk = 0;
constexpr int32_t kFailed = -1;
// Neither the creator nor the plugin has fields: the parser then hands none over and an engine stores none. Static,
// because TensorRT reads it after the call has returned.
constexpr PluginFieldCollection kNoFields{0, nullptr};

IPluginV3* new_plugin() {
  IPluginV3* plugin = new (std::nothrow) DeformableTokenMergingPlugin;
  if (plugin == nullptr) complain("DeformableTokenMerging: out of memory while a plugin was created");
  return plugin;
}

// The sizes that are known while the network is put together; -1 for the others.
Dims dims_from_exprs(const DimsExprs& exprs) {
  Dims dims{};
  dims.nbDims = exprs.nbDims;
  for (int32_t i = 0; i < exprs.nbDims && i < Dims::MAX_DIMS; ++i) {
    dims.d[i] = exprs.d[i]->isConstant() ? exprs.d[i]->getConstantValue() : -1;
  }
  return dims;
}

// Does a text field say `expected`? Parsers differ in whether the closing zero counts.
bool says(const PluginField& field, const char* expected) {
  const char* text = static_cast<const char*>(field.data);
  size_t length = text == nullptr || field.length < 0 ? 0 : static_cast<size_t>(field.length);
  if (length > 0 && text[length - 1] == '\0') --length;
  return length == std::strlen(expected) && std::memcmp(text, expected, length) == 0;
}

}  // namespace

nvinfer1::IPluginCapability* DeformableTokenMergingPlugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* DeformableTokenMergingPlugin::clone() noexcept {
  record(Method::kClone);
  return new_plugin();
}

int32_t DeformableTokenMergingPlugin::getNbOutputs() const noexcept {
  record(Method::kGetNbOutputs);
  return kOutputs;
}

int32_t DeformableTokenMergingPlugin::getOutputDataTypes(DataType* output_types, int32_t outputs,
                                                         const DataType* input_types, int32_t inputs) const noexcept {
  record(Method::kGetOutputDataTypes);
  if (!check_counts(inputs, outputs) || !check_types(input_types)) return kFailed;
  output_types[0] = input_types[0];
  return kOk;
}

int32_t DeformableTokenMergingPlugin::getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t,
                                                      DimsExprs* out, int32_t outputs,
                                                      nvinfer1::IExprBuilder& builder) noexcept {
  record(Method::kGetOutputShapes);
  if (!check_counts(inputs, outputs)) return kFailed;
  if (!check_sizes(dims_from_exprs(in[0]), dims_from_exprs(in[1]), dims_from_exprs(in[2]))) return kFailed;
  const IDimensionExpr* two = builder.constant(2);
  const IDimensionExpr* four = builder.constant(4);
  if (two == nullptr || four == nullptr) return kFailed;
  out[0].nbDims = 4;
  out[0].d[0] = in[0].d[0];
  out[0].d[1] = builder.operation(DimensionOperation::kFLOOR_DIV, *in[0].d[1], *two);
  out[0].d[2] = builder.operation(DimensionOperation::kFLOOR_DIV, *in[0].d[2], *two);
  out[0].d[3] = builder.operation(DimensionOperation::kPROD, *in[0].d[3], *four);
  for (int32_t i = 0; i < out[0].nbDims; ++i) {
    if (out[0].d[i] == nullptr) return kFailed;
  }
  return kOk;
}

bool DeformableTokenMergingPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                                             int32_t inputs, int32_t outputs) noexcept {
  record(Method::kSupportsFormatCombination);
  if (inputs != kInputs || outputs != kOutputs || position < 0 || position >= inputs + outputs) return false;
  // TensorRT tries combinations here: to answer no is ordinary and not worth a complaint. What lies beyond `position`
  // is not set yet.
  const PluginTensorDesc& tensor = tensors[position].desc;
  CudaElement element;
  return tensor.format == TensorFormat::kLINEAR && tensor.type == tensors[0].desc.type &&
         element_from_type(tensor.type, element);
}

int32_t DeformableTokenMergingPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                                      const DynamicPluginTensorDesc* out, int32_t outputs) noexcept {
  record(Method::kConfigurePlugin);
  if (!check_counts(inputs, outputs)) return kFailed;
  // The sizes that the network fixes, and both ends of the optimisation profile's range.
  const bool sizes_fit = check_sizes(in[0].desc.dims, in[1].desc.dims, in[2].desc.dims) &&
                         check_output_size(in[0].desc.dims, out[0].desc.dims) &&
                         check_sizes(in[0].min, in[1].min, in[2].min) && check_sizes(in[0].max, in[1].max, in[2].max);
  return sizes_fit ? kOk : kFailed;
}

size_t DeformableTokenMergingPlugin::getWorkspaceSize(const DynamicPluginTensorDesc*, int32_t,
                                                      const DynamicPluginTensorDesc*, int32_t) const noexcept {
  record(Method::kGetWorkspaceSize);
  return 0;
}

// TensorRT adds shapes and formats itself, and there are no attributes. The default, null, would switch the timing
// cache off for this layer.
static_assert(contract::kOpVersion == 1, "the name below ends with another version");
const char* DeformableTokenMergingPlugin::getTimingCacheID() noexcept { return "lit_deploy.DeformableTokenMerging.1"; }

int32_t DeformableTokenMergingPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs,
                                                    const PluginTensorDesc* out, int32_t outputs) noexcept {
  record(Method::kOnShapeChange);
  if (!check_counts(inputs, outputs)) return kFailed;
  const DataType types[kInputs] = {in[0].type, in[1].type, in[2].type};
  const bool fit = check_types(types) && check_sizes(in[0].dims, in[1].dims, in[2].dims) &&
                   check_output_size(in[0].dims, out[0].dims);
  return fit ? kOk : kFailed;
}

int32_t DeformableTokenMergingPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                                              const void* const* input_data, void* const* output_data, void*,
                                              cudaStream_t stream) noexcept {
  record(Method::kEnqueue);
  CudaElement element;
  if (!element_from_type(in[0].type, element)) {
    complain("DeformableTokenMerging: the engine asks for a type that this plugin does not have; rebuild the engine");
    return kFailed;
  }
  // onShapeChange() has checked these sizes.
  const Dims& x = in[0].dims;
  const cudaError_t error = deformable_token_merging_cuda(MergingShape{x.d[0], x.d[1], x.d[2], x.d[3]}, element,
                                                          input_data[0], input_data[1], input_data[2], output_data[0],
                                                          stream);
  if (error == cudaSuccess) return kOk;
  const char* remedy = is_cuda_mismatch(error)
                           ? "; update the driver, build the plugin again with -DCMAKE_CUDA_ARCHITECTURES=<this "
                             "GPU's>, or the engine without it: --no-plugin"
                           : "";
  complain("DeformableTokenMerging: the kernel for x [%lld, %lld, %lld, %lld] could not be launched: %s (%s)%s",
           static_cast<long long>(x.d[0]), static_cast<long long>(x.d[1]), static_cast<long long>(x.d[2]),
           static_cast<long long>(x.d[3]), cudaGetErrorString(error), cudaGetErrorName(error), remedy);
  return kFailed;
}

IPluginV3* DeformableTokenMergingPlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  record(Method::kAttachToContext);
  return new_plugin();
}

const PluginFieldCollection* DeformableTokenMergingPlugin::getFieldsToSerialize() noexcept {
  record(Method::kGetFieldsToSerialize);
  return &kNoFields;
}

IPluginV3* DeformableTokenMergingCreator::createPlugin(const char* layer, const PluginFieldCollection* fields,
                                                       nvinfer1::TensorRTPhase) noexcept {
  record(Method::kCreatePlugin);
  // The node's attributes plugin_version and plugin_namespace choose the creator; whether they arrive here as fields
  // too depends on the parser. Fields of other names are none of ours and do no harm.
  for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    if (field.name != nullptr && std::strcmp(field.name, "plugin_version") == 0 && !says(field, kPluginVersion)) {
      complain("%s: the node asks for another plugin_version than %s, the one of this library; export the model again, "
               "or install the lit-deploy that exported it", layer == nullptr ? kPluginName : layer, kPluginVersion);
      return nullptr;
    }
  }
  return new_plugin();
}

const PluginFieldCollection* DeformableTokenMergingCreator::getFieldNames() noexcept { return &kNoFields; }

}  // namespace lit_deploy::trt
