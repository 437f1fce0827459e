// lit_deploy::Nms on the CUDA execution provider, on the stream of the session. As with the merging's, nothing of CUDA is
// touched before a node runs.
#include "nms/cuda.h"

#include <cstdio>

#include "nms_op.h"

namespace lit_deploy::ort {
namespace {

// The work's memory is asked for and given back in the order of the stream: the provider's own allocator could hand it to
// another stream before the kernels are done.
cudaError_t run(const NmsOptions& options, const NmsCall& call, cudaStream_t stream) {
  size_t bytes = 0;
  cudaError_t error = nms_cuda_workspace(options, call.count, bytes);
  void* workspace = nullptr;
  if (error == cudaSuccess && bytes > 0) error = cudaMallocAsync(&workspace, bytes, stream);
  if (error != cudaSuccess) return error;
  error = nms_cuda(options, call.count, call.boxes, call.scores, call.classes, call.indices, workspace, bytes, stream);
  if (workspace == nullptr) return error;
  const cudaError_t freed = cudaFreeAsync(workspace, stream);
  return error != cudaSuccess ? error : freed;
}

OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const NmsKernel& node = *static_cast<const NmsKernel*>(kernel);
  const OrtApi* api = node.api;
  NmsCall call{};
  LIT_RETURN_IF_ERROR(read_nms(node, context, call));
  char message[512];
  if (call.count > kMaxCudaNmsBoxes) {
    std::snprintf(message, sizeof message,
                  "%s::%s: boxes has %lld rows, expected at most %lld on CUDA; leave the library out for this model: "
                  "--no-library",
                  kDomain, kNms, static_cast<long long>(call.count), static_cast<long long>(kMaxCudaNmsBoxes));
    return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
  }
  void* stream = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetGPUComputeStream(context, &stream));
  const cudaError_t error = run(node.options, call, static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return nullptr;
  const char* remedy = is_cuda_mismatch(error) ? "; update the driver, build the library again for this GPU (or with "
                                                 "-DCMAKE_CUDA_ARCHITECTURES=<it>), or leave it out: --no-library"
                                               : "";
  std::snprintf(message, sizeof message, "%s::%s: the CUDA kernels could not be started: %s (%s)%s", kDomain, kNms,
                cudaGetErrorString(error), cudaGetErrorName(error), remedy);
  return api->CreateStatus(ORT_FAIL, message);
}

}  // namespace

void make_cuda_nms_ops(const OrtApi* api, Operator* ops) {
  fill_nms(api, ops[0]);
  ops[0].GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CUDAExecutionProvider"; };
  ops[0].KernelComputeV2 = compute;
}

}  // namespace lit_deploy::ort
