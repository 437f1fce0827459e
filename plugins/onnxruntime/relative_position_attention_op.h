// The operator lit_deploy::RelativePositionAttention (version 1) as ONNX Runtime sees it.
#ifndef LIT_DEPLOY_ONNXRUNTIME_RELATIVE_POSITION_ATTENTION_OP_H_
#define LIT_DEPLOY_ONNXRUNTIME_RELATIVE_POSITION_ATTENTION_OP_H_

#include "operator.h"
#include "relative_position_attention/kernel.h"

namespace lit_deploy::ort {

constexpr const char* kAttentionOpType = "RelativePositionAttention";

// Fills the kAttentionOpCount `ops` with the operator for float32, float16 and bfloat16 on the CPU execution provider.
constexpr int kAttentionOpCount = 3;
void make_attention_ops(const OrtApi* api, Operator* ops);

// The same on the CUDA execution provider, as many. Defined in a library built with CUDA.
void make_cuda_attention_ops(const OrtApi* api, Operator* ops);

// The parts that do not depend on the provider: name, arity, types, the shape function, making and ending an
// AttentionKernel. A provider adds GetExecutionProviderType and KernelComputeV2.
void fill_attention(const OrtApi* api, AttentionElement element, Operator& op);

// The state of one node.
struct AttentionKernel {
  const OrtApi* api;
  int64_t heads;
  float scale;
};

// The tensors of one call. The pointers are where the provider of the kernel keeps its memory.
struct AttentionCall {
  AttentionShape shape;
  float scale;
  const void* qkv;
  const void* table;
  void* y;
};

// Reads the inputs, checks their shapes, with heads of at most `most_head_dim` channels, and has the output allocated.
OrtStatus* read_attention(const AttentionKernel& node, OrtKernelContext* context, int64_t most_head_dim,
                          AttentionCall& call);

}  // namespace lit_deploy::ort

#endif  // LIT_DEPLOY_ONNXRUNTIME_RELATIVE_POSITION_ATTENTION_OP_H_
