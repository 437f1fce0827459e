// The exported functions: the two that TensorRT looks for in a plugin library, and our own (lit_deploy_tensorrt.h).
#include <NvInferRuntime.h>

#include <cstdint>

#include "deformable_token_merging_plugin.h"
#include "diagnostics.h"
#include "lit_deploy_tensorrt.h"
#include "multi_level_roi_align_plugin.h"
#include "relative_position_attention_plugin.h"

#define LIT_DEPLOY_EXPORT extern "C" __attribute__((visibility("default")))

// Called once by IPluginRegistry::loadLibrary(); the creators live as long as the library.
LIT_DEPLOY_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  lit_deploy::trt::record(lit_deploy::trt::Method::kGetCreators);
  static lit_deploy::trt::DeformableTokenMergingCreator merging;
  static lit_deploy::trt::MultiLevelRoiAlignCreator roi_align;
  static lit_deploy::trt::RelativePositionAttentionCreator attention;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&merging, &roi_align, &attention};
  count = sizeof creators / sizeof creators[0];
  return creators;
}

// TensorRT requires it of every plugin library. The finder is not kept: diagnostics.h says why.
LIT_DEPLOY_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

LIT_DEPLOY_EXPORT int64_t lit_deploy_plugin_calls(const char* method) {
  return lit_deploy::trt::recorded_calls(method);
}

LIT_DEPLOY_EXPORT const char* lit_deploy_plugin_version(void) { return lit_deploy::trt::kPluginVersion; }

LIT_DEPLOY_EXPORT const char* lit_deploy_plugin_build(void) {
  return "TensorRT headers " LIT_DEPLOY_TENSORRT_VERSION ", CUDA " LIT_DEPLOY_CUDA_VERSION
         ", architectures " LIT_DEPLOY_CUDA_ARCHITECTURES;
}
