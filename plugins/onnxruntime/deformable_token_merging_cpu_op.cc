// The operator on the CPU execution provider: float32 and float16, on ONNX Runtime's own threads.
#include "deformable_token_merging_op.h"

namespace lit_deploy::ort {
namespace {

// T is float, or uint16_t for the bits of a half.
template <typename T>
void run_row(void* job, size_t row) {
  const Tensors& t = *static_cast<const Tensors*>(job);
  const int64_t begin = static_cast<int64_t>(row);
  deformable_token_merging(t.shape, static_cast<const T*>(t.x), static_cast<const T*>(t.offset_weight),
                           static_cast<const T*>(t.offset_bias), static_cast<T*>(t.y), begin, begin + 1);
}

template <typename T>
OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const OrtApi* api = static_cast<const Kernel*>(kernel)->api;
  Tensors tensors{};
  LIT_RETURN_IF_ERROR(read_tensors(api, context, tensors));
  return api->KernelContext_ParallelFor(context, run_row<T>, static_cast<size_t>(tensors.shape.output_rows()), 0,
                                        &tensors);
}

template <typename T>
void fill_cpu_op(const OrtApi* api, ONNXTensorElementDataType type, Operator& op) {
  fill_schema(api, type, op);
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.KernelComputeV2 = compute<T>;
}

}  // namespace

void make_cpu_ops(const OrtApi* api, Operator* ops) {
  fill_cpu_op<float>(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ops[0]);
  fill_cpu_op<uint16_t>(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ops[1]);
}

}  // namespace lit_deploy::ort
