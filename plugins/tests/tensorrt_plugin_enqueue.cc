// enqueue() on a real device: the golden cases' tokens and offsets in every type, against the double-precision oracle.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "check.h"
#include "golden_file.h"
#include "half.h"
#include "oracle.h"
#include "tensorrt_plugin_fakes.h"
#include "tensorrt_plugin_harness.h"

namespace {

using lit_deploy::MergingShape;
using nvinfer1::DataType;

#define CHECK_CUDA(call)                                                \
  do {                                                                  \
    const cudaError_t error = (call);                                   \
    CHECK(error == cudaSuccess, "%s", cudaGetErrorString(error));       \
  } while (false)

uint16_t bfloat16_from_float(float value) {  // to nearest even; the cases hold no NaN
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float float_from_bfloat16(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

size_t size_of(DataType type) { return type == DataType::kFLOAT ? 4 : 2; }

// Half a unit in the last place, relative: the one rounding that the operator is allowed.
double rounding(DataType type) {
  return type == DataType::kFLOAT ? 0.0 : type == DataType::kHALF ? 0x1p-11 : 0x1p-8;
}

std::vector<unsigned char> encoded(DataType type, const std::vector<float>& values) {
  std::vector<unsigned char> bytes(values.size() * size_of(type));
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == DataType::kFLOAT) {
      std::memcpy(&bytes[4 * i], &values[i], 4);
    } else {
      const uint16_t bits =
          type == DataType::kHALF ? lit_deploy::half_from_float(values[i]) : bfloat16_from_float(values[i]);
      std::memcpy(&bytes[2 * i], &bits, 2);
    }
  }
  return bytes;
}

std::vector<double> decoded(DataType type, const std::vector<unsigned char>& bytes) {
  std::vector<double> values;
  for (size_t i = 0; i < bytes.size(); i += size_of(type)) {
    if (type == DataType::kFLOAT) {
      float value;
      std::memcpy(&value, &bytes[i], 4);
      values.push_back(static_cast<double>(value));
    } else {
      uint16_t bits;
      std::memcpy(&bits, &bytes[i], 2);
      values.push_back(static_cast<double>(type == DataType::kHALF ? lit_deploy::float_from_half(bits)
                                                                   : float_from_bfloat16(bits)));
    }
  }
  return values;
}

class DeviceBuffer {
 public:
  explicit DeviceBuffer(const std::vector<unsigned char>& bytes) {
    CHECK_CUDA(cudaMalloc(&data_, bytes.size()));
    CHECK_CUDA(cudaMemcpy(data_, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
  }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { cudaFree(data_); }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

void test_case(const Library& library, nvinfer1::IPluginV3OneRuntime& runtime, cudaStream_t stream, DataType type,
               const MergingCase& c, size_t index) {
  const MergingShape& s = c.shape;
  const std::vector<unsigned char> host[] = {encoded(type, c.x), encoded(type, c.offset_weight),
                                             encoded(type, c.offset_bias)};
  const std::vector<double> expected =
      oracle(s, decoded(type, host[0]), decoded(type, host[1]), decoded(type, host[2]));
  // 0xff is NaN in every type: what the kernel does not write is noticed.
  std::vector<unsigned char> result(expected.size() * size_of(type), 0xff);
  const DeviceBuffer x(host[0]), offset_weight(host[1]), offset_bias(host[2]), y(result);

  const Tensors t = tensors(type, s.batch, s.height, s.width, s.channels);
  const void* inputs[] = {x.data(), offset_weight.data(), offset_bias.data()};
  void* outputs[] = {y.data()};
  const int64_t before = library.calls("enqueue");
  CHECK(runtime.onShapeChange(t.in, 3, t.out, 1) == 0, "golden case %zu", index);
  CHECK(runtime.enqueue(t.in, t.out, inputs, outputs, nullptr, stream) == 0, "golden case %zu", index);
  CHECK(library.calls("enqueue") == before + 1, "the call is on record");
  CHECK_CUDA(cudaStreamSynchronize(stream));
  CHECK_CUDA(cudaMemcpy(result.data(), y.data(), result.size(), cudaMemcpyDeviceToHost));

  const std::vector<double> received = decoded(type, result);
  double scale = 0.0;
  for (double value : expected) scale = std::fmax(scale, std::fabs(value));
  size_t wrong = 0, first = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double allowed = 5e-6 * scale + rounding(type) * std::fabs(expected[i]) + 0x1p-25;
    if (std::fabs(received[i] - expected[i]) <= allowed) continue;  // false for NaN
    if (wrong++ == 0) first = i;
  }
  CHECK(wrong == 0, "golden case %zu, %s: %zu of %zu elements, the first at %zu: %g, expected %g", index, name_of(type),
        wrong, expected.size(), first, received[first], expected[first]);
}

// An engine that is run where there is no GPU gets an error code and a sentence; nothing crashes.
void test_enqueue_without_device(const Library& library, cudaError_t error) {
  const Plugin plugin(library.creator->createPlugin("layer", nullptr, nvinfer1::TensorRTPhase::kRUNTIME));
  for (DataType type : kTypes) {
    const Tensors t = tensors(type, 1, 4, 4, 8);
    alignas(16) static float memory[512];
    const void* inputs[] = {memory, memory, memory};
    void* outputs[] = {memory};
    CHECK_REFUSED(plugin.runtime->enqueue(t.in, t.out, inputs, outputs, nullptr, nullptr) == 0,
                  "the kernel for x [1, 4, 4, 8] could not be launched: ");
    if (error == cudaErrorInsufficientDriver) {  // of no driver as well: another one, or no plugin, is what mends it
      CHECK_REFUSED(plugin.runtime->enqueue(t.in, t.out, inputs, outputs, nullptr, nullptr) == 0,
                    "(cudaErrorInsufficientDriver); update the driver, ");
    }
  }
  const Tensors t = tensors(DataType::kINT8, 1, 4, 4, 8);
  CHECK_REFUSED(plugin.runtime->enqueue(t.in, t.out, nullptr, nullptr, nullptr, nullptr) == 0, "rebuild the engine");
}

}  // namespace

void test_enqueue(const Library& library, const char* golden_path) {
  std::vector<MergingCase> cases;
  for (const GoldenCase& golden : read_golden(golden_path)) cases.push_back(widened(golden));
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    test_enqueue_without_device(library, error);
    std::printf("SKIPPED: enqueue (no CUDA device: %s)\n", cudaGetErrorString(error));
    return;
  }
  const Plugin loaded(library.creator->createPlugin("layer", nullptr, nvinfer1::TensorRTPhase::kRUNTIME));
  const Plugin plugin(loaded.runtime->attachToContext(nullptr));
  cudaStream_t stream = nullptr;
  CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (DataType type : kTypes) {
    for (size_t i = 0; i < cases.size(); ++i) {
      test_case(library, *plugin.runtime, stream, type, cases[i], i);
    }
  }
  CHECK_CUDA(cudaStreamDestroy(stream));
  std::printf("enqueue: %zu golden cases in 3 types\n", cases.size());
}
