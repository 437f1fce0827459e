// One node and one call of it: attributes, inputs and output, whatever the provider.
#include <cstdio>
#include <cstring>
#include <new>

#include "deformable_token_merging_op.h"

namespace lit_deploy::ort {
namespace {

constexpr size_t kTextSize = 128;

// Refuses a node whose plugin_version attribute is not ours; a node without the attribute is accepted.
OrtStatus* check_version(const OrtApi* api, const OrtKernelInfo* info) {
  char version[kTextSize] = "";
  size_t size = kTextSize;
  OrtStatus* status = api->KernelInfoGetAttribute_string(info, "plugin_version", nullptr, &size);
  if (status != nullptr) {  // the attribute is there for TensorRT only: absent is fine
    api->ReleaseStatus(status);
    return nullptr;
  }
  if (size <= kTextSize) {
    LIT_RETURN_IF_ERROR(api->KernelInfoGetAttribute_string(info, "plugin_version", version, &size));
    if (std::strcmp(version, contract::kOpVersionText) == 0) return nullptr;
  } else {
    std::snprintf(version, kTextSize, "(%zu characters)", size - 1);
  }
  char message[4 * kTextSize];
  std::snprintf(message, sizeof message,
                "%s::%s: the model asks for plugin_version \"%s\", this library implements version \"%s\"; install the "
                "lit-deploy release that exported the model, or export it again",
                kDomain, kOpType, version, contract::kOpVersionText);
  return api->CreateStatus(ORT_NOT_IMPLEMENTED, message);
}

OrtStatus* read_input(const OrtApi* api, const OrtKernelContext* context, size_t index, const void*& data, Dims& dims) {
  const OrtValue* value = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetInput(context, index, &value));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  LIT_RETURN_IF_ERROR(api->GetTensorTypeAndShape(value, &info));
  OrtStatus* status = read_dims(api, info, dims);
  api->ReleaseTensorTypeAndShapeInfo(info);
  LIT_RETURN_IF_ERROR(status);
  void* mutable_data = nullptr;
  LIT_RETURN_IF_ERROR(api->GetTensorMutableData(const_cast<OrtValue*>(value), &mutable_data));  // there is no const one
  data = mutable_data;
  return nullptr;
}

}  // namespace

OrtStatus* read_tensors(const OrtApi* api, OrtKernelContext* context, Tensors& tensors) {
  Dims x, offset_weight, offset_bias;
  LIT_RETURN_IF_ERROR(read_input(api, context, 0, tensors.x, x));
  LIT_RETURN_IF_ERROR(read_input(api, context, 1, tensors.offset_weight, offset_weight));
  LIT_RETURN_IF_ERROR(read_input(api, context, 2, tensors.offset_bias, offset_bias));
  LIT_RETURN_IF_ERROR(check_dims(api, x, offset_weight, offset_bias));

  MergingShape& shape = tensors.shape;
  shape = MergingShape{x.size[0], x.size[1], x.size[2], x.size[3]};
  const int64_t dims[4] = {shape.batch, shape.output_height(), shape.output_width(), 4 * shape.channels};
  OrtValue* output = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetOutput(context, 0, dims, 4, &output));
  return api->GetTensorMutableData(output, &tensors.y);
}

OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  *kernel = nullptr;
  LIT_RETURN_IF_ERROR(check_version(api, info));
  *kernel = new (std::nothrow) Kernel{api};
  return *kernel != nullptr ? nullptr : api->CreateStatus(ORT_FAIL, "lit_deploy: out of memory");
}

}  // namespace lit_deploy::ort
