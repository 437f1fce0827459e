// What every operator of this library shares.
#include "operator.h"

#include <atomic>
#include <cstdio>
#include <cstring>

#include "sizes.h"

namespace lit_deploy::ort {
namespace {

constexpr size_t kTextSize = 128;

// "[2, ?, 14, 384]", with ? for an unknown dimension.
void print_dims(const Dims& dims, char (&text)[kTextSize]) {
  size_t used = static_cast<size_t>(std::snprintf(text, kTextSize, "["));
  if (dims.rank > Dims::kMaxRank) {
    std::snprintf(text, kTextSize, "rank %zu", dims.rank);
    return;
  }
  for (size_t i = 0; i < dims.rank; ++i) {
    const char* separator = i == 0 ? "" : ", ";
    const int written = dims.size[i] < 0
                            ? std::snprintf(text + used, kTextSize - used, "%s?", separator)
                            : std::snprintf(text + used, kTextSize - used, "%s%lld", separator,
                                            static_cast<long long>(dims.size[i]));
    used += static_cast<size_t>(written);
  }
  std::snprintf(text + used, kTextSize - used, "]");
}

// An unknown dimension without a name gets one of its own: two equal names would promise two equal sizes.
void name_unknown(OutputDim& dim) {
  static std::atomic<unsigned> counter{0};
  std::snprintf(dim.name, OutputDim::kNameSize, "lit_deploy_unknown_%u", counter.fetch_add(1));
}

}  // namespace

void fill_common(const OrtApi* api, Operator& op) {
  op = Operator{};
  op.api = api;
  op.version = kApiVersion;
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
}

OrtStatus* read_dims(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info, Dims& dims) {
  LIT_RETURN_IF_ERROR(api->GetDimensionsCount(info, &dims.rank));
  if (dims.rank > Dims::kMaxRank) return nullptr;
  return api->GetDimensions(info, dims.size, dims.rank);
}

OrtStatus* shape_error(const OrtApi* api, const char* op_type, const char* input, const Dims& received,
                       const char* expected) {
  char dims[kTextSize];
  print_dims(received, dims);
  char message[4 * kTextSize];
  std::snprintf(message, sizeof message, "%s::%s: %s has shape %s, expected %s", kDomain, op_type, input, dims,
                expected);
  return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

OrtStatus* check_elements(const OrtApi* api, const char* op_type, const char* name, const Dims& dims) {
  const bool fits = dims.rank > Dims::kMaxRank || elements_fit(dims.size, dims.rank);
  return fits ? nullptr : shape_error(api, op_type, name, dims, kElementsFit);
}

OrtStatus* check_declared_elements(const OrtApi* api, const OrtKernelInfo* info, const char* op_type,
                                   const char* const* names, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    OrtTypeInfo* type = nullptr;
    LIT_RETURN_IF_ERROR(api->KernelInfo_GetInputTypeInfo(info, i, &type));
    const OrtTensorTypeAndShapeInfo* declared = nullptr;  // belongs to `type`
    OrtStatus* status = api->CastTypeInfoToTensorInfo(type, &declared);
    Dims dims;
    if (status == nullptr && declared != nullptr) status = read_dims(api, declared, dims);
    if (status == nullptr) status = check_elements(api, op_type, names[i], dims);
    api->ReleaseTypeInfo(type);
    LIT_RETURN_IF_ERROR(status);
  }
  return nullptr;
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

OrtStatus* check_plugin_version(const OrtApi* api, const OrtKernelInfo* info, const char* op_type) {
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
                kDomain, op_type, version, contract::kOpVersionText);
  return api->CreateStatus(ORT_NOT_IMPLEMENTED, message);
}

OutputDim output_dim(int64_t size, const char* name, int64_t multiply, int64_t divide) {
  OutputDim dim;
  if (size >= 0) {
    dim.size = size * multiply / divide;
  } else if (name == nullptr || name[0] == '\0' || std::strlen(name) > OutputDim::kNameSize / 2) {
    name_unknown(dim);
  } else if (multiply == divide) {
    std::snprintf(dim.name, OutputDim::kNameSize, "%s", name);
  } else if (divide == 1) {
    std::snprintf(dim.name, OutputDim::kNameSize, "%lld*%s", static_cast<long long>(multiply), name);
  } else {
    std::snprintf(dim.name, OutputDim::kNameSize, "floor(%s/%lld)", name, static_cast<long long>(divide));
  }
  return dim;
}

OrtStatus* set_output(const OrtApi* api, OrtShapeInferContext* context, const char* op_type,
                      ONNXTensorElementDataType type, const OutputDim* dims, size_t rank) {
  Dims output;
  output.rank = rank;
  const char* names[Dims::kMaxRank];
  for (size_t i = 0; i < rank; ++i) {
    output.size[i] = dims[i].size;
    names[i] = dims[i].name;
  }
  LIT_RETURN_IF_ERROR(check_elements(api, op_type, "the output", output));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  LIT_RETURN_IF_ERROR(api->CreateTensorTypeAndShapeInfo(&info));
  OrtStatus* status = api->SetTensorElementType(info, type);  // left out, the output would become float32
  if (status == nullptr) status = api->SetDimensions(info, output.size, rank);
  if (status == nullptr) status = api->SetSymbolicDimensions(info, names, rank);
  if (status == nullptr) status = api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api->ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

}  // namespace lit_deploy::ort
