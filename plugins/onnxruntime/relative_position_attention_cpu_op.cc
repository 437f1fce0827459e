// The operator on the CPU execution provider: float32, float16 and bfloat16, on ONNX Runtime's own threads.
#include "relative_position_attention_op.h"

namespace lit_deploy::ort {
namespace {

struct CpuCall : AttentionCall {
  AttentionElement element;
};

void run_task(void* call, size_t task) {
  const CpuCall& c = *static_cast<const CpuCall*>(call);
  const int64_t begin = static_cast<int64_t>(task);
  relative_position_attention(c.shape, c.element, c.scale, c.qkv, static_cast<const float*>(c.table), c.y, begin,
                              begin + 1);
}

template <AttentionElement Element>
OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const AttentionKernel& node = *static_cast<const AttentionKernel*>(kernel);
  CpuCall call{};
  call.element = Element;
  LIT_RETURN_IF_ERROR(read_attention(node, context, kMaxAttentionHeadDim, call));
  const size_t tasks = static_cast<size_t>(attention_tasks(call.shape));
  return node.api->KernelContext_ParallelFor(context, run_task, tasks, 0, &call);
}

template <AttentionElement Element>
void fill(const OrtApi* api, Operator& op) {
  fill_attention(api, Element, op);
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.KernelComputeV2 = compute<Element>;
}

}  // namespace

void make_attention_ops(const OrtApi* api, Operator* ops) {
  fill<AttentionElement::kFloat32>(api, ops[0]);
  fill<AttentionElement::kFloat16>(api, ops[1]);
  fill<AttentionElement::kBFloat16>(api, ops[2]);
}

}  // namespace lit_deploy::ort
