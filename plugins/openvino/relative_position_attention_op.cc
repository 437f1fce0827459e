// lit_deploy::RelativePositionAttention (version 1) as OpenVINO sees it.
#include "relative_position_attention/kernel.h"

#include <optional>

#include "operator.h"

namespace lit_deploy::openvino {
namespace {

constexpr const char* kQkvShape = "[batch, tokens, 3 * channels]";
const ov::PartialShape kNoTable{0, 0, 0};

class RelativePositionAttention : public ov::op::Op {
 public:
  static constexpr const char* kType = "RelativePositionAttention";
  OPENVINO_OP("RelativePositionAttention", "lit_deploy")

  RelativePositionAttention() = default;
  RelativePositionAttention(const ov::OutputVector& inputs, int64_t heads, float scale)
      : Op(inputs), heads_(heads), scale_(scale) {
    constructor_validate_and_infer_types();
  }

  static ov::OutputVector from_onnx(const ov::frontend::NodeContext& node) {
    check_plugin_version(node, kType);
    ov::OutputVector inputs = inputs_of(node);
    const int64_t heads = node.get_attribute<int64_t>("num_heads");
    // OpenVINO's readers make a scalar of a constant without elements, which is how an ONNX file says "no table".
    if (inputs.size() == 2 && inputs[1].get_partial_shape() == ov::PartialShape{}) inputs.pop_back();
    return {std::make_shared<RelativePositionAttention>(inputs, heads, node.get_attribute<float>("scale"))};
  }

  void validate_and_infer_types() override {
    if (heads_ < 1) fail(kType, "num_heads is " + std::to_string(heads_) + ", expected at least 1");
    const bool biased = get_input_size() != 1;
    if (biased) check_input_count(*this, kType, 2);
    const ov::element::Type& element = get_input_element_type(0);
    check_element_type(kType, "qkv", element, {ov::element::f32, ov::element::f16, ov::element::bf16});
    if (biased) {
      check_element_type(kType, "table", get_input_element_type(1),
                         {ov::element::f32, ov::element::f16, ov::element::bf16});
    }
    const ov::PartialShape& qkv = get_input_partial_shape(0);
    const ov::PartialShape table = biased ? get_input_partial_shape(1) : kNoTable;
    check_elements(kType, "qkv", qkv);
    check_elements(kType, "table", table);
    if (qkv.is_static() && table.is_static()) call_shape(qkv, table);
    if (!qkv.rank().compatible(3)) shape_error(kType, "qkv", qkv, kQkvShape);
    const ov::PartialShape tokens = qkv.rank().is_static() ? qkv : ov::PartialShape::dynamic(3);
    if (tokens[2].is_static()) check_width(qkv);
    set_output_type(0, element, {tokens[0], tokens[1], divided(tokens[2], 3)});
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<RelativePositionAttention>(inputs, heads_, scale_);
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("num_heads", heads_);
    visitor.on_attribute("scale", scale_);
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const ov::Shape& qkv = inputs[0].get_shape();
    const bool biased = inputs.size() != 1;
    const AttentionShape shape = call_shape(qkv, biased ? ov::PartialShape(inputs[1].get_shape()) : kNoTable);
    set_shape(outputs[0], {qkv[0], qkv[1], qkv[2] / 3});
    if (outputs[0].get_size() == 0) return true;
    AttentionElement element;
    switch (inputs[0].get_element_type()) {
      case ov::element::f32:
        element = AttentionElement::kFloat32;
        break;
      case ov::element::f16:
        element = AttentionElement::kFloat16;
        break;
      case ov::element::bf16:
        element = AttentionElement::kBFloat16;
        break;
      default:
        return false;
    }
    std::optional<Float32Values> table;
    if (biased) table.emplace(inputs[1]);
    const float* bias = biased ? table->data() : nullptr;
    const void* tokens = inputs[0].data();
    void* y = outputs[0].data();
    run_parts(attention_tasks(shape), [&](int64_t task) {
      relative_position_attention(shape, element, scale_, tokens, bias, y, task, task + 1);
    });
    return true;
  }

 private:
  // Checks the last dimension, which is known: a number that three, the heads and the kernel can be divided by.
  void check_width(const ov::PartialShape& qkv) const {
    const int64_t width = qkv[2].get_length();
    const std::string heads = std::to_string(heads_);
    if (width < 1 || width % 3 != 0 || width / 3 % heads_ != 0) {
      shape_error(kType, "qkv", qkv, std::string(kQkvShape) + " with channels a multiple of num_heads = " + heads);
    }
    if (width / 3 / heads_ > kMaxAttentionHeadDim) {
      shape_error(kType, "qkv", qkv,
                  "at most " + std::to_string(kMaxAttentionHeadDim) + " channels a head (num_heads is " + heads +
                      "); leave the library out for this model: --no-library");
    }
  }

  // Checks two known shapes and tells the sizes from them.
  AttentionShape call_shape(const ov::PartialShape& qkv, const ov::PartialShape& table) const {
    check_elements(kType, "qkv", qkv);
    check_elements(kType, "table", table);
    if (!qkv.rank().compatible(3)) shape_error(kType, "qkv", qkv, kQkvShape);
    check_width(qkv);
    const int64_t tokens = qkv[1].get_length();
    AttentionShape shape{qkv[0].get_length(), tokens, heads_, qkv[2].get_length() / 3 / heads_, 0, 0};
    bool fits = table.size() == 3;
    if (fits && ov::shape_size(table.to_shape()) == 0) return shape;
    if (fits) {
      shape.rows = (table[1].get_length() + 1) / 2;
      shape.columns = (table[2].get_length() + 1) / 2;
      // Divided, not multiplied: no product of two sizes from a file can overflow.
      fits = table[0].get_length() == heads_ && table[1].get_length() % 2 == 1 && table[2].get_length() % 2 == 1 &&
             tokens % shape.rows == 0 && tokens / shape.rows == shape.columns;
    }
    if (!fits) {
      shape_error(kType, "table", table,
                  "[" + std::to_string(heads_) + ", 2 * height - 1, 2 * width - 1] with height * width = " +
                      std::to_string(tokens) + " tokens, or no elements");
    }
    return shape;
  }

  int64_t heads_ = 1;
  float scale_ = 1.0f;
};

}  // namespace

void add_relative_position_attention(Extensions& extensions) { add_operator<RelativePositionAttention>(extensions); }

}  // namespace lit_deploy::openvino
