// What every operator of this library shares.
#include "operator.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "half.h"
#include "sizes.h"

namespace lit_deploy::openvino {
namespace {

// Widening is bound by memory: parts large enough that starting one costs nothing.
constexpr int64_t kValuesAPart = 1 << 14;

// "[2, ?, 14, 384]", with ? for an unknown dimension, as ONNX Runtime's half of this library prints it.
std::string print_shape(const ov::PartialShape& shape) {
  if (shape.rank().is_dynamic()) return "of unknown rank";
  std::ostringstream text;
  for (const ov::Dimension& dim : shape) {
    text << (text.tellp() > 0 ? ", " : "[");
    if (dim.is_static()) {
      text << dim.get_length();
    } else {
      text << '?';
    }
  }
  return text.tellp() > 0 ? text.str() + "]" : "[]";
}

float float_from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// From the bits: OpenVINO's own types call into its library for every value.
template <class Convert>
void widen(const ov::Tensor& tensor, int64_t count, float* out, const Convert& convert) {
  const uint16_t* bits = static_cast<const uint16_t*>(tensor.data());
  run_parts((count + kValuesAPart - 1) / kValuesAPart, [=](int64_t part) {
    const int64_t end = std::min(count, (part + 1) * kValuesAPart);
    for (int64_t i = part * kValuesAPart; i < end; ++i) out[i] = convert(bits[i]);
  });
}

}  // namespace

void fail(const char* type, const std::string& problem) { OPENVINO_THROW(kDomain, "::", type, ": ", problem); }

void shape_error(const char* type, const char* input, const ov::PartialShape& received, const std::string& expected) {
  fail(type, std::string(input) + " has shape " + print_shape(received) + ", expected " + expected);
}

ov::OutputVector inputs_of(const ov::frontend::NodeContext& node) {
  ov::OutputVector inputs;
  for (size_t i = 0; i < node.get_input_size(); ++i) inputs.push_back(node.get_input(static_cast<int>(i)));
  return inputs;
}

void check_plugin_version(const ov::frontend::NodeContext& node, const char* type) {
  const std::string version = node.get_attribute<std::string>("plugin_version", contract::kOpVersionText);
  if (version == contract::kOpVersionText) return;
  fail(type, "the model asks for plugin_version \"" + version + "\", this library implements version \"" +
                 contract::kOpVersionText +
                 "\"; install the lit-deploy release that exported the model, or export it again");
}

void check_input_count(const ov::Node& node, const char* type, size_t count) {
  if (node.get_input_size() == count) return;
  fail(type, "the node has " + std::to_string(node.get_input_size()) + " inputs, expected " + std::to_string(count));
}

void check_element_type(const char* type, const char* input, const ov::element::Type& received,
                        std::initializer_list<ov::element::Type_t> allowed) {
  if (received.is_dynamic() || std::find(allowed.begin(), allowed.end(), received) != allowed.end()) return;
  std::string expected;
  for (const ov::element::Type_t& one : allowed) {
    if (!expected.empty()) expected += &one + 1 == allowed.end() ? " or " : ", ";
    expected += ov::element::Type(one).get_type_name();
  }
  fail(type, std::string(input) + " has the element type " + received.get_type_name() + ", expected " + expected);
}

void check_elements(const char* type, const char* name, const ov::PartialShape& shape) {
  if (shape.rank().is_dynamic()) return;
  std::vector<int64_t> sizes;
  for (const ov::Dimension& dim : shape) sizes.push_back(dim.is_static() ? dim.get_length() : -1);
  if (!elements_fit(sizes.data(), sizes.size())) shape_error(type, name, shape, kElementsFit);
}

ov::Dimension divided(const ov::Dimension& dim, int64_t divisor) {
  const int64_t most = dim.get_max_length();  // -1 without a limit
  return ov::Dimension(dim.get_min_length() / divisor, most < 0 ? most : most / divisor);
}

std::vector<ov::PartialShape> shapes_of(const ov::TensorVector& tensors) {
  std::vector<ov::PartialShape> shapes;
  for (const ov::Tensor& tensor : tensors) shapes.emplace_back(tensor.get_shape());
  return shapes;
}

Float32Values::Float32Values(const ov::Tensor& tensor) : data_(nullptr) {
  const int64_t count = static_cast<int64_t>(tensor.get_size());
  if (count == 0) return;
  if (tensor.get_element_type() == ov::element::f32) {
    data_ = tensor.data<const float>();
    return;
  }
  widened_.reset(new float[static_cast<size_t>(count)]);
  if (tensor.get_element_type() == ov::element::f16) {
    widen(tensor, count, widened_.get(), [](uint16_t bits) { return float_from_half(bits); });
  } else {
    widen(tensor, count, widened_.get(), [](uint16_t bits) { return float_from_bfloat16(bits); });
  }
  data_ = widened_.get();
}

void narrow_to_bfloat16(const float* values, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out[i] = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40u : rounded);
  }
}

}  // namespace lit_deploy::openvino
