#include "deformable_token_merging_contract.h"

#include <cstdio>

#include "diagnostics.h"
#include "sizes.h"

namespace lit_deploy::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr const char* kInputNames[kInputs] = {"x", "offset_weight", "offset_bias"};
constexpr int64_t kUnknown = -1;
constexpr int64_t kOffsets = 8;
constexpr int64_t kTaps = 4;

const char* name_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return "float32";
    case DataType::kHALF:
      return "float16";
    case DataType::kBF16:
      return "bfloat16";
    case DataType::kINT8:
      return "int8";
    case DataType::kINT32:
      return "int32";
    case DataType::kINT64:
      return "int64";
    case DataType::kFP8:
      return "float8";
    default:
      return "another type";
  }
}

// "[2, ?, 56, 96]": enough room for the eight sizes that Dims can hold.
struct Text {
  char characters[8 * 24];
};

Text text_of(const Dims& dims) {
  Text text;
  int used = std::snprintf(text.characters, sizeof text.characters, "[");
  for (int32_t i = 0; i < dims.nbDims && i < Dims::MAX_DIMS; ++i) {
    char* end = text.characters + used;
    const size_t left = sizeof text.characters - static_cast<size_t>(used);
    const char* comma = i == 0 ? "" : ", ";
    used += dims.d[i] < 0 ? std::snprintf(end, left, "%s?", comma)
                          : std::snprintf(end, left, "%s%lld", comma, static_cast<long long>(dims.d[i]));
  }
  std::snprintf(text.characters + used, sizeof text.characters - static_cast<size_t>(used), "]");
  return text;
}

// Of sizes that check_sizes() has seen.
int64_t times(int64_t size, int64_t factor) { return size < 0 ? kUnknown : size * factor; }
int64_t half_of(int64_t size) { return size < 0 ? kUnknown : size / 2; }

bool fits(const char* name, const Dims& dims, const Dims& expected) {
  bool same = dims.nbDims == expected.nbDims;
  for (int32_t i = 0; same && i < dims.nbDims; ++i) {
    same = dims.d[i] < 0 || expected.d[i] < 0 || dims.d[i] == expected.d[i];
  }
  if (!same) {
    complain("DeformableTokenMerging: %s has the shape %s, expected %s; export the model again with lit-deploy export",
             name, text_of(dims).characters, text_of(expected).characters);
  }
  return same;
}

}  // namespace

bool element_from_type(DataType type, CudaElement& element) noexcept {
  switch (type) {
    case DataType::kFLOAT:
      element = CudaElement::kFloat32;
      return true;
    case DataType::kHALF:
      element = CudaElement::kFloat16;
      return true;
    case DataType::kBF16:
      element = CudaElement::kBFloat16;
      return true;
    default:
      return false;
  }
}

bool check_types(const DataType* types) noexcept {
  CudaElement element;
  if (!element_from_type(types[0], element)) {
    complain("DeformableTokenMerging: x is %s, expected float32, float16 or bfloat16; export with --precision fp32, "
             "fp16 or bf16", name_of(types[0]));
    return false;
  }
  for (int32_t i = 1; i < kInputs; ++i) {
    if (types[i] != types[0]) {
      complain("DeformableTokenMerging: %s is %s and x is %s, expected one type for all; export the model again with "
               "one --precision", kInputNames[i], name_of(types[i]), name_of(types[0]));
      return false;
    }
  }
  return true;
}

bool check_counts(int32_t inputs, int32_t outputs) noexcept {
  if (inputs == kInputs && outputs == kOutputs) return true;
  complain("DeformableTokenMerging: %d inputs and %d outputs, expected x, offset_weight, offset_bias and one output",
           inputs, outputs);
  return false;
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
