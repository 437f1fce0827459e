#include "plugin_base.h"

#include <cstring>

#include "cuda_types.h"
#include "tensors.h"

namespace lit_deploy::trt {
namespace {

using nvinfer1::IPluginV3;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;

// Does a text field say `expected`? Parsers differ in whether the closing zero counts.
bool says(const PluginField& field, const char* expected) {
  const char* text = static_cast<const char*>(field.data);
  size_t length = text == nullptr || field.length < 0 ? 0 : static_cast<size_t>(field.length);
  if (length > 0 && text[length - 1] == '\0') --length;
  return length == std::strlen(expected) && std::memcmp(text, expected, length) == 0;
}

}  // namespace

nvinfer1::IPluginCapability* PluginBase::getCapabilityInterface(PluginCapabilityType type) noexcept {
  switch (type) {
    case PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* PluginBase::clone() noexcept {
  record(Method::kClone);
  return or_out_of_memory(getPluginName(), copy());
}

int32_t PluginBase::getNbOutputs() const noexcept {
  record(Method::kGetNbOutputs);
  return 1;
}

size_t PluginBase::getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc*, int32_t,
                                    const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept {
  record(Method::kGetWorkspaceSize);
  return 0;
}

IPluginV3* PluginBase::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  record(Method::kAttachToContext);
  return or_out_of_memory(getPluginName(), copy());
}

IPluginV3* CreatorBase::createPlugin(const char* layer, const PluginFieldCollection* fields,
                                     nvinfer1::TensorRTPhase) noexcept {
  record(Method::kCreatePlugin);
  const char* name = layer == nullptr ? getPluginName() : layer;
  // The node's attributes plugin_version and plugin_namespace choose the creator; whether they arrive here as fields
  // too depends on the parser. Fields of names that nobody knows are none of ours and do no harm.
  for (int32_t i = 0; fields != nullptr && i < fields->nbFields; ++i) {
    const PluginField& field = fields->fields[i];
    if (field.name != nullptr && std::strcmp(field.name, "plugin_version") == 0 && !says(field, kPluginVersion)) {
      complain("%s: the node asks for another plugin_version than %s, the one of this library; export the model again, "
               "or install the lit-deploy that exported it", name, kPluginVersion);
      return nullptr;
    }
  }
  return create(name, fields);
}

IPluginV3* or_out_of_memory(const char* op, IPluginV3* plugin) noexcept {
  if (plugin == nullptr) complain("%s: out of memory while a plugin was created", op);
  return plugin;
}

bool check_counts(const char* op, int32_t inputs, int32_t outputs, int32_t expected, const char* names) noexcept {
  if (inputs == expected && outputs == 1) return true;
  complain("%s: %d inputs and %d outputs, expected %s and one output", op, inputs, outputs, names);
  return false;
}

int32_t launched(const char* op, const char* name, const nvinfer1::Dims& x, cudaError_t error) noexcept {
  if (error == cudaSuccess) return kOk;
  const char* remedy = is_cuda_mismatch(error)
                           ? "; update the driver, build the plugin again with -DCMAKE_CUDA_ARCHITECTURES=<this "
                             "GPU's>, or the engine without it: --no-plugin"
                           : "";
  complain("%s: the kernel for %s %s could not be launched: %s (%s)%s", op, name, text_of(x).characters,
           cudaGetErrorString(error), cudaGetErrorName(error), remedy);
  return kFailed;
}

}  // namespace lit_deploy::trt
