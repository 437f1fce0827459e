// What every operator of this library shares: the API version, shapes and the messages about them.
#ifndef LIT_DEPLOY_ONNXRUNTIME_OPERATOR_H_
#define LIT_DEPLOY_ONNXRUNTIME_OPERATOR_H_

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>

#include "contract.h"

namespace lit_deploy::ort {

// The oldest API with shape inference and ParallelFor for custom operators (ONNX Runtime 1.17). Asking for this one,
// and not for that of the headers, lets a library built with new headers load in an older ONNX Runtime.
constexpr uint32_t kApiVersion = 17;
static_assert(ORT_API_VERSION >= kApiVersion, "the ONNX Runtime headers are too old: 1.17 or newer is needed");

using contract::kDomain;

// Shape inference is given the operator but no API table, so the operator carries one.
struct Operator : OrtCustomOp {
  const OrtApi* api;
};

// Sets `op` to an operator of version 1 that has no variadic and no optional tensors and wants its inputs where the
// provider keeps its memory. What is left to the caller: GetName, types, counts, shapes, provider, making and ending
// a kernel, KernelComputeV2.
void fill_common(const OrtApi* api, Operator& op);

// Dimensions of one tensor; rank above kMaxRank is kept, its dimensions are not.
struct Dims {
  static constexpr size_t kMaxRank = 4;
  size_t rank = 0;
  int64_t size[kMaxRank] = {};
};

// Reads the dimensions of `info`, -1 where unknown.
OrtStatus* read_dims(const OrtApi* api, const OrtTensorTypeAndShapeInfo* info, Dims& dims);

// Both known, and not equal.
inline bool dims_differ(int64_t size, int64_t wanted) { return size >= 0 && wanted >= 0 && size != wanted; }

// "<domain>::<op_type>: <input> has shape [2, ?, 14, 384], expected <expected>".
OrtStatus* shape_error(const OrtApi* api, const char* op_type, const char* input, const Dims& received,
                       const char* expected);

// Refuses a node whose plugin_version attribute, which is there for TensorRT, is not ours; one without it is accepted.
OrtStatus* check_plugin_version(const OrtApi* api, const OrtKernelInfo* info, const char* op_type);

// Refuses a tensor, known by `dims` as far as that goes, with more elements than kMaxElements: to be asked before
// anything is calculated with its sizes.
OrtStatus* check_elements(const OrtApi* api, const char* op_type, const char* name, const Dims& dims);

// The same of what a graph declares for the `count` inputs of a node, while its kernel is made. ONNX Runtime opens a
// model whose shape inference fails; one whose kernel cannot be made it refuses.
OrtStatus* check_declared_elements(const OrtApi* api, const OrtKernelInfo* info, const char* op_type,
                                   const char* const* names, size_t count);

// Reads one input of a call: where its elements are, and its dimensions.
OrtStatus* read_input(const OrtApi* api, const OrtKernelContext* context, size_t index, const void*& data, Dims& dims);

// A dimension of an output: a number, or a name that stands for the same number wherever it occurs.
struct OutputDim {
  static constexpr size_t kNameSize = 128;
  int64_t size = -1;
  char name[kNameSize] = "";
};

// One output dimension from the input dimension (size, name): scaled by multiply / divide, rounded down. An unknown one
// without a name gets one of its own. `size` is one that check_elements() has seen.
OutputDim output_dim(int64_t size, const char* name, int64_t multiply = 1, int64_t divide = 1);

// Sets type and shape of the only output; rank is at most Dims::kMaxRank. Refuses more than kMaxElements elements.
OrtStatus* set_output(const OrtApi* api, OrtShapeInferContext* context, const char* op_type,
                      ONNXTensorElementDataType type, const OutputDim* dims, size_t rank);

// The callbacks are plain functions, so what they answer is part of the function.
template <ONNXTensorElementDataType Type>
ONNXTensorElementDataType ORT_API_CALL element_type(const OrtCustomOp*, size_t) {
  return Type;
}

template <size_t Count>
size_t ORT_API_CALL tensor_count(const OrtCustomOp*) {
  return Count;
}

}  // namespace lit_deploy::ort

#define LIT_RETURN_IF_ERROR(expression)                           \
  do {                                                            \
    if (OrtStatus* lit_status_ = (expression)) return lit_status_; \
  } while (false)

#endif  // LIT_DEPLOY_ONNXRUNTIME_OPERATOR_H_
