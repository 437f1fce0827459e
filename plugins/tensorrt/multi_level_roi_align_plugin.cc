#include "multi_level_roi_align_plugin.h"

#include <cstdio>
#include <cstring>
#include <new>

#include "multi_level_roi_align/cuda.h"
#include "sizes.h"
#include "tensors.h"

namespace lit_deploy::trt {
namespace {

using nvinfer1::DataType;
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

constexpr int32_t kRoiInputs = 1 + kRoiLevels;
constexpr const char* kInputNames[kRoiInputs] = {"rois", "level0", "level1", "level2", "level3"};
constexpr const char* kFieldName = "output_size";

// What the parser is to hand over. Static, because TensorRT reads it after the call has returned.
const PluginField kField{kFieldName, nullptr, PluginFieldType::kINT32, 1};
const PluginFieldCollection kFields{1, &kField};

bool counts_fit(int32_t inputs, int32_t outputs) {
  return check_counts(kRoiAlignName, inputs, outputs, kRoiInputs, "rois, level0, level1, level2, level3");
}

bool element_of_maps(DataType type, CudaElement& element) {
  return element_from_type(type, element) && element != CudaElement::kBFloat16;
}

// `type(i)`: of input i.
template <typename Type>
bool check_types(Type type) {
  CudaElement element;
  if (type(0) != DataType::kFLOAT) {
    complain("%s: rois is %s, expected float32; export the model again", kRoiAlignName, name_of(type(0)));
    return false;
  }
  if (!element_of_maps(type(1), element)) {
    complain("%s: level0 is %s, expected float32 or float16; export with --precision fp32 or fp16", kRoiAlignName,
             name_of(type(1)));
    return false;
  }
  for (int32_t i = 2; i < kRoiInputs; ++i) {
    if (type(i) == type(1)) continue;
    complain("%s: %s is %s and level0 is %s, expected one type for all levels; export the model again with one "
             "--precision", kRoiAlignName, kInputNames[i], name_of(type(i)), name_of(type(1)));
    return false;
  }
  return true;
}

// `dims(i)`: of input i; a size that is not known yet fits anything.
template <typename Sizes>
bool check_sizes(Sizes dims) {
  if (!fits(kRoiAlignName, kInputNames[0], dims(0), Dims{2, {kUnknown, 4}})) return false;
  for (int32_t i = 1; i < kRoiInputs; ++i) {
    const Dims level = dims(i);
    const int64_t channels = i == 1 || dims(1).nbDims != 4 ? kUnknown : dims(1).d[1];
    if (!fits(kRoiAlignName, kInputNames[i], level, Dims{4, {1, channels, kUnknown, kUnknown}})) return false;
    if (level.d[1] == 0 || level.d[2] == 0 || level.d[3] == 0 || !elements_fit(level.d, 4)) {
      complain("%s: %s has the shape %s, expected no size of 0 and %s; use another image size", kRoiAlignName,
               kInputNames[i], text_of(level).characters, kElementsFit);
      return false;
    }
  }
  return true;
}

bool check_output_size(const Dims& rois, const Dims& level, int64_t output_size, const Dims& y) {
  return fits(kRoiAlignName, "y", y, Dims{4, {rois.d[0], level.d[1], output_size, output_size}});
}

}  // namespace

MultiLevelRoiAlignPlugin::MultiLevelRoiAlignPlugin(int32_t output_size) noexcept
    : output_size_(output_size), field_{kFieldName, &output_size_, PluginFieldType::kINT32, 1}, fields_{1, &field_} {
  // TensorRT adds shapes and formats itself. The default, null, would switch the timing cache off for this layer.
  std::snprintf(timing_cache_id_, sizeof timing_cache_id_, "lit_deploy.MultiLevelRoiAlign.1.%d", output_size);
}

IPluginV3* MultiLevelRoiAlignPlugin::copy() const noexcept {
  return new (std::nothrow) MultiLevelRoiAlignPlugin(output_size_);
}

int32_t MultiLevelRoiAlignPlugin::getOutputDataTypes(DataType* output_types, int32_t outputs,
                                                     const DataType* input_types, int32_t inputs) const noexcept {
  record(Method::kGetOutputDataTypes);
  if (!counts_fit(inputs, outputs) || !check_types([&](int32_t i) { return input_types[i]; })) return kFailed;
  output_types[0] = input_types[1];
  return kOk;
}

int32_t MultiLevelRoiAlignPlugin::getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t,
                                                  DimsExprs* out, int32_t outputs,
                                                  nvinfer1::IExprBuilder& builder) noexcept {
  record(Method::kGetOutputShapes);
  if (!counts_fit(inputs, outputs) || !check_sizes([&](int32_t i) { return dims_from_exprs(in[i]); })) return kFailed;
  const IDimensionExpr* size = builder.constant(output_size_);
  if (size == nullptr) return kFailed;
  out[0].nbDims = 4;
  out[0].d[0] = in[0].d[0];
  out[0].d[1] = in[1].d[1];
  out[0].d[2] = size;
  out[0].d[3] = size;
  return kOk;
}

bool MultiLevelRoiAlignPlugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                                         int32_t inputs, int32_t outputs) noexcept {
  record(Method::kSupportsFormatCombination);
  if (inputs != kRoiInputs || outputs != 1 || position < 0 || position >= inputs + outputs) return false;
  // TensorRT tries combinations here: to answer no is ordinary and not worth a complaint. What lies beyond `position`
  // is not set yet.
  const PluginTensorDesc& tensor = tensors[position].desc;
  if (tensor.format != TensorFormat::kLINEAR) return false;
  if (position == 0) return tensor.type == DataType::kFLOAT;
  CudaElement element;
  return tensor.type == tensors[1].desc.type && element_of_maps(tensor.type, element);
}

int32_t MultiLevelRoiAlignPlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                                  const DynamicPluginTensorDesc* out, int32_t outputs) noexcept {
  record(Method::kConfigurePlugin);
  if (!counts_fit(inputs, outputs)) return kFailed;
  // The sizes that the network fixes, and both ends of the optimisation profile's range.
  const bool sizes_fit = check_sizes([&](int32_t i) { return in[i].desc.dims; }) &&
                         check_output_size(in[0].desc.dims, in[1].desc.dims, output_size_, out[0].desc.dims) &&
                         check_sizes([&](int32_t i) { return in[i].min; }) &&
                         check_sizes([&](int32_t i) { return in[i].max; });
  return sizes_fit ? kOk : kFailed;
}

const char* MultiLevelRoiAlignPlugin::getTimingCacheID() noexcept { return timing_cache_id_; }

int32_t MultiLevelRoiAlignPlugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc* out,
                                                int32_t outputs) noexcept {
  record(Method::kOnShapeChange);
  const bool fit = counts_fit(inputs, outputs) && check_types([&](int32_t i) { return in[i].type; }) &&
                   check_sizes([&](int32_t i) { return in[i].dims; }) &&
                   check_output_size(in[0].dims, in[1].dims, output_size_, out[0].dims);
  return fit ? kOk : kFailed;
}

int32_t MultiLevelRoiAlignPlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                                          const void* const* input_data, void* const* output_data, void*,
                                          cudaStream_t stream) noexcept {
  record(Method::kEnqueue);
  CudaElement element;
  if (!element_of_maps(in[1].type, element)) {
    complain("%s: the engine asks for a type that this plugin does not have; rebuild the engine", kRoiAlignName);
    return kFailed;
  }
  // onShapeChange() has checked these sizes.
  RoiAlignShape shape{in[0].dims.d[0], in[1].dims.d[1], {}, {}, output_size_};
  for (int32_t level = 0; level < kRoiLevels; ++level) {
    shape.height[level] = in[1 + level].dims.d[2];
    shape.width[level] = in[1 + level].dims.d[3];
  }
  const cudaError_t error = multi_level_roi_align_cuda(shape, element, static_cast<const float*>(input_data[0]),
                                                       input_data + 1, output_data[0], stream);
  return launched(kRoiAlignName, kInputNames[0], in[0].dims, error);
}

const PluginFieldCollection* MultiLevelRoiAlignPlugin::getFieldsToSerialize() noexcept {
  record(Method::kGetFieldsToSerialize);
  return &fields_;
}

const PluginFieldCollection* MultiLevelRoiAlignCreator::getFieldNames() noexcept { return &kFields; }

IPluginV3* MultiLevelRoiAlignCreator::create(const char* layer, const PluginFieldCollection* fields) noexcept {
  int64_t output_size = 0;
  for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    if (field.name == nullptr || std::strcmp(field.name, kFieldName) != 0) continue;
    if (field.data == nullptr || field.length != 1) continue;
    if (field.type == PluginFieldType::kINT32) {
      int32_t value;
      std::memcpy(&value, field.data, sizeof value);
      output_size = value;
    } else if (field.type == PluginFieldType::kINT64) {
      std::memcpy(&output_size, field.data, sizeof output_size);
    }
  }
  if (output_size < 1 || output_size > kRoiMaxOutputSize) {
    complain("%s: output_size is %lld or missing, expected one whole number from 1 to %lld; export the model again",
             layer, static_cast<long long>(output_size), static_cast<long long>(kRoiMaxOutputSize));
    return nullptr;
  }
  return or_out_of_memory(kRoiAlignName,
                          new (std::nothrow) MultiLevelRoiAlignPlugin(static_cast<int32_t>(output_size)));
}

}  // namespace lit_deploy::trt
