// The operator RelativePositionAttention, version 1, as a TensorRT plugin.
#ifndef LIT_DEPLOY_TENSORRT_RELATIVE_POSITION_ATTENTION_PLUGIN_H_
#define LIT_DEPLOY_TENSORRT_RELATIVE_POSITION_ATTENTION_PLUGIN_H_

#include <NvInferRuntime.h>

#include <cstdint>

#include "plugin_base.h"

namespace lit_deploy::trt {

constexpr const char* kAttentionName = "RelativePositionAttention";

// Its two fields are the node's attributes num_heads, int32, and scale, float32, which an engine stores. Inputs: qkv
// [B, N, 3 * C] in float32, float16 or bfloat16, which is the output's type, and table [num_heads, 2H-1, 2W-1] in float32,
// N = H * W, or without elements for no bias.
class RelativePositionAttentionPlugin final : public PluginBase {
 public:
  RelativePositionAttentionPlugin(int32_t heads, float scale) noexcept;
  // The serialized fields point into the object.
  RelativePositionAttentionPlugin(const RelativePositionAttentionPlugin&) = delete;
  RelativePositionAttentionPlugin& operator=(const RelativePositionAttentionPlugin&) = delete;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return kAttentionName; }

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

  const int32_t heads_;
  const float scale_;
  const nvinfer1::PluginField field_[2];
  const nvinfer1::PluginFieldCollection fields_;
  char timing_cache_id_[80];
};

class RelativePositionAttentionCreator final : public CreatorBase {
 public:
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override { return kAttentionName; }

 private:
  nvinfer1::IPluginV3* create(const char* layer, const nvinfer1::PluginFieldCollection* fields) noexcept override;
};

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_RELATIVE_POSITION_ATTENTION_PLUGIN_H_
