// The operator lit_deploy::DeformableTokenMerging (version 1) as ONNX Runtime sees it.
#ifndef LIT_DEPLOY_ONNXRUNTIME_DEFORMABLE_TOKEN_MERGING_OP_H_
#define LIT_DEPLOY_ONNXRUNTIME_DEFORMABLE_TOKEN_MERGING_OP_H_

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>

#include "contract.h"
#include "deformable_token_merging/kernel.h"
#include "operator.h"

namespace lit_deploy::ort {

using contract::kOpType;

constexpr size_t kInputCount = 3;
constexpr const char* kInputNames[kInputCount] = {"x", "offset_weight", "offset_bias"};

// Fills the kCpuOpCount `ops` with the operator for float32 and for float16 on the CPU execution provider.
constexpr int kCpuOpCount = 2;
void make_cpu_ops(const OrtApi* api, Operator* ops);

// Fills the kCudaOpCount `ops` with the operator for float32, float16 and bfloat16 on the CUDA execution provider.
// Defined in a library built with CUDA.
constexpr int kCudaOpCount = 3;
void make_cuda_ops(const OrtApi* api, Operator* ops);

// False where the driver is too old for the CUDA runtime in this library, or the GPU is one that it holds no code for.
bool cuda_kernel_fits();

// The parts that do not depend on the provider: names, arity, types, the shape function, making and
// ending a Kernel. A provider adds GetExecutionProviderType and KernelComputeV2.
void fill_schema(const OrtApi* api, ONNXTensorElementDataType type, Operator& op);

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

#endif  // LIT_DEPLOY_ONNXRUNTIME_DEFORMABLE_TOKEN_MERGING_OP_H_
