// Types and shapes of tensors as the plugins' checks and messages need them.
#ifndef LIT_DEPLOY_TENSORRT_TENSORS_H_
#define LIT_DEPLOY_TENSORRT_TENSORS_H_

#include <NvInferRuntime.h>

#include <cstdint>

#include "cuda_types.h"

namespace lit_deploy::trt {

constexpr int64_t kUnknown = -1;  // a size that only an inference knows

// Sets `element` to the kernels' name for `type`; false for a type that they do not have.
bool element_from_type(nvinfer1::DataType type, CudaElement& element) noexcept;

const char* name_of(nvinfer1::DataType type) noexcept;

// "[2, ?, 56, 96]": enough room for the eight sizes that Dims can hold.
struct Text {
  char characters[8 * 24];
};
Text text_of(const nvinfer1::Dims& dims) noexcept;

// The sizes that are known while the network is put together; kUnknown for the others.
nvinfer1::Dims dims_from_exprs(const nvinfer1::DimsExprs& exprs) noexcept;

// True if the sizes are as expected, where both are known; else complains about the tensor `name` of the operator.
bool fits(const char* op, const char* name, const nvinfer1::Dims& dims, const nvinfer1::Dims& expected) noexcept;

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_TENSORS_H_
