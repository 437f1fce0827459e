// lit_deploy::Nms (version 1) as OpenVINO sees it.
#include "nms/kernel.h"

#include <sstream>

#include "operator.h"

namespace lit_deploy::openvino {
namespace {

class Nms : public ov::op::Op {
 public:
  static constexpr const char* kType = "Nms";
  OPENVINO_OP("Nms", "lit_deploy")

  Nms() = default;
  Nms(const ov::OutputVector& inputs, const NmsOptions& options) : Op(inputs), options_(options) {
    constructor_validate_and_infer_types();
  }

  static ov::OutputVector from_onnx(const ov::frontend::NodeContext& node) {
    check_plugin_version(node, kType);
    const NmsOptions options{node.get_attribute<float>("iou_threshold"), node.get_attribute<float>("score_threshold"),
                             node.get_attribute<int64_t>("max_output")};
    return {std::make_shared<Nms>(inputs_of(node), options)};
  }

  void validate_and_infer_types() override {
    check_attributes();
    check_input_count(*this, kType, 3);
    for (size_t i = 0; i < 2; ++i) {
      check_element_type(kType, i == 0 ? "boxes" : "scores", get_input_element_type(i),
                         {ov::element::f32, ov::element::f16, ov::element::bf16});
    }
    check_element_type(kType, "classes", get_input_element_type(2), {ov::element::i64, ov::element::i32});
    check_shapes(get_input_partial_shape(0), get_input_partial_shape(1), get_input_partial_shape(2));
    set_output_type(0, ov::element::i64, ov::PartialShape{options_.max_output});
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<Nms>(inputs, options_);
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("iou_threshold", options_.iou_threshold);
    visitor.on_attribute("score_threshold", options_.score_threshold);
    visitor.on_attribute("max_output", options_.max_output);
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    const auto shapes = shapes_of(inputs);
    check_shapes(shapes[0], shapes[1], shapes[2]);
    set_shape(outputs[0], {static_cast<size_t>(options_.max_output)});
    const Float32Values boxes(inputs[0]), scores(inputs[1]);
    const int64_t count = static_cast<int64_t>(inputs[1].get_size());
    std::vector<int64_t> widened;
    const int64_t* classes = nullptr;
    if (inputs[2].get_element_type() == ov::element::i32) {  // the CPU plugin computes with 32-bit integers
      if (count > 0) widened.assign(inputs[2].data<const int32_t>(), inputs[2].data<const int32_t>() + count);
      classes = widened.data();
    } else if (count > 0) {
      classes = inputs[2].data<const int64_t>();
    }
    if (!nms(options_, count, boxes.data(), scores.data(), classes, outputs[0].data<int64_t>())) {
      fail(kType, "out of memory");
    }
    return true;
  }

 private:
  void check_attributes() const {
    std::ostringstream problem;
    if (!(options_.iou_threshold >= 0.0f && options_.iou_threshold <= 1.0f)) {
      problem << "iou_threshold is " << options_.iou_threshold << ", expected 0 to 1";
    } else if (options_.max_output < 1 || options_.max_output > kNmsMaxBoxes) {
      problem << "max_output is " << options_.max_output << ", expected 1 to " << kNmsMaxBoxes;
    }
    if (problem.tellp() > 0) fail(kType, problem.str());
  }

  // What is not known passes.
  static void check_shapes(const ov::PartialShape& boxes, const ov::PartialShape& scores,
                           const ov::PartialShape& classes) {
    check_elements(kType, "boxes", boxes);
    if (!boxes.compatible({-1, 4}) || (boxes.is_static() && boxes[0].get_length() > kNmsMaxBoxes)) {
      shape_error(kType, "boxes", boxes, "[boxes, 4]");
    }
    const ov::PartialShape wanted{boxes.rank().is_static() ? boxes[0] : ov::Dimension::dynamic()};
    if (!scores.compatible(wanted)) shape_error(kType, "scores", scores, "[boxes], as many as there are boxes");
    if (!classes.compatible(wanted)) shape_error(kType, "classes", classes, "[boxes], as many as there are boxes");
  }

  NmsOptions options_{};
};

}  // namespace

void add_nms(Extensions& extensions) { add_operator<Nms>(extensions); }

}  // namespace lit_deploy::openvino
