// Names, types, shape inference and input checks: everything about the operator that no provider changes.
#include <cstdio>

#include "deformable_token_merging_op.h"

namespace lit_deploy::ort {
namespace {

constexpr size_t kTextSize = 128;

OrtStatus* ORT_API_CALL infer_output_shape(const OrtCustomOp* custom_op, OrtShapeInferContext* context) {
  const OrtApi* api = static_cast<const Operator*>(custom_op)->api;
  Dims dims[kInputCount];
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  const char* names[Dims::kMaxRank] = {};
  for (size_t i = 0; i < kInputCount; ++i) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
    LIT_RETURN_IF_ERROR(api->ShapeInferContext_GetInputTypeShape(context, i, &info));
    LIT_RETURN_IF_ERROR(read_dims(api, info, dims[i]));
    if (dims[i].rank == 0) return nullptr;  // ONNX Runtime says rank 0 for "shape not known": checked at run time
    if (i == 0 && dims[i].rank == Dims::kMaxRank) {
      LIT_RETURN_IF_ERROR(api->GetTensorElementType(info, &type));
      LIT_RETURN_IF_ERROR(api->GetSymbolicDimensions(info, names, Dims::kMaxRank));
    }
  }
  LIT_RETURN_IF_ERROR(check_dims(api, dims[0], dims[1], dims[2]));
  const int64_t(&x)[4] = dims[0].size;
  OutputDim out[4] = {output_dim(x[0], names[0]), output_dim(x[1], names[1], 1, 2),
                      output_dim(x[2], names[2], 1, 2), output_dim(x[3], names[3], 4, 1)};
  if (x[3] < 0 && dims[1].size[1] >= 0) out[3].size = dims[1].size[1], out[3].name[0] = '\0';
  return set_output(api, context, kOpType, type, out, 4);
}

}  // namespace

void fill_schema(const OrtApi* api, ONNXTensorElementDataType type, Operator& op) {
  fill_common(api, op);
  op.GetName = [](const OrtCustomOp*) { return kOpType; };
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      op.GetInputType = element_type<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16>;
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      op.GetInputType = element_type<ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16>;
      break;
    default:
      op.GetInputType = element_type<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT>;
  }
  op.GetOutputType = op.GetInputType;
  op.GetInputTypeCount = tensor_count<kInputCount>;
  op.GetOutputTypeCount = tensor_count<1>;
  op.InferOutputShapeFn = infer_output_shape;
  op.CreateKernelV2 = create_kernel;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

OrtStatus* check_dims(const OrtApi* api, const Dims& x, const Dims& offset_weight, const Dims& offset_bias) {
  LIT_RETURN_IF_ERROR(check_elements(api, kOpType, "x", x));
  const auto below = [](int64_t size, int64_t least) { return size >= 0 && size < least; };
  if (x.rank != 4) return shape_error(api, kOpType, "x", x, "[batch, height, width, channels]");
  if (below(x.size[1], 2) || below(x.size[2], 2) || below(x.size[3], 1)) {
    return shape_error(api, kOpType, "x", x, "[batch, height, width, channels] with height and width of at least 2");
  }
  const int64_t columns = x.size[3] < 0 ? -1 : 4 * x.size[3];
  if (offset_weight.rank != 2 || dims_differ(offset_weight.size[0], 8) || dims_differ(offset_weight.size[1], columns)) {
    char expected[kTextSize];
    if (columns < 0) {
      std::snprintf(expected, kTextSize, "[8, 4 * channels]");
    } else {
      std::snprintf(expected, kTextSize, "[8, %lld], which is [8, 4 * channels of x]", static_cast<long long>(columns));
    }
    return shape_error(api, kOpType, "offset_weight", offset_weight, expected);
  }
  if (offset_bias.rank != 1 || dims_differ(offset_bias.size[0], 8)) {
    return shape_error(api, kOpType, "offset_bias", offset_bias, "[8]");
  }
  return nullptr;
}

}  // namespace lit_deploy::ort
