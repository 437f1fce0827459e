// The operator lit_deploy::RelativePositionAttention (version 1) as ONNX Runtime sees it.
#ifndef LIT_DEPLOY_ONNXRUNTIME_RELATIVE_POSITION_ATTENTION_OP_H_
#define LIT_DEPLOY_ONNXRUNTIME_RELATIVE_POSITION_ATTENTION_OP_H_

#include "operator.h"

namespace lit_deploy::ort {

// Fills the kAttentionOpCount `ops` with the operator for float32, float16 and bfloat16 on the CPU execution provider.
constexpr int kAttentionOpCount = 3;
void make_attention_ops(const OrtApi* api, Operator* ops);

}  // namespace lit_deploy::ort

#endif  // LIT_DEPLOY_ONNXRUNTIME_RELATIVE_POSITION_ATTENTION_OP_H_
