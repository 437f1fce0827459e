// Names, types, shape inference and input checks: everything about the operator that no provider changes.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "deformable_token_merging_op.h"

namespace lit_deploy::ort {
namespace {

constexpr size_t kInputCount = 3;
constexpr size_t kNameSize = 128;

// The element type is part of the callback, because the C callbacks are plain functions.
template <ONNXTensorElementDataType Type>
ONNXTensorElementDataType ORT_API_CALL element_type(const OrtCustomOp*, size_t) {
  return Type;
}

// "[2, ?, 14, 384]", with ? for an unknown dimension.
void print_dims(const Dims& dims, char (&text)[kNameSize]) {
  size_t used = static_cast<size_t>(std::snprintf(text, kNameSize, "["));
  if (dims.rank > Dims::kMaxRank) {
    std::snprintf(text, kNameSize, "rank %zu", dims.rank);
    return;
  }
  for (size_t i = 0; i < dims.rank; ++i) {
    const char* separator = i == 0 ? "" : ", ";
    const int written = dims.size[i] < 0
                            ? std::snprintf(text + used, kNameSize - used, "%s?", separator)
                            : std::snprintf(text + used, kNameSize - used, "%s%lld", separator,
                                            static_cast<long long>(dims.size[i]));
    used += static_cast<size_t>(written);
  }
  std::snprintf(text + used, kNameSize - used, "]");
}

OrtStatus* shape_error(const OrtApi* api, const char* input, const Dims& received, const char* expected) {
  char dims[kNameSize];
  print_dims(received, dims);
  char message[3 * kNameSize];
  std::snprintf(message, sizeof message, "%s::%s: %s has shape %s, expected %s", kDomain, kOpType, input, dims,
                expected);
  return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

// A dimension of the output: a number, or a name that stands for the same number wherever it occurs.
struct OutputDim {
  int64_t size = -1;
  char name[kNameSize] = "";
};

// An unknown dimension without a name gets one of its own: two equal names would promise two equal sizes.
void name_unknown(OutputDim& dim) {
  static std::atomic<unsigned> counter{0};
  std::snprintf(dim.name, kNameSize, "lit_deploy_unknown_%u", counter.fetch_add(1));
}

// One output dimension from the input dimension (size, name): scaled by multiply / divide, rounded down.
OutputDim output_dim(int64_t size, const char* name, int64_t multiply, int64_t divide) {
  OutputDim dim;
  if (size >= 0) {
    dim.size = size * multiply / divide;
  } else if (name == nullptr || name[0] == '\0' || std::strlen(name) > kNameSize / 2) {
    name_unknown(dim);
  } else if (multiply == divide) {
    std::snprintf(dim.name, kNameSize, "%s", name);
  } else if (divide == 1) {
    std::snprintf(dim.name, kNameSize, "%lld*%s", static_cast<long long>(multiply), name);
  } else {
    std::snprintf(dim.name, kNameSize, "floor(%s/%lld)", name, static_cast<long long>(divide));
  }
  return dim;
}

OrtStatus* set_output(const OrtApi* api, OrtShapeInferContext* context, ONNXTensorElementDataType type,
                      const OutputDim (&dims)[4]) {
  int64_t sizes[4];
  const char* names[4];
  for (int i = 0; i < 4; ++i) {
    sizes[i] = dims[i].size;
    names[i] = dims[i].name;
  }
  OrtTensorTypeAndShapeInfo* info = nullptr;
  LIT_RETURN_IF_ERROR(api->CreateTensorTypeAndShapeInfo(&info));
  OrtStatus* status = api->SetTensorElementType(info, type);  // left out, the output would become float32
  if (status == nullptr) status = api->SetDimensions(info, sizes, 4);
  if (status == nullptr) status = api->SetSymbolicDimensions(info, names, 4);
  if (status == nullptr) status = api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api->ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

OrtStatus* ORT_API_CALL infer_output_shape(const OrtCustomOp* custom_op, OrtShapeInferContext* context) {
  const OrtApi* api = static_cast<const MergingOp*>(custom_op)->api;
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
  OutputDim out[4] = {output_dim(x[0], names[0], 1, 1), output_dim(x[1], names[1], 1, 2),
                      output_dim(x[2], names[2], 1, 2), output_dim(x[3], names[3], 4, 1)};
  if (x[3] < 0 && dims[1].size[1] >= 0) out[3].size = dims[1].size[1], out[3].name[0] = '\0';
  return set_output(api, context, type, out);
}

}  // namespace

void fill_schema(const OrtApi* api, ONNXTensorElementDataType type, MergingOp& op) {
  op = MergingOp{};
  op.api = api;
  op.version = kApiVersion;
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
  op.GetInputTypeCount = [](const OrtCustomOp*) { return kInputCount; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.InferOutputShapeFn = infer_output_shape;
  op.CreateKernelV2 = create_kernel;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
}

OrtStatus* read_dims(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info, Dims& dims) {
  LIT_RETURN_IF_ERROR(api->GetDimensionsCount(info, &dims.rank));
  if (dims.rank > Dims::kMaxRank) return nullptr;
  return api->GetDimensions(info, dims.size, dims.rank);
}

OrtStatus* check_dims(const OrtApi* api, const Dims& x, const Dims& offset_weight, const Dims& offset_bias) {
  const auto differs = [](int64_t size, int64_t wanted) { return size >= 0 && wanted >= 0 && size != wanted; };
  const auto below = [](int64_t size, int64_t least) { return size >= 0 && size < least; };
  if (x.rank != 4) return shape_error(api, "x", x, "[batch, height, width, channels]");
  if (below(x.size[1], 2) || below(x.size[2], 2) || below(x.size[3], 1)) {
    return shape_error(api, "x", x, "[batch, height, width, channels] with height and width of at least 2");
  }
  const int64_t columns = x.size[3] < 0 ? -1 : 4 * x.size[3];
  if (offset_weight.rank != 2 || differs(offset_weight.size[0], 8) || differs(offset_weight.size[1], columns)) {
    char expected[kNameSize];
    if (columns < 0) {
      std::snprintf(expected, kNameSize, "[8, 4 * channels]");
    } else {
      std::snprintf(expected, kNameSize, "[8, %lld], which is [8, 4 * channels of x]", static_cast<long long>(columns));
    }
    return shape_error(api, "offset_weight", offset_weight, expected);
  }
  if (offset_bias.rank != 1 || differs(offset_bias.size[0], 8)) {
    return shape_error(api, "offset_bias", offset_bias, "[8]");
  }
  return nullptr;
}

}  // namespace lit_deploy::ort
