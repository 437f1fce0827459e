// What liblit_deploy_tensorrt.so exports besides the two functions that TensorRT itself looks for (getCreators and
// setLoggerFinder). Plain C, so that dlsym() and ctypes can use it; callable from any thread at any time.
#ifndef LIT_DEPLOY_TENSORRT_LIT_DEPLOY_TENSORRT_H_
#define LIT_DEPLOY_TENSORRT_LIT_DEPLOY_TENSORRT_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// How many times this process has called `method` of a plugin of this library or of its creator since the library was
// loaded, all of them together: the proof that a build or an inference used them and not the ONNX functions. Names are TensorRT's: getCreators,
// createPlugin, clone, getNbOutputs, getOutputDataTypes, getOutputShapes, supportsFormatCombination, configurePlugin,
// getWorkspaceSize, getFieldsToSerialize, attachToContext, onShapeChange, enqueue. -1 for any other name or NULL.
// A copy of the library that TensorRT unpacks from an engine counts for itself.
int64_t lit_deploy_plugin_calls(const char* method);

// Version under which each plugin is registered: "1". The string lives as long as the library, as does the next one.
const char* lit_deploy_plugin_version(void);

// What the library was built with, for reports: "TensorRT headers 10.9.0.34, CUDA 13.0, architectures 80-real ...".
const char* lit_deploy_plugin_build(void);

#ifdef __cplusplus
}
#endif

#endif  // LIT_DEPLOY_TENSORRT_LIT_DEPLOY_TENSORRT_H_
