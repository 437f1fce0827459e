// The operator lit_deploy::DeformableTokenMerging (version 1) as ONNX Runtime sees it.
#ifndef LIT_DEPLOY_ONNXRUNTIME_DEFORMABLE_TOKEN_MERGING_OP_H_
#define LIT_DEPLOY_ONNXRUNTIME_DEFORMABLE_TOKEN_MERGING_OP_H_

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>

#include "contract.h"
#include "deformable_token_merging/kernel.h"

namespace lit_deploy::ort {

// The oldest API with shape inference and ParallelFor for custom operators (ONNX Runtime 1.17). Asking for this one,
// and not for that of the headers, lets a library built with new headers load in an older ONNX Runtime.
constexpr uint32_t kApiVersion = 17;
static_assert(ORT_API_VERSION >= kApiVersion, "the ONNX Runtime headers are too old: 1.17 or newer is needed");

using contract::kDomain;
using contract::kOpType;

// Shape inference is given the operator but no API table, so the operator carries one.
struct MergingOp : OrtCustomOp {
  const OrtApi* api;
};

// Fills the kCpuOpCount `ops` with the operator for float32 and for float16 on the CPU execution provider.
constexpr int kCpuOpCount = 2;
void make_cpu_ops(const OrtApi* api, MergingOp* ops);

// Fills the kCudaOpCount `ops` with the operator for float32, float16 and bfloat16 on the CUDA execution provider.
// There are none in a library built without CUDA.
#ifdef LIT_DEPLOY_HAS_CUDA
constexpr int kCudaOpCount = 3;
#else
constexpr int kCudaOpCount = 0;
#endif
void make_cuda_ops(const OrtApi* api, MergingOp* ops);

// False where the driver is too old for the CUDA runtime in this library, or the GPU is one that it holds no code for.
bool cuda_kernel_fits();

// The parts that do not depend on the provider: names, arity, types, the shape function, making and
// ending a Kernel. A provider adds GetExecutionProviderType and KernelComputeV2.
void fill_schema(const OrtApi* api, ONNXTensorElementDataType type, MergingOp& op);

// Dimensions of one tensor; rank above kMaxRank is kept, its dimensions are not.
struct Dims {
  static constexpr size_t kMaxRank = 4;
  size_t rank = 0;
  int64_t size[kMaxRank] = {};
};

// Reads the dimensions of `info`, -1 where unknown.
OrtStatus* read_dims(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info, Dims& dims);

// Checks the three input shapes; unknown dimensions (-1) pass. The message says what came and what was expected.
OrtStatus* check_dims(const OrtApi* api, const Dims& x, const Dims& offset_weight, const Dims& offset_bias);

// The tensors of one call. The pointers are where the provider of the kernel keeps its memory.
struct Tensors {
  MergingShape shape;
  const void* x;
  const void* offset_weight;
  const void* offset_bias;
  void* y;
};

// Reads the inputs, checks their shapes and has the output allocated.
OrtStatus* read_tensors(const OrtApi* api, OrtKernelContext* context, Tensors& tensors);

// The state of one node, the same for every provider; and its making, which checks the node's attributes.
struct Kernel {
  const OrtApi* api;
};
OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                                      void** kernel);

}  // namespace lit_deploy::ort

#define LIT_RETURN_IF_ERROR(expression)                           \
  do {                                                            \
    if (OrtStatus* lit_status_ = (expression)) return lit_status_; \
  } while (false)

#endif  // LIT_DEPLOY_ONNXRUNTIME_DEFORMABLE_TOKEN_MERGING_OP_H_
