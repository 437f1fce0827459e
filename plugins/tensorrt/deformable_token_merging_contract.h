// What the operator demands of its tensors, said in TensorRT's terms. Every check complains in words on stderr.
#ifndef LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_CONTRACT_H_
#define LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_CONTRACT_H_

#include <NvInferRuntime.h>

#include <cstdint>

#include "deformable_token_merging/cuda.h"

namespace lit_deploy::trt {

constexpr int32_t kInputs = 3;   // x, offset_weight, offset_bias
constexpr int32_t kOutputs = 1;  // y

// Sets `element` to the kernel's name for `type`; false for a type that the operator does not have.
bool element_from_type(nvinfer1::DataType type, CudaElement& element) noexcept;

// True if `types`, those of the inputs, are one and the same of float32, float16 and bfloat16.
bool check_types(const nvinfer1::DataType* types) noexcept;

// True if the tensors are as many as the operator has.
bool check_counts(int32_t inputs, int32_t outputs) noexcept;

// True if the sizes of the inputs can belong together: x [B, H, W, C] with H, W >= 2, offset_weight [8, 4*C],
// offset_bias [8]. -1 stands for a size that is not known yet and fits anything.
bool check_sizes(const nvinfer1::Dims& x, const nvinfer1::Dims& offset_weight,
                 const nvinfer1::Dims& offset_bias) noexcept;

// True if y is [B, H/2, W/2, 4*C] for an x that check_sizes() has passed; -1 as above.
bool check_output_size(const nvinfer1::Dims& x, const nvinfer1::Dims& y) noexcept;

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_CONTRACT_H_
