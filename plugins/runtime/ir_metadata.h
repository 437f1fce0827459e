// The manifest of an OpenVINO IR, read without its weights and without OpenVINO, whose C library does not tell it.
#ifndef LIT_DEPLOY_RUNTIME_IR_METADATA_H_
#define LIT_DEPLOY_RUNTIME_IR_METADATA_H_

#include <string>

namespace lit_deploy::runtime {

// The JSON of rt_info/lit_deploy/manifest of an .xml file. Throws LIT_FILE_ERROR (it, or the .bin beside it, cannot be
// read) or LIT_BAD_MODEL (not a whole IR, or not one of ours).
std::string ir_metadata(const std::string& path);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_IR_METADATA_H_
