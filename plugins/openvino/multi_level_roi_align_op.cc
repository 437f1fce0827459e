// lit_deploy::MultiLevelRoiAlign (version 1) as OpenVINO sees it.
#include "multi_level_roi_align/kernel.h"

#include <algorithm>

#include "operator.h"

namespace lit_deploy::openvino {
namespace {

constexpr size_t kInputCount = 1 + kRoiLevels;
constexpr const char* kInputNames[kInputCount] = {"rois", "level0", "level1", "level2", "level3"};
constexpr int64_t kChannelsAPart = 4;

class MultiLevelRoiAlign : public ov::op::Op {
 public:
  static constexpr const char* kType = "MultiLevelRoiAlign";
  OPENVINO_OP("MultiLevelRoiAlign", "lit_deploy")

  MultiLevelRoiAlign() = default;
  MultiLevelRoiAlign(const ov::OutputVector& inputs, int64_t output_size) : Op(inputs), output_size_(output_size) {
    constructor_validate_and_infer_types();
  }

  static ov::OutputVector from_onnx(const ov::frontend::NodeContext& node) {
    check_plugin_version(node, kType);
    return {std::make_shared<MultiLevelRoiAlign>(inputs_of(node), node.get_attribute<int64_t>("output_size"))};
  }

  void validate_and_infer_types() override {
    if (output_size_ < 1 || output_size_ > kRoiMaxOutputSize) {
      fail(kType, "output_size is " + std::to_string(output_size_) + ", expected 1 to " +
                      std::to_string(kRoiMaxOutputSize));
    }
    check_input_count(*this, kType, kInputCount);
    check_element_type(kType, kInputNames[0], get_input_element_type(0),
                       {ov::element::f32, ov::element::f16, ov::element::bf16});
    const ov::element::Type& element = get_input_element_type(1);
    check_element_type(kType, kInputNames[1], element, {ov::element::f32, ov::element::f16});
    std::vector<ov::PartialShape> shapes;
    for (size_t i = 0; i < kInputCount; ++i) {
      shapes.push_back(get_input_partial_shape(i));
      if (i > 1 && element.is_static()) check_element_type(kType, kInputNames[i], get_input_element_type(i), {element});
    }
    set_output_type(0, element, output_shape(shapes));
  }

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
    return std::make_shared<MultiLevelRoiAlign>(inputs, output_size_);
  }

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("output_size", output_size_);
    return true;
  }

  bool has_evaluate() const override { return true; }

  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
    set_shape(outputs[0], output_shape(shapes_of(inputs)).to_shape());
    if (outputs[0].get_size() == 0) return true;
    if (inputs[1].get_element_type() == ov::element::f16) {
      run<uint16_t>(inputs, outputs[0]);
    } else {
      run<float>(inputs, outputs[0]);
    }
    return true;
  }

 private:
  // T is float, or uint16_t for the bits of a half.
  template <class T>
  void run(const ov::TensorVector& inputs, ov::Tensor& output) const {
    RoiAlignShape shape{static_cast<int64_t>(inputs[0].get_shape()[0]), static_cast<int64_t>(inputs[1].get_shape()[1]),
                        {}, {}, output_size_};
    const T* levels[kRoiLevels];
    for (int level = 0; level < kRoiLevels; ++level) {
      const ov::Tensor& map = inputs[1 + level];
      shape.height[level] = static_cast<int64_t>(map.get_shape()[2]);
      shape.width[level] = static_cast<int64_t>(map.get_shape()[3]);
      levels[level] = static_cast<const T*>(map.data());
    }
    const Float32Values rois(inputs[0]);
    const std::unique_ptr<RoiAlignPlan, void (*)(RoiAlignPlan*) noexcept> plan(make_roi_align_plan(shape, rois.data()),
                                                                               free_roi_align_plan);
    if (plan == nullptr) fail(kType, "out of memory");
    T* y = static_cast<T*>(output.data());
    run_parts((shape.channels + kChannelsAPart - 1) / kChannelsAPart, [&](int64_t part) {
      const int64_t begin = part * kChannelsAPart;
      multi_level_roi_align(*plan, levels, y, begin, std::min(begin + kChannelsAPart, shape.channels));
    });
  }

  // Checks the five shapes; what is not known passes.
  ov::PartialShape output_shape(const std::vector<ov::PartialShape>& shapes) const {
    for (size_t i = 0; i < kInputCount; ++i) check_elements(kType, kInputNames[i], shapes[i]);
    if (!shapes[0].compatible({-1, 4})) shape_error(kType, kInputNames[0], shapes[0], "[regions, 4]");
    const bool known = shapes[1].rank().is_static() && shapes[1].size() == 4;
    const ov::Dimension channels = known ? shapes[1][1] : ov::Dimension::dynamic();
    const ov::Dimension some(1, -1);
    for (size_t i = 1; i < kInputCount; ++i) {
      if (!shapes[i].compatible({1, channels, some, some}) || channels == 0) {
        shape_error(kType, kInputNames[i], shapes[i],
                    "[1, channels, height, width], with the channels of level0 and no empty map");
      }
    }
    const ov::Dimension regions = shapes[0].rank().is_static() ? shapes[0][0] : ov::Dimension::dynamic();
    const ov::PartialShape y{regions, channels, output_size_, output_size_};
    check_elements(kType, "the output", y);
    return y;
  }

  int64_t output_size_ = 1;
};

}  // namespace

void add_multi_level_roi_align(Extensions& extensions) { add_operator<MultiLevelRoiAlign>(extensions); }

}  // namespace lit_deploy::openvino
