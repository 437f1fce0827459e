// The operator on the CUDA execution provider: float32, float16 and bfloat16, on the stream of the session. As with the
// merging's, nothing of CUDA is touched before a node runs.
#include "relative_position_attention/cuda.h"

#include <cstdio>

#include "relative_position_attention_op.h"

namespace lit_deploy::ort {
namespace {

template <CudaElement Element>
OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const AttentionKernel& node = *static_cast<const AttentionKernel*>(kernel);
  const OrtApi* api = node.api;
  AttentionCall call{};
  LIT_RETURN_IF_ERROR(read_attention(node, context, kMaxCudaAttentionHeadDim, call));
  void* stream = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetGPUComputeStream(context, &stream));
  const cudaError_t error =
      relative_position_attention_cuda(call.shape, Element, call.scale, call.qkv, static_cast<const float*>(call.table),
                                       call.y, static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return nullptr;
  const char* remedy = is_cuda_mismatch(error) ? "; update the driver, build the library again for this GPU (or with "
                                                 "-DCMAKE_CUDA_ARCHITECTURES=<it>), or leave it out: --no-library"
                                               : "";
  char message[512];
  std::snprintf(message, sizeof message, "%s::%s: the CUDA kernel could not be started: %s (%s)%s", kDomain,
                kAttentionOpType, cudaGetErrorString(error), cudaGetErrorName(error), remedy);
  return api->CreateStatus(ORT_FAIL, message);
}

template <AttentionElement Type, CudaElement Element>
void fill(const OrtApi* api, Operator& op) {
  fill_attention(api, Type, op);
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CUDAExecutionProvider"; };
  op.KernelComputeV2 = compute<Element>;
}

}  // namespace

void make_cuda_attention_ops(const OrtApi* api, Operator* ops) {
  fill<AttentionElement::kFloat32, CudaElement::kFloat32>(api, ops[0]);
  fill<AttentionElement::kFloat16, CudaElement::kFloat16>(api, ops[1]);
  fill<AttentionElement::kBFloat16, CudaElement::kBFloat16>(api, ops[2]);
}

}  // namespace lit_deploy::ort
