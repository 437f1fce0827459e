// lit_deploy::DeformableTokenMerging (version 1) as OpenVINO sees it.
#include "deformable_token_merging/kernel.h"

#include "operator.h"

namespace lit_deploy::openvino {
namespace {

class DeformableTokenMerging : public ov::op::Op {
 public:
  static constexpr const char* kType = contract::kOpType;
  OPENVINO_OP("DeformableTokenMerging", "lit_deploy")

  DeformableTokenMerging() = default;
  explicit DeformableTokenMerging(const ov::OutputVector& inputs) : Op(inputs) {
    constructor_validate_and_infer_types();
  }

  static ov::OutputVector from_onnx(const ov::frontend::NodeContext& node) {
    check_plugin_version(node, kType);
    return {std::make_shared<DeformableTokenMerging>(inputs_of(node))};
  }

  void validate_and_infer_types() override {
    check_input_count(*this, kType, 3);
    const ov::element::Type& element = get_input_element_type(0);
    check_element_type(kType, "x", element, {ov::element::f32, ov::element::f16, ov::element::bf16});
    if (element.is_static()) {
      check_element_type(kType, "offset_weight", get_input_element_type(1), {element});
      check_element_type(kType, "offset_bias", get_input_element_type(2), {element});
    }
    set_output_type(0, element,
                    output_shape(get_input_partial_shape(0), get_input_partial_shape(1), get_input_partial_shape(2)));
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<DeformableTokenMerging>(inputs);
  }

  bool visit_attributes(ov::AttributeVisitor&) override { return true; }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const auto shapes = shapes_of(inputs);
    set_shape(outputs[0], output_shape(shapes[0], shapes[1], shapes[2]).to_shape());
    if (outputs[0].get_size() == 0) return true;
    const ov::Shape& x = inputs[0].get_shape();
    const MergingShape shape{static_cast<int64_t>(x[0]), static_cast<int64_t>(x[1]), static_cast<int64_t>(x[2]),
                             static_cast<int64_t>(x[3])};
    switch (inputs[0].get_element_type()) {
      case ov::element::f32:
        run<float>(shape, inputs, outputs[0]);
        return true;
      case ov::element::f16:
        run<uint16_t>(shape, inputs, outputs[0]);
        return true;
      case ov::element::bf16:
        run_bfloat16(shape, inputs, static_cast<uint16_t*>(outputs[0].data()));
        return true;
      default:
        return false;
    }
  }

 private:
  // T is float, or uint16_t for the bits of a half.
  template <class T>
  static void run(const MergingShape& shape, const ov::TensorVector& inputs, ov::Tensor& output) {
    const T* x = static_cast<const T*>(inputs[0].data());
    const T* offset_weight = static_cast<const T*>(inputs[1].data());
    const T* offset_bias = static_cast<const T*>(inputs[2].data());
    T* y = static_cast<T*>(output.data());
    run_parts(shape.output_rows(), [&](int64_t row) {
      deformable_token_merging(shape, x, offset_weight, offset_bias, y, row, row + 1);
    });
  }

  // The kernel has no bfloat16 of its own. Widening is exact and the result is rounded once: the same operator.
  static void run_bfloat16(const MergingShape& shape, const ov::TensorVector& inputs, uint16_t* y) {
    const Float32Values x(inputs[0]), offset_weight(inputs[1]), offset_bias(inputs[2]);
    const int64_t row_values = shape.output_width() * 4 * shape.channels;
    const int64_t rows = shape.output_rows();
    const std::unique_ptr<float[]> wide(new float[static_cast<size_t>(rows * row_values)]);
    run_parts(rows, [&](int64_t row) {
      deformable_token_merging(shape, x.data(), offset_weight.data(), offset_bias.data(), wide.get(), row, row + 1);
      narrow_to_bfloat16(wide.get() + row * row_values, row_values, y + row * row_values);
    });
  }

  // Checks the three shapes; what is not known passes.
  static ov::PartialShape output_shape(const ov::PartialShape& x, const ov::PartialShape& offset_weight,
                                       const ov::PartialShape& offset_bias) {
    check_elements(kType, "x", x);
    if (!x.rank().compatible(4)) shape_error(kType, "x", x, "[batch, height, width, channels]");
    const ov::PartialShape map = x.rank().is_static() ? x : ov::PartialShape::dynamic(4);
    const auto below = [](const ov::Dimension& dim, int64_t least) {
      return dim.get_max_length() >= 0 && dim.get_max_length() < least;
    };
    if (below(map[1], 2) || below(map[2], 2) || below(map[3], 1)) {
      shape_error(kType, "x", x, "[batch, height, width, channels] with height and width of at least 2");
    }
    const bool known = map[3].is_static();
    const ov::Dimension columns = known ? ov::Dimension(4 * map[3].get_length()) : ov::Dimension::dynamic();
    if (!offset_weight.compatible({8, columns})) {
      const std::string size = known ? std::to_string(columns.get_length()) : "";
      shape_error(kType, "offset_weight", offset_weight,
                  known ? "[8, " + size + "], which is [8, 4 * channels of x]" : "[8, 4 * channels]");
    }
    if (!offset_bias.compatible({8})) shape_error(kType, "offset_bias", offset_bias, "[8]");
    const ov::Dimension width = !known && offset_weight.rank().is_static() ? offset_weight[1] : columns;
    const ov::PartialShape y{map[0], divided(map[1], 2), divided(map[2], 2), width};
    check_elements(kType, "the output", y);
    return y;
  }
};

}  // namespace

void add_deformable_token_merging(Extensions& extensions) { add_operator<DeformableTokenMerging>(extensions); }

}  // namespace lit_deploy::openvino
