#include "tensors.h"

#include <cstdio>

#include "diagnostics.h"

namespace lit_deploy::trt {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;

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

const char* name_of(DataType type) noexcept {
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

Text text_of(const Dims& dims) noexcept {
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

Dims dims_from_exprs(const DimsExprs& exprs) noexcept {
  Dims dims{};
  dims.nbDims = exprs.nbDims;
  for (int32_t i = 0; i < exprs.nbDims && i < Dims::MAX_DIMS; ++i) {
    dims.d[i] = exprs.d[i]->isConstant() ? exprs.d[i]->getConstantValue() : kUnknown;
  }
  return dims;
}

bool fits(const char* op, const char* name, const Dims& dims, const Dims& expected) noexcept {
  bool same = dims.nbDims == expected.nbDims;
  for (int32_t i = 0; same && i < dims.nbDims; ++i) {
    same = dims.d[i] < 0 || expected.d[i] < 0 || dims.d[i] == expected.d[i];
  }
  if (!same) {
    complain("%s: %s has the shape %s, expected %s; export the model again with lit-deploy export", op, name,
             text_of(dims).characters, text_of(expected).characters);
  }
  return same;
}

}  // namespace lit_deploy::trt
