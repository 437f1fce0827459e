// What all plugins of this library share: IPluginV3 with one output, which needs no workspace.
//
// One build of this code serves TensorRT 10.x, 11.x and TensorRT-RTX: it links nothing of TensorRT and calls nothing of
// it but IExprBuilder and IDimensionExpr, whose layout has not changed since 10.0. Nothing before enqueue() touches
// CUDA, so engines can be built on a machine without a driver. Nothing here throws (it is compiled without exceptions,
// and allocates with nothrow), so no noexcept body can end the process.
#ifndef LIT_DEPLOY_TENSORRT_PLUGIN_BASE_H_
#define LIT_DEPLOY_TENSORRT_PLUGIN_BASE_H_

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "contract.h"
#include "diagnostics.h"

namespace lit_deploy::trt {

constexpr const char* kPluginVersion = contract::kOpVersionText;
constexpr const char* kPluginNamespace = contract::kDomain;
static_assert(contract::kOpVersion == 1, "the plugins' timing cache names end with another version");

constexpr int32_t kOk = 0;
constexpr int32_t kFailed = -1;

// int32_t results are kOk, or kFailed after one line on stderr.
class PluginBase : public nvinfer1::IPluginV3,
                   public nvinfer1::IPluginV3OneCore,
                   public nvinfer1::IPluginV3OneBuild,
                   public nvinfer1::IPluginV3OneRuntime {
 public:
  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
  nvinfer1::IPluginV3* clone() noexcept final;

  // IPluginV3OneCore
  const char* getPluginVersion() const noexcept final { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept final { return kPluginNamespace; }

  // IPluginV3OneBuild
  int32_t getNbOutputs() const noexcept final;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) const noexcept final;

  // IPluginV3OneRuntime
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept final;

 private:
  // One of the same kind and with the same fields; null without memory.
  virtual nvinfer1::IPluginV3* copy() const noexcept = 0;
};

class CreatorBase : public nvinfer1::IPluginCreatorV3One {
 public:
  // The caller owns the result. Null, after one line on stderr, if a field asks for another version of the operator or
  // is wrong.
  nvinfer1::IPluginV3* createPlugin(const char* layer, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept final;
  const char* getPluginVersion() const noexcept final { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept final { return kPluginNamespace; }

 private:
  virtual nvinfer1::IPluginV3* create(const char* layer, const nvinfer1::PluginFieldCollection* fields) noexcept = 0;
};

// The plugin, or null after a complaint.
nvinfer1::IPluginV3* or_out_of_memory(const char* op, nvinfer1::IPluginV3* plugin) noexcept;

// The counts that all of an operator's calls are checked for; `expected` names the inputs.
bool check_counts(const char* op, int32_t inputs, int32_t outputs, int32_t expected, const char* names) noexcept;

// kOk, or kFailed after saying what the launch returned and, where that helps, what mends it. `x`: the tensor that is
// named, and its sizes.
int32_t launched(const char* op, const char* name, const nvinfer1::Dims& x, cudaError_t error) noexcept;

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_PLUGIN_BASE_H_
