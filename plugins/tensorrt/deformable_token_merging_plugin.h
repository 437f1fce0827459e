// The operator DeformableTokenMerging, version 1, as a TensorRT plugin (IPluginV3).
//
// One build of this code serves TensorRT 10.x, 11.x and TensorRT-RTX: it links nothing of TensorRT and calls nothing of
// it but IExprBuilder and IDimensionExpr, whose layout has not changed since 10.0. Nothing before enqueue() touches
// CUDA, so engines can be built on a machine without a driver. Nothing here throws (it is compiled without exceptions,
// and allocates with nothrow), so no noexcept body can end the process.
#ifndef LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_PLUGIN_H_
#define LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_PLUGIN_H_

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>

#include "contract.h"

namespace lit_deploy::trt {

constexpr const char* kPluginName = contract::kOpType;
constexpr const char* kPluginVersion = contract::kOpVersionText;
constexpr const char* kPluginNamespace = contract::kDomain;

// Without attributes and without state: all that the operator depends on stands in the shapes and types of its tensors.
// int32_t results are 0, or -1 after one line on stderr.
class DeformableTokenMergingPlugin final : public nvinfer1::IPluginV3,
                                           public nvinfer1::IPluginV3OneCore,
                                           public nvinfer1::IPluginV3OneBuild,
                                           public nvinfer1::IPluginV3OneRuntime {
 public:
  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  // IPluginV3OneBuild
  int32_t getNbOutputs() const noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs, const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs* shape_in,
                          int32_t shape_inputs, nvinfer1::DimsExprs* out, int32_t outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) const noexcept override;
  const char* getTimingCacheID() noexcept override;

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* input_data, void* const* output_data, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;
};

class DeformableTokenMergingCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  // The caller owns the result. Null, after one line on stderr, if a field asks for another version of the operator.
  nvinfer1::IPluginV3* createPlugin(const char* layer, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }
};

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_PLUGIN_H_
