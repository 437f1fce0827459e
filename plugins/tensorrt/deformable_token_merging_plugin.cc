#include "deformable_token_merging_plugin.h"

#include <new>

#include "deformable_token_merging/cuda.h"
#include "deformable_token_merging_contract.h"
#include "tensors.h"

namespace lit_deploy::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimensionOperation;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IDimensionExpr;
using nvinfer1::IPluginV3;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

// Neither the creator nor the plugin has fields: the parser then hands none over and an engine stores none. Static,
// because TensorRT reads it after the call has returned.
constexpr PluginFieldCollection kNoFields{0, nullptr};

bool counts_fit(int32_t inputs, int32_t outputs) {
  return check_counts(kMergingName, inputs, outputs, kMergingInputs, "x, offset_weight, offset_bias");
}

}  // namespace

IPluginV3* DeformableTokenMergingPlugin::copy() const noexcept { return new (std::nothrow) DeformableTokenMergingPlugin; }

int32_t DeformableTokenMergingPlugin::getOutputDataTypes(DataType* output_types, int32_t outputs,
                                                         const DataType* input_types, int32_t inputs) const noexcept {
  record(Method::kGetOutputDataTypes);
  if (!counts_fit(inputs, outputs) || !check_types(input_types)) return kFailed;
  output_types[0] = input_types[0];
  return kOk;
}

int32_t DeformableTokenMergingPlugin::getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t,
                                                      DimsExprs* out, int32_t outputs,
                                                      nvinfer1::IExprBuilder& builder) noexcept {
  record(Method::kGetOutputShapes);
  if (!counts_fit(inputs, outputs)) return kFailed;
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
  if (inputs != kMergingInputs || outputs != 1 || position < 0 || position >= inputs + outputs) return false;
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
  if (!counts_fit(inputs, outputs)) return kFailed;
  // The sizes that the network fixes, and both ends of the optimisation profile's range.
  const bool sizes_fit = check_sizes(in[0].desc.dims, in[1].desc.dims, in[2].desc.dims) &&
                         check_output_size(in[0].desc.dims, out[0].desc.dims) &&
                         check_sizes(in[0].min, in[1].min, in[2].min) && check_sizes(in[0].max, in[1].max, in[2].max);
  return sizes_fit ? kOk : kFailed;
}

// TensorRT adds shapes and formats itself, and there are no attributes. The default, null, would switch the timing
// cache off for this layer.
const char* DeformableTokenMergingPlugin::getTimingCacheID() noexcept { return "lit_deploy.DeformableTokenMerging.1"; }

int32_t DeformableTokenMergingPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs,
                                                    const PluginTensorDesc* out, int32_t outputs) noexcept {
  record(Method::kOnShapeChange);
  if (!counts_fit(inputs, outputs)) return kFailed;
  const DataType types[kMergingInputs] = {in[0].type, in[1].type, in[2].type};
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
  return launched(kMergingName, "x", x, error);
}

const PluginFieldCollection* DeformableTokenMergingPlugin::getFieldsToSerialize() noexcept {
  record(Method::kGetFieldsToSerialize);
  return &kNoFields;
}

IPluginV3* DeformableTokenMergingCreator::create(const char*, const PluginFieldCollection*) noexcept {
  return or_out_of_memory(kMergingName, new (std::nothrow) DeformableTokenMergingPlugin);
}

const PluginFieldCollection* DeformableTokenMergingCreator::getFieldNames() noexcept { return &kNoFields; }

}  // namespace lit_deploy::trt
