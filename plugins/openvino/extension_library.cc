// OpenVINO's entry point: Core.add_extension loads this library and asks it for its operators.
//
// Written against OpenVINO's C++ interface, which no two releases share: the library needs the very
// libopenvino.so.<release> that it was built with, which the loader checks by that name.
#include "operator.h"

namespace lit_deploy::openvino {
namespace {

Extensions all_operators() {
  Extensions extensions;
  add_deformable_token_merging(extensions);
  add_relative_position_attention(extensions);
  add_multi_level_roi_align(extensions);
  add_nms(extensions);
  return extensions;
}

}  // namespace
}  // namespace lit_deploy::openvino

OPENVINO_CREATE_EXTENSIONS(lit_deploy::openvino::all_operators())
