// The operator lit_deploy::Nms (version 1) as ONNX Runtime sees it.
#ifndef LIT_DEPLOY_ONNXRUNTIME_NMS_OP_H_
#define LIT_DEPLOY_ONNXRUNTIME_NMS_OP_H_

#include "detection_ops.h"
#include "nms/kernel.h"

namespace lit_deploy::ort {

constexpr const char* kNms = "Nms";

// The state of one node.
struct NmsKernel {
  const OrtApi* api;
  NmsOptions options;
};

// The tensors of one call. The pointers are where the provider of the kernel keeps its memory.
struct NmsCall {
  int64_t count;
  const float* boxes;
  const float* scores;
  const int64_t* classes;
  int64_t* indices;
};

// Reads the inputs, checks their shapes and has the output allocated.
OrtStatus* read_nms(const NmsKernel& node, OrtKernelContext* context, NmsCall& call);

// The parts that do not depend on the provider: name, arity, types, the shape function, making and ending an NmsKernel. A
// provider adds GetExecutionProviderType and KernelComputeV2.
void fill_nms(const OrtApi* api, Operator& op);

}  // namespace lit_deploy::ort

#endif  // LIT_DEPLOY_ONNXRUNTIME_NMS_OP_H_
