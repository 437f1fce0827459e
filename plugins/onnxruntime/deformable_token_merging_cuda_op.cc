// The operator on the CUDA execution provider: float32, float16 and bfloat16, on the stream of the session.
//
// The CUDA runtime is linked in statically and looks for the driver only when a kernel is launched. With an ONNX
// Runtime that has no CUDA provider these operators are registered all the same (it accepts names of providers that it
// does not know), no node is ever assigned to them, and nothing of CUDA is touched.
#include "deformable_token_merging/cuda.h"

#include <cstdio>

#include "deformable_token_merging_op.h"

namespace lit_deploy::ort {
namespace {

template <CudaElement Element>
OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const OrtApi* api = static_cast<const Kernel*>(kernel)->api;
  Tensors t{};
  LIT_RETURN_IF_ERROR(read_tensors(api, context, t));
  void* stream = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetGPUComputeStream(context, &stream));
  const cudaError_t error = deformable_token_merging_cuda(t.shape, Element, t.x, t.offset_weight, t.offset_bias, t.y,
                                                          static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return nullptr;
  const char* remedy = is_cuda_mismatch(error) ? "; update the driver, build the library again for this GPU (or with "
                                                 "-DCMAKE_CUDA_ARCHITECTURES=<it>), or leave it out: --no-library"
                                               : "";
  char message[512];
  std::snprintf(message, sizeof message, "%s::%s: the CUDA kernel could not be started: %s (%s)%s", kDomain, kOpType,
                cudaGetErrorString(error), cudaGetErrorName(error), remedy);
  return api->CreateStatus(ORT_FAIL, message);
}

template <CudaElement Element>
void fill_cuda_op(const OrtApi* api, ONNXTensorElementDataType type, Operator& op) {
  fill_schema(api, type, op);
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CUDAExecutionProvider"; };
  op.KernelComputeV2 = compute<Element>;
}

}  // namespace

bool cuda_kernel_fits() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return true;  // none: ONNX Runtime will say so
  return !is_cuda_mismatch(check_deformable_token_merging_cuda());
}

void make_cuda_ops(const OrtApi* api, Operator* ops) {
  fill_cuda_op<CudaElement::kFloat32>(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ops[0]);
  fill_cuda_op<CudaElement::kFloat16>(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ops[1]);
  fill_cuda_op<CudaElement::kBFloat16>(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, ops[2]);
}

}  // namespace lit_deploy::ort
