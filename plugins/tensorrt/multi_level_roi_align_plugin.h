// The operator MultiLevelRoiAlign, version 1, as a TensorRT plugin.
#ifndef LIT_DEPLOY_TENSORRT_MULTI_LEVEL_ROI_ALIGN_PLUGIN_H_
#define LIT_DEPLOY_TENSORRT_MULTI_LEVEL_ROI_ALIGN_PLUGIN_H_

#include <NvInferRuntime.h>

#include <cstdint>

#include "plugin_base.h"

namespace lit_deploy::trt {

constexpr const char* kRoiAlignName = contract::kRoiAlignOpType;

// Its one field is the node's attribute output_size, int32, which an engine stores. Inputs: rois [K, 4] in float32, and
// level0 to level3 [1, C, H, W], all in float32 or all in float16, which is the output's type.
class MultiLevelRoiAlignPlugin final : public PluginBase {
 public:
  explicit MultiLevelRoiAlignPlugin(int32_t output_size) noexcept;
  // The serialized field points into the object.
  MultiLevelRoiAlignPlugin(const MultiLevelRoiAlignPlugin&) = delete;
  MultiLevelRoiAlignPlugin& operator=(const MultiLevelRoiAlignPlugin&) = delete;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return kRoiAlignName; }

  // IPluginV3OneBuild
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs, const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs* shape_in,
                          int32_t shape_inputs, nvinfer1::DimsExprs* out, int32_t outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
  const char* getTimingCacheID() noexcept override;

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* input_data, void* const* output_data, void* workspace,
                  cudaStream_t stream) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  nvinfer1::IPluginV3* copy() const noexcept override;

  const int32_t output_size_;
  const nvinfer1::PluginField field_;
  const nvinfer1::PluginFieldCollection fields_;
  char timing_cache_id_[64];
};

class MultiLevelRoiAlignCreator final : public CreatorBase {
 public:
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override { return kRoiAlignName; }

 private:
  nvinfer1::IPluginV3* create(const char* layer, const nvinfer1::PluginFieldCollection* fields) noexcept override;
};

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_MULTI_LEVEL_ROI_ALIGN_PLUGIN_H_
