// The most multiply-adds that this machine does now: what benchmarks/attention.py holds the kernel's rate against.
//
//   lit_deploy_fma_peak [THREADS]      prints GFLOP/s of float32, of all threads together, the best of some rounds
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu_isa.h"

namespace {

constexpr int kChains = 12;  // a latency of four at two a cycle needs eight; AVX2 has 16 registers in all
constexpr long kSteps = 200000;

// Independent chains of multiply-adds, all in registers.
template <typename Vec>
inline __attribute__((always_inline)) void multiply_add(float* out) {
  Vec chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = Vec{} + static_cast<float>(i);
  const Vec factor = Vec{} + 0.5f, add = Vec{} + out[0];
  for (long step = 0; step < kSteps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chains[i] = chains[i] * factor + add;
  }
  for (int i = 0; i < kChains; ++i) out[1] += chains[i][0];
}

typedef float Narrow __attribute__((vector_size(16)));
void portable(float* out) { multiply_add<Narrow>(out); }
#ifdef __x86_64__
typedef float Middle __attribute__((vector_size(32)));
typedef float Wide __attribute__((vector_size(64)));
__attribute__((target("avx2,fma"))) void avx2(float* out) { multiply_add<Middle>(out); }
__attribute__((target("avx512f"))) void avx512(float* out) { multiply_add<Wide>(out); }
#endif

// Seconds of one thread.
double timed(void (*run)(float*)) {
  float out[2] = {1.0f, 0.0f};
  const auto start = std::chrono::steady_clock::now();
  run(out);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return out[1] > 0.0f ? seconds.count() : 0.0;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  int lanes = 4;
  void (*run)(float*) = portable;
#ifdef __x86_64__
  const lit_deploy::CpuIsa isa = lit_deploy::selected_cpu_isa();
  if (isa >= lit_deploy::CpuIsa::kAvx2) run = avx2, lanes = 8;
  if (isa >= lit_deploy::CpuIsa::kAvx512) run = avx512, lanes = 16;
#endif
  double best = 0.0;
  for (int round = 0; round < 40; ++round) {
    std::vector<double> seconds(static_cast<size_t>(threads));
    std::vector<std::thread> pool;
    for (double& mine : seconds) pool.emplace_back([&mine, run] { mine = timed(run); });
    for (std::thread& thread : pool) thread.join();
    // The slowest counts: while others wait for it, they do nothing.
    const double slowest = *std::max_element(seconds.begin(), seconds.end());
    best = std::max(best, 2e-9 * kSteps * kChains * lanes * threads / slowest);
  }
  std::printf("%.1f\n", best);
  return 0;
}
