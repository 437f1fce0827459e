// Stand-ins for the objects that TensorRT hands to a plugin, and the check that a refusal is explained.
#ifndef LIT_DEPLOY_TESTS_TENSORRT_PLUGIN_FAKES_H_
#define LIT_DEPLOY_TESTS_TENSORRT_PLUGIN_FAKES_H_

#include <NvInferRuntime.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "check.h"

// A size in the shape arithmetic. One that is not constant still has a value, that of some later inference, which only
// the arithmetic may use: the plugin must not ask for it.
class Size final : public nvinfer1::IDimensionExpr {
 public:
  Size(int64_t value, bool constant) : view_(value, constant) { mImpl = &view_; }
  int64_t value() const { return view_.value; }
  bool constant() const { return view_.constant; }

 private:
  struct View final : nvinfer1::apiv::VDimensionExpr {
    View(int64_t v, bool c) : value(v), constant(c) {}
    bool isConstant() const override { return constant; }
    int64_t getConstantValue() const override {
      CHECK(constant, "the plugin asked for a size that is not known at build time");
      return value;
    }
    bool isSizeTensor() const override { return false; }
    int64_t value;
    bool constant;
  };
  View view_;
};

class Builder final : public nvinfer1::IExprBuilder {
 public:
  Builder() { mImpl = &view_; }
  const Size* size(int64_t value, bool constant) { return view_.add(value, constant); }

 private:
  struct View final : nvinfer1::apiv::VExprBuilder {
    const Size* add(int64_t value, bool constant) {
      sizes.push_back(std::make_unique<Size>(value, constant));
      return sizes.back().get();
    }
    const nvinfer1::IDimensionExpr* constant(int64_t value) override { return add(value, true); }
    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op, const nvinfer1::IDimensionExpr& first,
                                              const nvinfer1::IDimensionExpr& second) override {
      const Size& a = static_cast<const Size&>(first);
      const Size& b = static_cast<const Size&>(second);
      const bool known = a.constant() && b.constant();
      if (op == nvinfer1::DimensionOperation::kFLOOR_DIV) return add(a.value() / b.value(), known);
      if (op == nvinfer1::DimensionOperation::kPROD) return add(a.value() * b.value(), known);
      CHECK(false, "unexpected operation %d", static_cast<int>(op));
      return nullptr;
    }
    const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                      const nvinfer1::IDimensionExpr&) override {
      CHECK(false, "the output's shape depends on no data");
      return nullptr;
    }
    std::vector<std::unique_ptr<Size>> sizes;
  };
  View view_;
};

// Neither may be called: the plugin has no use for them, and loggers differ between TensorRT 10 and 11.
struct UntouchableFinder final : nvinfer1::ILoggerFinder {
  nvinfer1::ILogger* findLogger() override {
    CHECK(false, "the plugin used the logger finder");
    return nullptr;
  }
};
struct UntouchableContext final : nvinfer1::IPluginResourceContext {
  nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override {
    CHECK(false, "the plugin used the context's allocator");
    return nullptr;
  }
  nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override {
    CHECK(false, "the plugin used the context's error recorder");
    return nullptr;
  }
};

// What `action` prints on stderr.
template <typename Action>
std::string complaint(Action action) {
  std::FILE* file = std::tmpfile();
  std::fflush(stderr);
  const int saved = dup(2);
  dup2(fileno(file), 2);
  action();
  std::fflush(stderr);
  dup2(saved, 2);
  close(saved);
  std::rewind(file);
  char text[2048];
  const size_t length = std::fread(text, 1, sizeof text, file);
  std::fclose(file);
  return std::string(text, length);
}

// The call fails and says why in one line that holds `fragment`.
#define CHECK_REFUSED(call, fragment)                                                                           \
  do {                                                                                                          \
    bool refused = false;                                                                                       \
    const std::string said = complaint([&] { refused = !(call); });                                             \
    CHECK(refused, "expected a refusal that mentions %s", fragment);                                            \
    CHECK(said.rfind("lit-deploy plugin: ", 0) == 0 && said.find('\n') == said.size() - 1 &&                    \
              said.find(fragment) != std::string::npos,                                                         \
          "expected one line that mentions \"%s\", received \"%s\"", fragment, said.c_str());                   \
  } while (false)

#endif  // LIT_DEPLOY_TESTS_TENSORRT_PLUGIN_FAKES_H_
