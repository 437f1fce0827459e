// Stands in for the TensorRT back end where it was not built.
#include "backend.h"
#include "error.h"

namespace lit_deploy::runtime {

Loaded open_engine(const std::string& path, const Options&) {
  throw Error(LIT_NOT_SUPPORTED,
              path + " needs the TensorRT back end, which this liblit_deploy_runtime.so was built without: " +
                  LIT_DEPLOY_WITHOUT_TENSORRT + "; build it again with that, or open the .onnx file instead");
}

}  // namespace lit_deploy::runtime
