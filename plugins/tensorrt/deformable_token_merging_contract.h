// What the operator demands of its tensors, said in TensorRT's terms. Every check complains in words on stderr.
#ifndef LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_CONTRACT_H_
#define LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_CONTRACT_H_

#include <NvInferRuntime.h>

#include <cstdint>

namespace lit_deploy::trt {

constexpr int32_t kMergingInputs = 3;  // x, offset_weight, offset_bias

// True if `types`, those of the inputs, are one and the same of float32, float16 and bfloat16.
bool check_types(const nvinfer1::DataType* types) noexcept;

// True if the sizes of the inputs can belong together: x [B, H, W, C] with H, W >= 2, offset_weight [8, 4*C],
// offset_bias [8]. -1 stands for a size that is not known yet and fits anything.
bool check_sizes(const nvinfer1::Dims& x, const nvinfer1::Dims& offset_weight,
                 const nvinfer1::Dims& offset_bias) noexcept;

// True if y is [B, H/2, W/2, 4*C] for an x that check_sizes() has passed; -1 as above.
bool check_output_size(const nvinfer1::Dims& x, const nvinfer1::Dims& y) noexcept;

}  // namespace lit_deploy::trt

#endif  // LIT_DEPLOY_TENSORRT_DEFORMABLE_TOKEN_MERGING_CONTRACT_H_
