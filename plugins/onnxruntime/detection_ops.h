// The operators of the detectors, lit_deploy::Nms and lit_deploy::MultiLevelRoiAlign (version 1), as ONNX Runtime sees
// them: on the CPU execution provider, and Nms on CUDA's.
#ifndef LIT_DEPLOY_ONNXRUNTIME_DETECTION_OPS_H_
#define LIT_DEPLOY_ONNXRUNTIME_DETECTION_OPS_H_

#include "operator.h"

namespace lit_deploy::ort {

constexpr int kNmsOpCount = 1;
void make_nms_ops(const OrtApi* api, Operator* ops);

// The same on the CUDA execution provider. Defined in a library built with CUDA.
void make_cuda_nms_ops(const OrtApi* api, Operator* ops);

// For float32 and for float16.
constexpr int kRoiAlignOpCount = 2;
void make_roi_align_ops(const OrtApi* api, Operator* ops);

}  // namespace lit_deploy::ort

#endif  // LIT_DEPLOY_ONNXRUNTIME_DETECTION_OPS_H_
