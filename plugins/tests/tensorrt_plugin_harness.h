// TensorRT's side of the plugin interface, without TensorRT: loads the library and makes the calls that TensorRT makes.
#ifndef LIT_DEPLOY_TESTS_TENSORRT_PLUGIN_HARNESS_H_
#define LIT_DEPLOY_TESTS_TENSORRT_PLUGIN_HARNESS_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <initializer_list>
#include <memory>

#include "lit_deploy_tensorrt.h"

struct Library {
  nvinfer1::IPluginCreatorV3One* creator;
  decltype(&lit_deploy_plugin_calls) calls;
};

// A plugin seen through its three interfaces; owns it.
struct Plugin {
  std::unique_ptr<nvinfer1::IPluginV3> self;
  nvinfer1::IPluginV3OneCore* core = nullptr;
  nvinfer1::IPluginV3OneBuild* build = nullptr;
  nvinfer1::IPluginV3OneRuntime* runtime = nullptr;

  explicit Plugin(nvinfer1::IPluginV3* plugin);
};

constexpr nvinfer1::DataType kTypes[] = {nvinfer1::DataType::kFLOAT, nvinfer1::DataType::kHALF,
                                         nvinfer1::DataType::kBF16};
const char* name_of(nvinfer1::DataType type);

nvinfer1::Dims dims(std::initializer_list<int64_t> sizes);

// The four tensors of the operator, x [batch, height, width, channels] and what follows from it, linear format.
struct Tensors {
  nvinfer1::PluginTensorDesc in[3];
  nvinfer1::PluginTensorDesc out[1];
};
Tensors tensors(nvinfer1::DataType type, int64_t batch, int64_t height, int64_t width, int64_t channels);

// MultiLevelRoiAlign: all but enqueue(), and enqueue() where there is no GPU.
void test_roi_align(const Library& library);
void test_roi_align_enqueue(const Library& library);

// RelativePositionAttention: the same.
void test_attention_plugin(const Library& library);
void test_attention_plugin_enqueue(const Library& library);

// Runs enqueue() on the golden cases in every type where there is a CUDA device; prints one line that begins with
// SKIPPED where there is none.
void test_enqueue(const Library& library, const char* golden_path);

#endif  // LIT_DEPLOY_TESTS_TENSORRT_PLUGIN_HARNESS_H_
