// lit_deploy::MultiLevelRoiAlign on the CPU execution provider: float32 and float16, on ONNX Runtime's own threads.
#include "multi_level_roi_align/kernel.h"

#include <cstdio>
#include <memory>
#include <new>

#include "detection_ops.h"

namespace lit_deploy::ort {
namespace {

constexpr const char* kRoiAlign = "MultiLevelRoiAlign";
constexpr size_t kInputCount = 1 + kRoiLevels;
constexpr const char* kInputNames[kInputCount] = {"rois", "level0", "level1", "level2", "level3"};
constexpr int64_t kChannelsATask = 4;

struct RoiAlignKernel {
  const OrtApi* api;
  int64_t output_size;
};

// Unknown dimensions (-1) pass.
OrtStatus* check_roi_align_dims(const OrtApi* api, const Dims (&dims)[kInputCount]) {
  for (size_t i = 0; i < kInputCount; ++i) {
    LIT_RETURN_IF_ERROR(check_elements(api, kRoiAlign, kInputNames[i], dims[i]));
  }
  if (dims[0].rank != 2 || dims_differ(dims[0].size[1], 4)) {
    return shape_error(api, kRoiAlign, kInputNames[0], dims[0], "[regions, 4]");
  }
  const int64_t channels = dims[1].rank == 4 ? dims[1].size[1] : -1;
  for (size_t i = 1; i < kInputCount; ++i) {
    const int64_t(&size)[Dims::kMaxRank] = dims[i].size;
    if (dims[i].rank != 4 || dims_differ(size[0], 1) || dims_differ(size[1], channels) || size[1] == 0 ||
        size[2] == 0 || size[3] == 0) {
      return shape_error(api, kRoiAlign, kInputNames[i], dims[i],
                         "[1, channels, height, width], with the channels of level0 and no empty map");
    }
  }
  return nullptr;
}

OrtStatus* ORT_API_CALL infer_roi_align_shape(const OrtCustomOp* custom_op, OrtShapeInferContext* context) {
  const OrtApi* api = static_cast<const Operator*>(custom_op)->api;
  Dims dims[kInputCount];
  const char* names[kInputCount][Dims::kMaxRank] = {};
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  for (size_t i = 0; i < kInputCount; ++i) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
    LIT_RETURN_IF_ERROR(api->ShapeInferContext_GetInputTypeShape(context, i, &info));
    LIT_RETURN_IF_ERROR(read_dims(api, info, dims[i]));
    if (dims[i].rank == 0) return nullptr;  // ONNX Runtime says rank 0 for "shape not known": checked at run time
    if (dims[i].rank > Dims::kMaxRank) continue;
    LIT_RETURN_IF_ERROR(api->GetSymbolicDimensions(info, names[i], dims[i].rank));
    if (i == 1) LIT_RETURN_IF_ERROR(api->GetTensorElementType(info, &type));
  }
  LIT_RETURN_IF_ERROR(check_roi_align_dims(api, dims));
  const OrtOpAttr* attribute = nullptr;
  LIT_RETURN_IF_ERROR(api->ShapeInferContext_GetAttribute(context, "output_size", &attribute));
  int64_t bins = 0;
  size_t read = 0;
  LIT_RETURN_IF_ERROR(api->ReadOpAttr(attribute, ORT_OP_ATTR_INT, &bins, sizeof bins, &read));
  const OutputDim out[4] = {output_dim(dims[0].size[0], names[0][0]), output_dim(dims[1].size[1], names[1][1]),
                            output_dim(bins, nullptr), output_dim(bins, nullptr)};
  return set_output(api, context, kRoiAlign, type, out, 4);
}

OrtStatus* ORT_API_CALL create_roi_align(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                                         void** kernel) {
  *kernel = nullptr;
  LIT_RETURN_IF_ERROR(check_plugin_version(api, info, kRoiAlign));
  LIT_RETURN_IF_ERROR(check_declared_elements(api, info, kRoiAlign, kInputNames, kInputCount));
  int64_t output_size = 0;
  LIT_RETURN_IF_ERROR(api->KernelInfoGetAttribute_int64(info, "output_size", &output_size));
  if (output_size < 1 || output_size > kRoiMaxOutputSize) {
    char message[256];
    std::snprintf(message, sizeof message, "%s::%s: output_size is %lld, expected 1 to %lld", kDomain, kRoiAlign,
                  static_cast<long long>(output_size), static_cast<long long>(kRoiMaxOutputSize));
    return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
  }
  *kernel = new (std::nothrow) RoiAlignKernel{api, output_size};
  return *kernel != nullptr ? nullptr : api->CreateStatus(ORT_FAIL, "lit_deploy: out of memory");
}

// One call. T is float, or uint16_t for the bits of a half.
template <typename T>
struct RoiAlignCall {
  std::unique_ptr<RoiAlignPlan, void (*)(RoiAlignPlan*) noexcept> plan;
  const T* levels[kRoiLevels];
  T* y;
  int64_t channels;
};

template <typename T>
void run_task(void* call, size_t task) {
  const RoiAlignCall<T>& c = *static_cast<const RoiAlignCall<T>*>(call);
  const int64_t begin = static_cast<int64_t>(task) * kChannelsATask;
  const int64_t end = begin + kChannelsATask < c.channels ? begin + kChannelsATask : c.channels;
  multi_level_roi_align(*c.plan, c.levels, c.y, begin, end);
}

template <typename T>
OrtStatus* ORT_API_CALL run_roi_align(void* kernel, OrtKernelContext* context) {
  const RoiAlignKernel& self = *static_cast<const RoiAlignKernel*>(kernel);
  const OrtApi* api = self.api;
  const void* data[kInputCount];
  Dims dims[kInputCount];
  for (size_t i = 0; i < kInputCount; ++i) LIT_RETURN_IF_ERROR(read_input(api, context, i, data[i], dims[i]));
  LIT_RETURN_IF_ERROR(check_roi_align_dims(api, dims));

  RoiAlignShape shape{dims[0].size[0], dims[1].size[1], {}, {}, self.output_size};
  RoiAlignCall<T> call{{nullptr, free_roi_align_plan}, {}, nullptr, shape.channels};
  for (int level = 0; level < kRoiLevels; ++level) {
    shape.height[level] = dims[1 + level].size[2];
    shape.width[level] = dims[1 + level].size[3];
    call.levels[level] = static_cast<const T*>(data[1 + level]);
  }
  const Dims y_dims{4, {shape.rois, shape.channels, shape.output_size, shape.output_size}};
  LIT_RETURN_IF_ERROR(check_elements(api, kRoiAlign, "the output", y_dims));
  OrtValue* output = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetOutput(context, 0, y_dims.size, y_dims.rank, &output));
  if (shape.rois == 0) return nullptr;
  void* y = nullptr;
  LIT_RETURN_IF_ERROR(api->GetTensorMutableData(output, &y));
  call.y = static_cast<T*>(y);
  call.plan.reset(make_roi_align_plan(shape, static_cast<const float*>(data[0])));
  if (call.plan == nullptr) return api->CreateStatus(ORT_FAIL, "lit_deploy::MultiLevelRoiAlign: out of memory");
  const int64_t tasks = (shape.channels + kChannelsATask - 1) / kChannelsATask;
  return api->KernelContext_ParallelFor(context, run_task<T>, static_cast<size_t>(tasks), 0, &call);
}

template <typename T, ONNXTensorElementDataType Type>
void fill_roi_align(const OrtApi* api, Operator& op) {
  fill_common(api, op);
  op.GetName = [](const OrtCustomOp*) { return kRoiAlign; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.GetInputTypeCount = tensor_count<kInputCount>;
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : Type;
  };
  op.GetOutputTypeCount = tensor_count<1>;
  op.GetOutputType = element_type<Type>;
  op.InferOutputShapeFn = infer_roi_align_shape;
  op.CreateKernelV2 = create_roi_align;
  op.KernelDestroy = [](void* kernel) { delete static_cast<RoiAlignKernel*>(kernel); };
  op.KernelComputeV2 = run_roi_align<T>;
}

}  // namespace

void make_roi_align_ops(const OrtApi* api, Operator* ops) {
  fill_roi_align<float, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT>(api, ops[0]);
  fill_roi_align<uint16_t, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16>(api, ops[1]);
}

}  // namespace lit_deploy::ort
