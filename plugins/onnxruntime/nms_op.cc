// What the nodes of lit_deploy::Nms share on every provider; and the operator on the CPU execution provider.
#include <cstdio>
#include <new>

#include "nms_op.h"

namespace lit_deploy::ort {
namespace {

constexpr size_t kInputCount = 3;
constexpr const char* kInputNames[kInputCount] = {"boxes", "scores", "classes"};

// Unknown dimensions (-1) pass.
OrtStatus* check_nms_dims(const OrtApi* api, const Dims& boxes, const Dims& scores, const Dims& classes) {
  LIT_RETURN_IF_ERROR(check_elements(api, kNms, "boxes", boxes));
  if (boxes.rank != 2 || dims_differ(boxes.size[1], 4) || boxes.size[0] > kNmsMaxBoxes) {
    return shape_error(api, kNms, "boxes", boxes, "[boxes, 4]");
  }
  if (scores.rank != 1 || dims_differ(scores.size[0], boxes.size[0])) {
    return shape_error(api, kNms, "scores", scores, "[boxes], as many as there are boxes");
  }
  if (classes.rank != 1 || dims_differ(classes.size[0], boxes.size[0])) {
    return shape_error(api, kNms, "classes", classes, "[boxes], as many as there are boxes");
  }
  return nullptr;
}

OrtStatus* ORT_API_CALL infer_nms_shape(const OrtCustomOp* custom_op, OrtShapeInferContext* context) {
  const OrtApi* api = static_cast<const Operator*>(custom_op)->api;
  Dims dims[kInputCount];
  bool known = true;
  for (size_t i = 0; i < kInputCount; ++i) {
    OrtTensorTypeAndShapeInfo* info = nullptr;  // belongs to the context
    LIT_RETURN_IF_ERROR(api->ShapeInferContext_GetInputTypeShape(context, i, &info));
    LIT_RETURN_IF_ERROR(read_dims(api, info, dims[i]));
    known = known && dims[i].rank != 0;  // ONNX Runtime says rank 0 for "shape not known": checked at run time
  }
  if (known) LIT_RETURN_IF_ERROR(check_nms_dims(api, dims[0], dims[1], dims[2]));
  const OrtOpAttr* attribute = nullptr;
  LIT_RETURN_IF_ERROR(api->ShapeInferContext_GetAttribute(context, "max_output", &attribute));
  OutputDim length;
  size_t size = 0;
  LIT_RETURN_IF_ERROR(api->ReadOpAttr(attribute, ORT_OP_ATTR_INT, &length.size, sizeof length.size, &size));
  return set_output(api, context, kNms, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &length, 1);
}

OrtStatus* ORT_API_CALL create_nms(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  *kernel = nullptr;
  LIT_RETURN_IF_ERROR(check_declared_elements(api, info, kNms, kInputNames, kInputCount));
  NmsOptions options{};
  LIT_RETURN_IF_ERROR(api->KernelInfoGetAttribute_float(info, "iou_threshold", &options.iou_threshold));
  LIT_RETURN_IF_ERROR(api->KernelInfoGetAttribute_float(info, "score_threshold", &options.score_threshold));
  LIT_RETURN_IF_ERROR(api->KernelInfoGetAttribute_int64(info, "max_output", &options.max_output));
  char message[256] = "";
  if (!(options.iou_threshold >= 0.0f && options.iou_threshold <= 1.0f)) {
    std::snprintf(message, sizeof message, "%s::%s: iou_threshold is %g, expected 0 to 1", kDomain, kNms,
                  static_cast<double>(options.iou_threshold));
  } else if (options.max_output < 1 || options.max_output > kNmsMaxBoxes) {
    std::snprintf(message, sizeof message, "%s::%s: max_output is %lld, expected 1 to %lld", kDomain, kNms,
                  static_cast<long long>(options.max_output), static_cast<long long>(kNmsMaxBoxes));
  }
  if (message[0] != '\0') return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
  *kernel = new (std::nothrow) NmsKernel{api, options};
  return *kernel != nullptr ? nullptr : api->CreateStatus(ORT_FAIL, "lit_deploy: out of memory");
}

OrtStatus* ORT_API_CALL run_nms(void* kernel, OrtKernelContext* context) {
  const NmsKernel& self = *static_cast<const NmsKernel*>(kernel);
  NmsCall call{};
  LIT_RETURN_IF_ERROR(read_nms(self, context, call));
  const bool done = nms(self.options, call.count, call.boxes, call.scores, call.classes, call.indices);
  return done ? nullptr : self.api->CreateStatus(ORT_FAIL, "lit_deploy::Nms: out of memory");
}

}  // namespace

OrtStatus* read_nms(const NmsKernel& node, OrtKernelContext* context, NmsCall& call) {
  const OrtApi* api = node.api;
  const void* data[kInputCount];
  Dims dims[kInputCount];
  for (size_t i = 0; i < kInputCount; ++i) LIT_RETURN_IF_ERROR(read_input(api, context, i, data[i], dims[i]));
  LIT_RETURN_IF_ERROR(check_nms_dims(api, dims[0], dims[1], dims[2]));
  OrtValue* output = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetOutput(context, 0, &node.options.max_output, 1, &output));
  void* indices = nullptr;
  LIT_RETURN_IF_ERROR(api->GetTensorMutableData(output, &indices));
  call = NmsCall{dims[0].size[0], static_cast<const float*>(data[0]), static_cast<const float*>(data[1]),
                 static_cast<const int64_t*>(data[2]), static_cast<int64_t*>(indices)};
  return nullptr;
}

void fill_nms(const OrtApi* api, Operator& op) {
  fill_common(api, op);
  op.GetName = [](const OrtCustomOp*) { return kNms; };
  op.GetInputTypeCount = tensor_count<kInputCount>;
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index < 2 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
  };
  op.GetOutputTypeCount = tensor_count<1>;
  op.GetOutputType = element_type<ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64>;
  op.InferOutputShapeFn = infer_nms_shape;
  op.CreateKernelV2 = create_nms;
  op.KernelDestroy = [](void* kernel) { delete static_cast<NmsKernel*>(kernel); };
}

void make_nms_ops(const OrtApi* api, Operator* ops) {
  fill_nms(api, ops[0]);
  ops[0].GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  ops[0].KernelComputeV2 = run_nms;
}

}  // namespace lit_deploy::ort
