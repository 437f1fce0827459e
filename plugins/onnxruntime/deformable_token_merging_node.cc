// One node and one call of it: attributes, inputs and output, whatever the provider.
#include <new>

#include "deformable_token_merging_op.h"

namespace lit_deploy::ort {

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
  LIT_RETURN_IF_ERROR(check_plugin_version(api, info, kOpType));
  LIT_RETURN_IF_ERROR(check_declared_elements(api, info, kOpType, kInputNames, kInputCount));
  *kernel = new (std::nothrow) Kernel{api};
  return *kernel != nullptr ? nullptr : api->CreateStatus(ORT_FAIL, "lit_deploy: out of memory");
}

}  // namespace lit_deploy::ort
