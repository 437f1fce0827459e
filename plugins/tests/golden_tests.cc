// The official network's deformable convolution, case by case.
//
// The operator runs on widened() tokens, and the eight channels are left out of its output. The convolution's weights,
// which are not the operator's business, are applied here.
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "check.h"
#include "cuda_emulation.h"
#include "deformable_token_merging/kernel.h"
#include "golden_file.h"

namespace {

using lit_deploy::CpuIsa;
using lit_deploy::MergingShape;

constexpr double kTolerance = 5e-6;  // of the output's scale

// Computes y of (shape, x, offset_weight, offset_bias).
using Kernel = std::function<void(const MergingShape&, const float*, const float*, const float*, float*)>;

Kernel cpu_kernel(CpuIsa isa) {
  return [isa](const MergingShape& shape, const float* x, const float* w, const float* b, float* y) {
    lit_deploy::deformable_token_merging(shape, x, w, b, y, 0, shape.output_rows(), isa);
  };
}

void emulated_cuda_kernel(const MergingShape& shape, const float* x, const float* w, const float* b, float* y) {
  namespace cuda = lit_deploy::cuda;
  cuda::Plan plan;
  const bool taken = cuda::make_plan(shape, sizeof(float), x, w, b, y, plan);
  CHECK(taken, "the CUDA kernel refuses the case");
  const auto merging = cuda::make_merging<float>(plan, shape, x, w, b, y);
  const char* error = cuda::emulate(cuda::Float32{}, plan, 0, merging, cuda::Schedule::kForward);
  CHECK(error == nullptr, "%s", error);
}

// y of the widened operator: [batch, rows, columns, 4, channels + 8].
std::vector<float> run(const MergingCase& c, const Kernel& kernel) {
  std::vector<float> y(static_cast<size_t>(c.shape.output_rows() * c.shape.output_width() * 4 * c.shape.channels));
  kernel(c.shape, c.x.data(), c.offset_weight.data(), c.offset_bias.data(), y.data());
  return y;
}

// Largest error of the convolution built on the operator, as a fraction of the output's scale.
double relative_error(const GoldenCase& c, const Kernel& kernel) {
  const std::vector<float> y = run(widened(c), kernel);
  const int64_t channels = c.input.shape[1], rows = c.output.shape[2], columns = c.output.shape[3];
  double worst = 0.0, scale = 0.0;
  for (int64_t b = 0; b < c.output.shape[0]; ++b) {
    for (int64_t o = 0; o < c.output.shape[1]; ++o) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t s = 0; s < columns; ++s) {
          double sum = c.bias.data[static_cast<size_t>(o)];
          for (int64_t tap = 0; tap < 4; ++tap) {
            const int64_t token = ((b * rows + r) * columns + s) * 4 + tap;
            for (int64_t k = 0; k < channels; ++k) {
              sum += static_cast<double>(c.weight.at(o, k, tap / 2, tap % 2)) *
                     static_cast<double>(y[static_cast<size_t>(token * (channels + kGoldenOffsets) + k)]);
            }
          }
          const double expected = c.output.at(b, o, r, s);
          worst = std::fmax(worst, std::fabs(sum - expected));
          scale = std::fmax(scale, std::fabs(expected));
        }
      }
    }
  }
  return worst / scale;
}

}  // namespace

void test_golden(const char* path) {
  int64_t index = 0;
  for (const GoldenCase& c : read_golden(path)) {
    const long long i = index++;
    for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
      if (!lit_deploy::cpu_isa_supported(isa)) continue;
      const double error = relative_error(c, cpu_kernel(isa));
      CHECK(error <= kTolerance, "case %lld, %s: error %g of the output scale", i, cpu_isa_name(isa), error);
    }
    const double error = relative_error(c, emulated_cuda_kernel);
    CHECK(error <= kTolerance, "case %lld, emulated CUDA kernel: error %g of the output scale", i, error);
  }
}
