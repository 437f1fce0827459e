// The CUDA kernels as plain C functions, for ctypes and the like: no ONNX Runtime, no TensorRT.
#include "nms/cuda.h"

// Sets *bytes to the device memory that lit_deploy_nms() needs; returns 0, or a cudaError_t. See nms_cuda_workspace().
extern "C" __attribute__((visibility("default"))) int32_t lit_deploy_nms_workspace(int64_t count, int64_t max_output,
                                                                                   uint64_t* bytes) {
  size_t needed = 0;
  const cudaError_t error = lit_deploy::nms_cuda_workspace({0.0f, 0.0f, max_output}, count, needed);
  *bytes = needed;
  return error;
}

// Returns 0, or a cudaError_t. The pointers are device memory and `stream` is a cudaStream_t (null: the default stream).
// See nms_cuda().
extern "C" __attribute__((visibility("default"))) int32_t lit_deploy_nms(
    int64_t count, float iou_threshold, float score_threshold, int64_t max_output, const float* boxes,
    const float* scores, const int64_t* classes, int64_t* indices, void* workspace, uint64_t workspace_bytes,
    void* stream) {
  return lit_deploy::nms_cuda({iou_threshold, score_threshold, max_output}, count, boxes, scores, classes, indices,
                              workspace, workspace_bytes, static_cast<cudaStream_t>(stream));
}
