// The operator DeformableTokenMerging, version 1, as a TensorRT plugin (IPluginV3).
#ifndef LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_PLUGIN_H_
#define LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_PLUGIN_H_

#include <cstdint>

#include "plugin_base.h"

namespace lit_deploy::trt {

constexpr const char* kMergingName = contract::kOpType;

// Without attributes and without state: all that the operator depends on stands in the shapes and types of its tensors.
class DeformableTokenMergingPlugin final : public PluginBase {
 public:
  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return kMergingName; }

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
};

class DeformableTokenMergingCreator final : public CreatorBase {
 public:
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override { return kMergingName; }

 private:
  nvinfer1::IPluginV3* create(const char* layer, const nvinfer1::PluginFieldCollection* fields) noexcept override;
};

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_PLUGIN_H_
