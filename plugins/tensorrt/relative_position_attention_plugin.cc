#include "relative_position_attention_plugin.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <new>

#include "relative_position_attention/cuda.h"
#include "sizes.h"
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
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int32_t kAttentionInputs = 2;  // qkv, table
constexpr const char *kHeads = "num_heads", *kScale = "scale";

// What the parser is to hand over. Static, because TensorRT reads it after the call has returned.
const PluginField kField[] = {{kHeads, nullptr, PluginFieldType::kINT32, 1},
                              {kScale, nullptr, PluginFieldType::kFLOAT32, 1}};
const PluginFieldCollection kFields{2, kField};

bool counts_fit(int32_t inputs, int32_t outputs) {
  return check_counts(kAttentionName, inputs, outputs, kAttentionInputs, "qkv, table");
}

bool check_types(DataType qkv, DataType table) {
  CudaElement element;
  if (!element_from_type(qkv, element)) {
    complain("%s: qkv is %s, expected float32, float16 or bfloat16; export with --precision fp32, fp16 or bf16",
             kAttentionName, name_of(qkv));
    return false;
  }
  if (table == DataType::kFLOAT) return true;
  complain("%s: table is %s, expected float32; export the model again", kAttentionName, name_of(table));
  return false;
}

// A table without elements stands for no bias.
bool is_empty(const Dims& table) {
  bool empty = false;
  for (int32_t i = 0; i < table.nbDims; ++i) empty = empty || table.d[i] == 0;
  return empty;
}

// Sizes that are not known yet (kUnknown) pass.
bool check_sizes(int64_t heads, const Dims& qkv, const Dims& table) {
  if (!fits(kAttentionName, "qkv", qkv, Dims{3, {kUnknown, kUnknown, kUnknown}})) return false;
  const int64_t tokens = qkv.d[1], width = qkv.d[2], most = 3 * heads * kMaxCudaAttentionHeadDim;
  if (!elements_fit(qkv.d, 3) || (width >= 0 && (width < 1 || width % (3 * heads) != 0 || width > most))) {
    complain("%s: qkv has the shape %s, expected [batch, tokens, 3 * channels] with heads (%lld) of 1 to %lld channels "
             "and %s; build without the plugin: --no-plugin",
             kAttentionName, text_of(qkv).characters, static_cast<long long>(heads),
             static_cast<long long>(kMaxCudaAttentionHeadDim), kElementsFit);
    return false;
  }
  if (is_empty(table)) return true;
  if (!fits(kAttentionName, "table", table, Dims{3, {heads, kUnknown, kUnknown}})) return false;
  const int64_t height = table.d[1], across = table.d[2];
  bool right = elements_fit(table.d, 3) && (height < 0 || height % 2 == 1) && (across < 0 || across % 2 == 1);
  if (right && height > 0 && across > 0 && tokens >= 0) {
    // Divided, not multiplied: no product of two sizes can overflow.
    const int64_t rows = (height + 1) / 2, columns = (across + 1) / 2;
    right = tokens % rows == 0 && tokens / rows == columns;
  }
  if (right) return true;
  complain("%s: table has the shape %s, expected [%lld, 2 * height - 1, 2 * width - 1] with height * width tokens, as "
           "qkv %s has; export the model again",
           kAttentionName, text_of(table).characters, static_cast<long long>(heads), text_of(qkv).characters);
  return false;
}

bool check_output_size(const Dims& qkv, const Dims& y) {
  return fits(kAttentionName, "y", y, Dims{3, {qkv.d[0], qkv.d[1], qkv.d[2] < 0 ? kUnknown : qkv.d[2] / 3}});
}

}  // namespace

RelativePositionAttentionPlugin::RelativePositionAttentionPlugin(int32_t heads, float scale) noexcept
    : heads_(heads),
      scale_(scale),
      field_{{kHeads, &heads_, PluginFieldType::kINT32, 1}, {kScale, &scale_, PluginFieldType::kFLOAT32, 1}},
      fields_{2, field_} {
  // TensorRT adds shapes and formats itself. The default, null, would switch the timing cache off for this layer.
  std::snprintf(timing_cache_id_, sizeof timing_cache_id_, "lit_deploy.RelativePositionAttention.1.%d.%a", heads,
                static_cast<double>(scale));
}

IPluginV3* RelativePositionAttentionPlugin::copy() const noexcept {
  return new (std::nothrow) RelativePositionAttentionPlugin(heads_, scale_);
}

int32_t RelativePositionAttentionPlugin::getOutputDataTypes(DataType* output_types, int32_t outputs,
                                                            const DataType* input_types,
                                                            int32_t inputs) const noexcept {
  record(Method::kGetOutputDataTypes);
  if (!counts_fit(inputs, outputs) || !check_types(input_types[0], input_types[1])) return kFailed;
  output_types[0] = input_types[0];
  return kOk;
}

