// Asks the processor what it can run, once.
#include "cpu_isa.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#ifdef LIT_DEPLOY_X86
#include <cpuid.h>
#endif
#ifdef LIT_DEPLOY_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lit_deploy {
namespace {

#ifdef LIT_DEPLOY_AMX
// Of a machine with AVX-512F. Linux gives a process the tiles, 8 KiB of registers a thread, only if it asks for them;
// it refuses where a thread has a stack for signals that they do not fit on.
bool amx_usable(unsigned enabled) {
  const unsigned tiles = 0x60000;
  unsigned a, b, c, d;
  if ((enabled & tiles) != tiles || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool avx512bw = b & (1u << 30), amx_bf16 = d & (1u << 22), amx_tile = d & (1u << 24);
  if (!(avx512bw && amx_bf16 && amx_tile) || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return false;
  const bool avx512_bf16 = a & (1u << 5);
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return avx512_bf16 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#elif defined(LIT_DEPLOY_X86)
bool amx_usable(unsigned) { return false; }
#endif

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
  if (!avx512f || (enabled & zmm) != zmm) return CpuIsa::kAvx2;
  return amx_usable(enabled) ? CpuIsa::kAmx : CpuIsa::kAvx512;
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
    for (CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2, CpuIsa::kAvx512, CpuIsa::kAmx}) {
      if (std::strcmp(name, cpu_isa_name(isa)) == 0 && cpu_isa_supported(isa)) return isa;
    }
  }
  return cached_widest_cpu_isa();
}

}  // namespace

bool cpu_isa_supported(CpuIsa isa) noexcept { return isa <= cached_widest_cpu_isa(); }

CpuIsa supported_cpu_isa(CpuIsa isa, CpuIsa widest) noexcept {
  return std::min({isa, widest, cached_widest_cpu_isa()});
}

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
    case CpuIsa::kAmx:
      return "amx";
    default:
      return "portable";
  }
}

}  // namespace lit_deploy
