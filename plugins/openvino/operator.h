// What every operator of this library shares: making it known to OpenVINO, checks, messages, threads.
#ifndef LIT_DEPLOY_OPENVINO_OPERATOR_H_
#define LIT_DEPLOY_OPENVINO_OPERATOR_H_

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include <openvino/core/op_extension.hpp>
#include <openvino/core/parallel.hpp>
#include <openvino/frontend/onnx/extension/conversion.hpp>
#include <openvino/op/op.hpp>

#include "contract.h"

namespace lit_deploy::openvino {

using contract::kDomain;
using Extensions = std::vector<ov::Extension::Ptr>;

// A file each.
void add_deformable_token_merging(Extensions& extensions);
void add_relative_position_attention(Extensions& extensions);
void add_multi_level_roi_align(Extensions& extensions);
void add_nms(Extensions& extensions);

// Makes `Op` known twice: to OpenVINO, which reads it from its own files, and to the reader of ONNX files, which asks
// for extensions before it looks at a function of the same name in the file.
template <class Op>
void add_operator(Extensions& extensions) {
  extensions.push_back(std::make_shared<ov::OpExtension<Op>>());
  extensions.push_back(
      std::make_shared<ov::frontend::onnx::ConversionExtension>(Op::kType, kDomain, Op::from_onnx));
}

// Throws "<domain>::<type>: <problem>". The sentence is the last line of what OpenVINO reports.
[[noreturn]] void fail(const char* type, const std::string& problem);

// Throws "<domain>::<type>: <input> has shape [2, ?, 14, 384], expected <expected>".
[[noreturn]] void shape_error(const char* type, const char* input, const ov::PartialShape& received,
                              const std::string& expected);

// All inputs of a node of an ONNX file.
ov::OutputVector inputs_of(const ov::frontend::NodeContext& node);

// Refuses an ONNX node whose plugin_version, which is there for TensorRT, is not ours; one without it is accepted.
void check_plugin_version(const ov::frontend::NodeContext& node, const char* type);

// Refuses a node that has not `count` inputs.
void check_input_count(const ov::Node& node, const char* type, size_t count);

// Refuses an input of an element type that is not `allowed`; one that is not known yet passes.
void check_element_type(const char* type, const char* input, const ov::element::Type& received,
                        std::initializer_list<ov::element::Type_t> allowed);

// Refuses a tensor, of which only sizes that are known count, with more elements than kMaxElements: to be asked before
// anything is calculated with its sizes, as OpenVINO multiplies them without looking.
void check_elements(const char* type, const char* name, const ov::PartialShape& shape);

// `dim` over `divisor`, rounded down. (OpenVINO's own division rounds the lower end of a range up.)
ov::Dimension divided(const ov::Dimension& dim, int64_t divisor);

// The shapes of the tensors of one call, as the checks want them.
std::vector<ov::PartialShape> shapes_of(const ov::TensorVector& tensors);

// Gives the output its shape where it does not have it.
inline void set_shape(ov::Tensor& output, const ov::Shape& shape) {
  if (output.get_shape() != shape) output.set_shape(shape);
}

// Runs `part(i)` for every i below `count`. OpenVINO calls evaluate() inside the arena of the stream that runs the
// inference, so the threads are those of INFERENCE_NUM_THREADS, and they wait for nothing that is not theirs.
template <class Part>
void run_parts(int64_t count, const Part& part) {
#if OV_THREAD_USE_TBB
  // Handed out as threads become free: ov::parallel_for deals all parts out beforehand.
  tbb::parallel_for(int64_t{0}, count, part);
#else
  ov::parallel_for(count, part);
#endif
}

// The float32 values of a float32, float16 or bfloat16 tensor: its own, or widened ones.
class Float32Values {
 public:
  explicit Float32Values(const ov::Tensor& tensor);
  const float* data() const { return data_; }

 private:
  std::unique_ptr<float[]> widened_;
  const float* data_;
};

// Rounds to nearest even; NaN stays NaN. `out` is the bits. (ov::bfloat16 drops most of what it should round up.)
void narrow_to_bfloat16(const float* values, int64_t count, uint16_t* out);

}  // namespace lit_deploy::openvino

#endif  // LIT_DEPLOY_OPENVINO_OPERATOR_H_