int32_t RelativePositionAttentionPlugin::getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t,
                                                         DimsExprs* out, int32_t outputs,
                                                         nvinfer1::IExprBuilder& builder) noexcept {
  record(Method::kGetOutputShapes);
  if (!counts_fit(inputs, outputs)) return kFailed;
  if (!check_sizes(heads_, dims_from_exprs(in[0]), dims_from_exprs(in[1]))) return kFailed;
  const IDimensionExpr* three = builder.constant(3);
  if (three == nullptr) return kFailed;
  out[0].nbDims = 3;
  out[0].d[0] = in[0].d[0];
  out[0].d[1] = in[0].d[1];
  out[0].d[2] = builder.operation(DimensionOperation::kFLOOR_DIV, *in[0].d[2], *three);
  return out[0].d[2] != nullptr ? kOk : kFailed;
}

bool RelativePositionAttentionPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                                                int32_t inputs, int32_t outputs) noexcept {
  record(Method::kSupportsFormatCombination);
  if (inputs != kAttentionInputs || outputs != 1 || position < 0 || position >= inputs + outputs) return false;
  // TensorRT tries combinations here: to answer no is ordinary and not worth a complaint. What lies beyond `position`
  // is not set yet.
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != TensorFormat::kLINEAR) return false;
  if (position == 1) return tensor.type == DataType::kFLOAT;
  CudaElement element;
  return tensor.type == tensors[0].desc.type && element_from_type(tensor.type, element);
}

int32_t RelativePositionAttentionPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                                         const DynamicPluginTensorDesc* out, int32_t outputs) noexcept {
  record(Method::kConfigurePlugin);
  if (!counts_fit(inputs, outputs)) return kFailed;
  // The sizes that the network fixes, and both ends of the optimisation profile's range.
  const bool sizes_fit = check_sizes(heads_, in[0].desc.dims, in[1].desc.dims) &&
                         check_output_size(in[0].desc.dims, out[0].desc.dims) &&
                         check_sizes(heads_, in[0].min, in[1].min) && check_sizes(heads_, in[0].max, in[1].max);
  return sizes_fit ? kOk : kFailed;
}

const char* RelativePositionAttentionPlugin::getTimingCacheID() noexcept { return timing_cache_id_; }

int32_t RelativePositionAttentionPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs,
                                                       const PluginTensorDesc* out, int32_t outputs) noexcept {
  record(Method::kOnShapeChange);
  const bool fit = counts_fit(inputs, outputs) && check_types(in[0].type, in[1].type) &&
                   check_sizes(heads_, in[0].dims, in[1].dims) && check_output_size(in[0].dims, out[0].dims);
  return fit ? kOk : kFailed;
}

int32_t RelativePositionAttentionPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                                                 const void* const* input_data, void* const* output_data, void*,
                                                 cudaStream_t stream) noexcept {
  record(Method::kEnqueue);
  CudaElement element;
  if (!element_from_type(in[0].type, element)) {
    complain("%s: the engine asks for a type that this plugin does not have; rebuild the engine", kAttentionName);
    return kFailed;
  }
  // onShapeChange() has checked these sizes.
  const Dims &qkv = in[0].dims, &table = in[1].dims;
  AttentionShape shape{qkv.d[0], qkv.d[1], heads_, qkv.d[2] / 3 / heads_, 0, 0};
  if (!is_empty(table)) {
    shape.rows = (table.d[1] + 1) / 2;
    shape.columns = (table.d[2] + 1) / 2;
  }
  const cudaError_t error = relative_position_attention_cuda(
      shape, element, scale_, input_data[0], static_cast<const float*>(input_data[1]), output_data[0], stream);
  return launched(kAttentionName, "qkv", qkv, error);
}

const PluginFieldCollection* RelativePositionAttentionPlugin::getFieldsToSerialize() noexcept {
  record(Method::kGetFieldsToSerialize);
  return &fields_;
}

const PluginFieldCollection* RelativePositionAttentionCreator::getFieldNames() noexcept { return &kFields; }

IPluginV3* RelativePositionAttentionCreator::create(const char* layer, const PluginFieldCollection* fields) noexcept {
  int64_t heads = 0;
  float scale = NAN;
  for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    if (field.name == nullptr || field.data == nullptr || field.length != 1) continue;
    const bool of_heads = std::strcmp(field.name, kHeads) == 0;
    if (of_heads && field.type == PluginFieldType::kINT32) {
      int32_t value;
      std::memcpy(&value, field.data, sizeof value);
      heads = value;
    } else if (of_heads && field.type == PluginFieldType::kINT64) {
      std::memcpy(&heads, field.data, sizeof heads);
    } else if (std::strcmp(field.name, kScale) == 0 && field.type == PluginFieldType::kFLOAT32) {
      std::memcpy(&scale, field.data, sizeof scale);
    }
  }
  constexpr int64_t kMostHeads = int64_t{1} << 20;
  if (heads < 1 || heads > kMostHeads) {
    complain("%s: num_heads is %lld or missing, expected one whole number from 1 to %lld; export the model again", layer,
             static_cast<long long>(heads), static_cast<long long>(kMostHeads));
    return nullptr;
  }
  if (!std::isfinite(scale)) {
    complain("%s: scale is not finite or missing, expected one float32; export the model again", layer);
    return nullptr;
  }
  return or_out_of_memory(kAttentionName,
                          new (std::nothrow) RelativePositionAttentionPlugin(static_cast<int32_t>(heads), scale));
}

}  // namespace lit_deploy::trt
