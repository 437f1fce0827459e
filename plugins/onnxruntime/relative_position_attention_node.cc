// What the operator's nodes share on every provider: shapes, attributes, types.
#include <cstdio>
#include <new>

#include "relative_position_attention_op.h"

namespace lit_deploy::ort {
namespace {

constexpr const char* kQkvShape = "[batch, tokens, 3 * channels]";
constexpr const char* kAttentionInputs[] = {"qkv", "table"};
constexpr size_t kTextSize = 256;

// Checks both shapes and fills in the sizes.
OrtStatus* read_shape(const AttentionKernel& node, int64_t most_head_dim, const Dims& qkv, const Dims& table,
                      AttentionShape& shape) {
  const OrtApi* api = node.api;
  char expected[kTextSize];
  LIT_RETURN_IF_ERROR(check_elements(api, kAttentionOpType, "qkv", qkv));
  LIT_RETURN_IF_ERROR(check_elements(api, kAttentionOpType, "table", table));
  if (qkv.rank != 3) return shape_error(api, kAttentionOpType, "qkv", qkv, kQkvShape);
  const int64_t heads = node.heads, tokens = qkv.size[1], width = qkv.size[2];
  if (width < 1 || width % 3 != 0 || width / 3 % heads != 0) {
    std::snprintf(expected, sizeof expected, "%s with channels a multiple of num_heads = %lld", kQkvShape,
                  static_cast<long long>(heads));
    return shape_error(api, kAttentionOpType, "qkv", qkv, expected);
  }
  shape = AttentionShape{qkv.size[0], tokens, heads, width / 3 / heads, 0, 0};
  if (shape.head_dim > most_head_dim) {
    std::snprintf(expected, sizeof expected,
                  "at most %lld channels a head (num_heads is %lld); leave the library out for this model: "
                  "--no-library",
                  static_cast<long long>(most_head_dim), static_cast<long long>(heads));
    return shape_error(api, kAttentionOpType, "qkv", qkv, expected);
  }
  bool empty = false, fits = table.rank == 3;
  for (size_t i = 0; fits && i < 3; ++i) empty = empty || table.size[i] == 0;
  if (fits && empty) return nullptr;
  if (fits) {
    const int64_t rows = (table.size[1] + 1) / 2, columns = (table.size[2] + 1) / 2;
    // Divided, not multiplied: no product of two sizes from a file can overflow.
    fits = table.size[0] == heads && table.size[1] % 2 == 1 && table.size[2] % 2 == 1 && tokens % rows == 0 &&
           tokens / rows == columns;
    shape.rows = rows;
    shape.columns = columns;
  }
  if (fits) return nullptr;
  std::snprintf(expected, sizeof expected,
                "[%lld, 2 * height - 1, 2 * width - 1] with height * width = %lld tokens, or no elements",
                static_cast<long long>(heads), static_cast<long long>(tokens));
  return shape_error(api, kAttentionOpType, "table", table, expected);
}

OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  *kernel = nullptr;
  LIT_RETURN_IF_ERROR(check_declared_elements(api, info, kAttentionOpType, kAttentionInputs, 2));
  AttentionKernel node{api, 0, 0.0f};
  LIT_RETURN_IF_ERROR(api->KernelInfoGetAttribute_int64(info, "num_heads", &node.heads));
  LIT_RETURN_IF_ERROR(api->KernelInfoGetAttribute_float(info, "scale", &node.scale));
  if (node.heads < 1) {
    char message[kTextSize];
    std::snprintf(message, sizeof message, "%s::%s: num_heads is %lld, expected at least 1", kDomain, kAttentionOpType,
                  static_cast<long long>(node.heads));
    return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
  }
  *kernel = new (std::nothrow) AttentionKernel(node);
  return *kernel != nullptr ? nullptr : api->CreateStatus(ORT_FAIL, "lit_deploy: out of memory");
}

OrtStatus* ORT_API_CALL infer_output_shape(const OrtCustomOp* custom_op, OrtShapeInferContext* context) {
  const OrtApi* api = static_cast<const Operator*>(custom_op)->api;
  OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
  LIT_RETURN_IF_ERROR(api->ShapeInferContext_GetInputTypeShape(context, 0, &info));
  Dims qkv;
  LIT_RETURN_IF_ERROR(read_dims(api, info, qkv));
  if (qkv.rank == 0) return nullptr;  // ONNX Runtime says rank 0 for "shape not known": checked at run time
  if (qkv.rank != 3 || (qkv.size[2] >= 0 && (qkv.size[2] < 1 || qkv.size[2] % 3 != 0))) {
    return shape_error(api, kAttentionOpType, "qkv", qkv, kQkvShape);
  }
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  const char* names[3] = {};
  LIT_RETURN_IF_ERROR(api->GetTensorElementType(info, &type));
  LIT_RETURN_IF_ERROR(api->GetSymbolicDimensions(info, names, 3));
  const OutputDim out[3] = {output_dim(qkv.size[0], names[0]), output_dim(qkv.size[1], names[1]),
                            output_dim(qkv.size[2], names[2], 1, 3)};
  return set_output(api, context, kAttentionOpType, type, out, 3);
}

// The table is float32 whatever the type of qkv is.
template <ONNXTensorElementDataType Type>
ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp*, size_t index) {
  return index == 0 ? Type : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

template <ONNXTensorElementDataType Type>
void fill_types(Operator& op) {
  op.GetInputType = input_type<Type>;
  op.GetOutputType = element_type<Type>;
}

}  // namespace

OrtStatus* read_attention(const AttentionKernel& node, OrtKernelContext* context, int64_t most_head_dim,
                          AttentionCall& call) {
  const OrtApi* api = node.api;
  call.scale = node.scale;
  Dims qkv, table;
  LIT_RETURN_IF_ERROR(read_input(api, context, 0, call.qkv, qkv));
  LIT_RETURN_IF_ERROR(read_input(api, context, 1, call.table, table));
  LIT_RETURN_IF_ERROR(read_shape(node, most_head_dim, qkv, table, call.shape));
  const int64_t dims[3] = {qkv.size[0], qkv.size[1], qkv.size[2] / 3};
  OrtValue* output = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetOutput(context, 0, dims, 3, &output));
  return api->GetTensorMutableData(output, &call.y);
}

void fill_attention(const OrtApi* api, AttentionElement element, Operator& op) {
  fill_common(api, op);
  op.GetName = [](const OrtCustomOp*) { return kAttentionOpType; };
  switch (element) {
    case AttentionElement::kFloat32:
      fill_types<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT>(op);
      break;
    case AttentionElement::kFloat16:
      fill_types<ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16>(op);
      break;
    case AttentionElement::kBFloat16:
      fill_types<ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16>(op);
      break;
  }
  op.GetInputTypeCount = tensor_count<2>;
  op.GetOutputTypeCount = tensor_count<1>;
  op.InferOutputShapeFn = infer_output_shape;
  op.CreateKernelV2 = create_kernel;
  op.KernelDestroy = [](void* kernel) { delete static_cast<AttentionKernel*>(kernel); };
}

}  // namespace lit_deploy::ort
