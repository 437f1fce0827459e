#include "deformable_token_merging_contract.h"

#include "contract.h"
#include "diagnostics.h"
#include "sizes.h"
#include "tensors.h"

namespace lit_deploy::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr const char* kInputNames[kMergingInputs] = {"x", "offset_weight", "offset_bias"};
constexpr int64_t kOffsets = 8;
constexpr int64_t kTaps = 4;

// Of sizes that check_sizes() has seen.
int64_t times(int64_t size, int64_t factor) { return size < 0 ? kUnknown : size * factor; }
int64_t half_of(int64_t size) { return size < 0 ? kUnknown : size / 2; }

bool fits(const char* name, const Dims& dims, const Dims& expected) {
  return trt::fits(contract::kOpType, name, dims, expected);
}

}  // namespace

bool check_types(const DataType* types) noexcept {
  CudaElement element;
  if (!element_from_type(types[0], element)) {
    complain("DeformableTokenMerging: x is %s, expected float32, float16 or bfloat16; export with --precision fp32, "
             "fp16 or bf16", name_of(types[0]));
    return false;
  }
  for (int32_t i = 1; i < kMergingInputs; ++i) {
    if (types[i] != types[0]) {
      complain("DeformableTokenMerging: %s is %s and x is %s, expected one type for all; export the model again with "
               "one --precision", kInputNames[i], name_of(types[i]), name_of(types[0]));
      return false;
    }
  }
  return true;
}

bool check_sizes(const Dims& x, const Dims& offset_weight, const Dims& offset_bias) noexcept {
  if (!fits("x", x, Dims{4, {kUnknown, kUnknown, kUnknown, kUnknown}})) return false;
  if (!elements_fit(x.d, 4)) {
    complain("DeformableTokenMerging: x has the shape %s, expected %s; use a smaller image or batch",
             text_of(x).characters, kElementsFit);
    return false;
  }
  const int64_t height = x.d[1], width = x.d[2], channels = x.d[3];
  if ((height >= 0 && height < 2) || (width >= 0 && width < 2) || channels == 0) {
    complain("DeformableTokenMerging: x has the shape %s, expected [B, H, W, C] with H and W at least 2 and C at least "
             "1; use a larger image", text_of(x).characters);
    return false;
  }
  return fits("offset_weight", offset_weight, Dims{2, {kOffsets, times(channels, kTaps)}}) &&
         fits("offset_bias", offset_bias, Dims{1, {kOffsets}});
}

bool check_output_size(const Dims& x, const Dims& y) noexcept {
  return fits("y", y, Dims{4, {x.d[0], half_of(x.d[1]), half_of(x.d[2]), times(x.d[3], kTaps)}});
}

}  // namespace lit_deploy::trt
