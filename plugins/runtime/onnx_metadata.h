// What an .onnx file says about itself, read without its weights.
#ifndef LIT_DEPLOY_RUNTIME_ONNX_METADATA_H_
#define LIT_DEPLOY_RUNTIME_ONNX_METADATA_H_

#include <string>

namespace lit_deploy::runtime {

// The value of `key` in metadata_props. Throws LIT_FILE_ERROR (cannot be read) or LIT_BAD_MODEL (not a whole ONNX file,
// or no such entry).
std::string onnx_metadata(const std::string& path, const std::string& key);

// Whether it carries functions of its own, as files do whose operators are not inlined. Throws the same.
bool onnx_has_functions(const std::string& path);

}  // namespace lit_deploy::runtime

#endif  // LIT_DEPLOY_RUNTIME_ONNX_METADATA_H_
