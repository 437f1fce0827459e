// Which back end runs which kind of file.
#include "backend.h"
#include "model.h"
#include "onnx_metadata.h"

namespace lit_deploy::runtime {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// The back end that was asked for, or the file's first one. `others`: what runs this kind besides, 0 for nothing.
lit_backend chosen(const std::string& path, const char* kind, const Options& options, lit_backend first,
                   lit_backend other = LIT_BACKEND_AUTO) {
  const char* const names[] = {"", "ONNX Runtime", "OpenVINO", "TensorRT"};  // in the order of lit_backend
  const lit_backend asked = options.backend == LIT_BACKEND_AUTO ? first : options.backend;
  if (asked == first || asked == other) {
    if (options.precision_hint.empty() || asked == LIT_BACKEND_OPENVINO) return asked;
    throw Error(LIT_NOT_SUPPORTED, "a precision hint is for OpenVINO, but " + std::string(names[asked]) +
                                       " is to run " + path + "; leave precision_hint of lit_options out, or open the "
                                       "file with LIT_BACKEND_OPENVINO");
  }
  std::string expected = names[first];
  if (other != LIT_BACKEND_AUTO) expected += std::string(" or ") + names[other];
  throw Error(LIT_NOT_SUPPORTED, path + " is " + kind + ", which " + names[options.backend] +
                                     " does not run here; open it with " + expected + ", or with LIT_BACKEND_AUTO");
}

}  // namespace

Loaded open_file(const std::string& path, const Options& options) {
  if (ends_with(path, ".onnx")) {
    const lit_backend backend =
        chosen(path, "an ONNX file", options, LIT_BACKEND_ONNXRUNTIME, LIT_BACKEND_OPENVINO);
    Manifest manifest = manifest_of_onnx(path);
    if (backend == LIT_BACKEND_ONNXRUNTIME) return open_onnxruntime(path, std::move(manifest), options);
    // OpenVINO's reader is not to be trusted with functions: it ends the process on some.
    if (manifest.portable && onnx_has_functions(path)) {
      throw Error(LIT_BAD_MODEL, path + " carries functions, and its manifest says that it has none; export it again");
    }
    return open_openvino(path, std::move(manifest), options);
  }
  if (ends_with(path, ".xml")) {
    chosen(path, "an OpenVINO IR", options, LIT_BACKEND_OPENVINO);
    return open_openvino(path, manifest_of_ir(path), options);
  }
  if (ends_with(path, ".engine") || ends_with(path, ".plan")) {
    chosen(path, "an engine", options, LIT_BACKEND_TENSORRT);
    return open_engine(path, options);
  }
  throw Error(LIT_INVALID_ARGUMENT,
              path + " is no file of lit-deploy by its name; expected .onnx, .engine or .plan, or OpenVINO's .xml");
}

Error other_tensors(const std::string& path) {
  return Error(LIT_BAD_MODEL,
               "the graph of " + path + " has other inputs or outputs than its manifest promises; export it again");
}

Error other_results(const std::string& path) {
  return Error(LIT_RUN_FAILED, path + " returned results of another size than its manifest promises; export it again");
}

}  // namespace lit_deploy::runtime
