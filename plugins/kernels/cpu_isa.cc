// Asks the processor what it can run, once.
#include "cpu_isa.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

#ifdef LIT_DEPLOY_X86
#include <cpuid.h>
#endif

namespace lit_deploy {
namespace {

#ifdef LIT_DEPLOY_X86
// The CPU has the instructions, and the operating system saves the registers they use (XCR0).
CpuIsa widest_cpu_isa() {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return CpuIsa::kPortable;
  const bool fma = c & (1u << 12), osxsave = c & (1u << 27), avx = c & (1u << 28), f16c = c & (1u << 29);
  if (!(fma && osxsave && avx && f16c)) return CpuIsa::kPortable;
  unsigned enabled, unused;
  __asm__ volatile("xgetbv" : "=a"(enabled), "=d"(unused) : "c"(0));
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return CpuIsa::kPortable;
  const bool avx2 = b & (1u << 5), avx512f = b & (1u << 16);
  const unsigned ymm = 0x06, zmm = 0xe6;
  if (!avx2 || (enabled & ymm) != ymm) return CpuIsa::kPortable;
  return avx512f && (enabled & zmm) == zmm ? CpuIsa::kAvx512 : CpuIsa::kAvx2;
}
#else
CpuIsa widest_cpu_isa() { return CpuIsa::kPortable; }
#endif

CpuIsa cached_widest_cpu_isa() {
  static const CpuIsa widest = widest_cpu_isa();
  return widest;
}

CpuIsa requested_or_widest_cpu_isa() {
  if (const char* name = std::getenv("LIT_DEPLOY_CPU_ISA")) {
    for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512}) {
      if (std::strcmp(name, cpu_isa_name(isa)) == 0 && cpu_isa_supported(isa)) return isa;
    }
  }
  return cached_widest_cpu_isa();
}

}  // namespace

bool cpu_isa_supported(CpuIsa isa) noexcept { return isa <= cached_widest_cpu_isa(); }

CpuIsa supported_cpu_isa(CpuIsa isa) noexcept { return isa <= cached_widest_cpu_isa() ? isa : cached_widest_cpu_isa(); }

CpuIsa selected_cpu_isa() noexcept {
  static const CpuIsa selected = requested_or_widest_cpu_isa();
  return selected;
}

const char* cpu_isa_name(CpuIsa isa) noexcept {
  switch (isa) {
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    default:
      return "portable";
  }
}

}  // namespace lit_deploy
