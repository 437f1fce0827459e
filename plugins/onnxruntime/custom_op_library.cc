// ONNX Runtime custom-op library: the exported functions, and what the kernels of every provider share.
//
// Written against the C API alone: the library links nothing of ONNX Runtime, works with every release from 1.17 on
// whatever headers it was built with, and has no exception that could cross the C boundary.
#include <cstring>
#include <list>
#include <mutex>
#include <new>

#include "deformable_token_merging_op.h"
#include "detection_ops.h"
#include "operator.h"
#include "relative_position_attention_op.h"

namespace lit_deploy::ort {
namespace {

using contract::kCudaDevice;
using contract::kDeviceEntry;

// Every operator of the library, once for each provider: how many element types it comes in, what fills them in, and
// whether sessions for CUDA get it. Those of which there is only a kernel for the CPU they do not get: ONNX Runtime would
// run that, with copies to the host and back, and not the function in the file, on the GPU. Of the others they get both:
// a session for CUDA may turn out to have no such provider, and where an operator is known its function is not looked at.
struct Entry {
  int types;
  void (*fill)(const OrtApi* api, Operator* ops);
  bool for_cuda;
};

#ifdef LIT_DEPLOY_HAS_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

constexpr Entry kOperators[] = {
    {kCpuOpCount, make_cpu_ops, true},
    {kAttentionOpCount, make_attention_ops, kHasCuda},
    {kNmsOpCount, make_nms_ops, kHasCuda},
    {kRoiAlignOpCount, make_roi_align_ops, false},
#ifdef LIT_DEPLOY_HAS_CUDA
    // Whether this ONNX Runtime has the provider or not: where it has none, no node is ever assigned to these.
    {kCudaOpCount, make_cuda_ops, true},
    {kAttentionOpCount, make_cuda_attention_ops, true},
    {kNmsOpCount, make_cuda_nms_ops, true},
#endif
};

constexpr int count_ops() {
  int count = 0;
  for (const Entry& entry : kOperators) count += entry.types;
  return count;
}

// What one ONNX Runtime needs from us for one device. A process may hold two of them (a Python wheel and a service's
// own), so the registrations are kept per API table. They live as long as the process: sessions point into them.
struct Registration {
  const OrtApi* api;
  bool for_cuda;
  Operator ops[count_ops()];
  OrtCustomOpDomain* domain;
};

OrtStatus* create_domain(Registration& registration) {
  const OrtApi* api = registration.api;
  Operator* end = registration.ops;
  for (const Entry& entry : kOperators) {
    if (registration.for_cuda && !entry.for_cuda) continue;
    entry.fill(api, end);
    end += entry.types;
  }
  LIT_RETURN_IF_ERROR(api->CreateCustomOpDomain(kDomain, &registration.domain));
  for (const Operator* op = registration.ops; op != end; ++op) {
    if (OrtStatus* status = api->CustomOpDomain_Add(registration.domain, op)) {
      api->ReleaseCustomOpDomain(registration.domain);
      return status;
    }
  }
  return nullptr;
}

// Whether the session is to run on CUDA: its options say so, as they name no provider to us.
OrtStatus* read_device(const OrtSessionOptions* options, const OrtApi* api, bool& for_cuda) {
  int has_entry = 0;
  LIT_RETURN_IF_ERROR(api->HasSessionConfigEntry(options, kDeviceEntry, &has_entry));
  for_cuda = false;
  if (has_entry == 0) return nullptr;
  char device[16] = "";
  size_t size = sizeof device;
  LIT_RETURN_IF_ERROR(api->GetSessionConfigEntry(options, kDeviceEntry, device, &size));
  for_cuda = std::strcmp(device, kCudaDevice) == 0;
  return nullptr;
}

OrtStatus* register_ops(OrtSessionOptions* options, const OrtApi* api) {
  bool for_cuda = false;
  LIT_RETURN_IF_ERROR(read_device(options, api, for_cuda));
  static std::mutex mutex;
  static std::list<Registration>& registrations = *new std::list<Registration>;  // never destroyed, see above
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Registration& known : registrations) {
    if (known.api == api && known.for_cuda == for_cuda) return api->AddCustomOpDomain(options, known.domain);
  }
  registrations.push_back(Registration{api, for_cuda, {}, nullptr});
  if (OrtStatus* status = create_domain(registrations.back())) {
    registrations.pop_back();
    return status;
  }
  return api->AddCustomOpDomain(options, registrations.back().domain);
}

}  // namespace
}  // namespace lit_deploy::ort

// Called by SessionOptions.register_custom_ops_library (Python) and RegisterCustomOpsLibrary_V2 (C).
extern "C" __attribute__((visibility("default"))) OrtStatus* ORT_API_CALL
RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* api_base) {
  const OrtApi* api = api_base->GetApi(lit_deploy::ort::kApiVersion);
  if (api == nullptr) {
    // Older than the API asked for: the very first table still knows how to say so.
    const char* message = "lit_deploy: this ONNX Runtime is older than 1.17; install onnxruntime 1.17 or newer";
    const OrtApi* oldest = api_base->GetApi(1);
    return oldest == nullptr ? nullptr : oldest->CreateStatus(ORT_FAIL, message);
  }
  try {
    return lit_deploy::ort::register_ops(options, api);
  } catch (...) {
    return api->CreateStatus(ORT_FAIL, "lit_deploy: out of memory while the custom operators were registered");
  }
}

// 1 if the library holds kernels for ONNX Runtime's CUDA execution provider and nothing is known to keep them from
// running here, else 0. A driver that is too old for the library, or a GPU that it holds no code for, is 0, so that the
// function in the file runs instead; no driver, or no GPU, is 1: that is the provider's to say. Asks the current device,
// at the first call alone, and may make its context.
extern "C" __attribute__((visibility("default"))) int32_t lit_deploy_has_cuda(void) {
#ifdef LIT_DEPLOY_HAS_CUDA
  static const bool fits = lit_deploy::ort::cuda_kernel_fits();
  return fits ? 1 : 0;
#else
  return 0;
#endif
}
