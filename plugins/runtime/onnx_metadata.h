// One entry of the metadata of an .onnx file, read without its weights.
#ifndef LIT_DEPLOY_RUNTIME_ONNX_METADATA_H_
#define LIT_DEPLOY_RUNTIME_ONNX_METADATA_H_

#include <string>

namespace lit_deploy::runtime {

// The value of `key` in metadata_props. Throws LIT_FILE_ERROR (cannot be read) or LIT_BAD_MODEL (not a whole ONNX file,
// or no such entry).
std::string onnx_metadata(const std::string& path, const std::string& key);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_ONNX_METADATA_H_
