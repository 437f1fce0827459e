// A libcuda.so.1 that needs no GPU: device memory is host memory, and streams are lists of work.
//
// It holds callers to the rules of the real one, as tests/fake_cuda.py does. Work waits in its stream until somebody
// synchronises; memory is full of rubbish when it is new, and work on memory that was freed is an illegal address; a
// call without a current context fails; a graph replays the work that was captured.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "runtime_fake.h"

using Work = std::vector<std::function<bool()>>;

struct CUstream_st {
  Work work, captured;
  bool capturing = false;
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

namespace {

struct Fault {
  int64_t calls_left;
  int code;
};
struct State {
  std::recursive_mutex mutex;
  std::map<std::string, int64_t> calls, live;
  std::map<std::string, Fault> faults;
  std::map<const char*, size_t> device, host;  // address: bytes
  int64_t misuses = 0;
  std::string gpu = "Fake GPU";
  int major = 9, minor = 0, driver = 13000, count = 1;
};
State& state() {
  static State& state = *new State;
  return state;
}
using Lock = std::lock_guard<std::recursive_mutex>;

thread_local int depth = 0;  // contexts that this thread pushed
int the_context;             // the primary one

bool covers(const std::map<const char*, size_t>& memory, const void* address, size_t size) {
  auto block = memory.upper_bound(static_cast<const char*>(address));
  if (block == memory.begin()) return false;
  --block;
  return static_cast<const char*>(address) + size <= block->first + block->second;
}

// What every function begins with.
#define ENTER(call, needs_context)                                            \
  const Lock lock(state().mutex);                                             \
  if (const int code = fake_enter(call); code >= 0) return CUresult(code);    \
  if ((needs_context) && depth == 0) {                                        \
    fake_misuse(call " without a current context");                           \
    return CUDA_ERROR_INVALID_CONTEXT;                                        \
  }

CUresult allocate(std::map<const char*, size_t>& memory, const char* kind, void** address, size_t size) {
  void* block = std::malloc(size);
  if (block == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  std::memset(block, 0xcd, size);
  memory[static_cast<char*>(block)] = size;
  fake_made(kind, 1);
  *address = block;
  return CUDA_SUCCESS;
}

CUresult release(std::map<const char*, size_t>& memory, const char* kind, void* address) {
  if (memory.erase(static_cast<char*>(address)) == 0) {
    fake_misuse("memory is freed that was not allocated");
    return CUDA_ERROR_INVALID_VALUE;
  }
  std::free(address);
  fake_made(kind, -1);
  return CUDA_SUCCESS;
}

void copy(CUstream stream, void* target, const void* source, size_t size) {
  fake_enqueue(stream, [=] {
    State& all = state();
    const auto known = [&](const void* p) { return covers(all.device, p, size) || covers(all.host, p, size); };
    if (!known(target) || !known(source)) return false;
    std::memcpy(target, source, size);
    return true;
  });
}

}  // namespace

void fake_fail(const char* call, int64_t n, int code) {
  const Lock lock(state().mutex);
  if (n == 0) state().faults.erase(call);
  if (n > 0) state().faults[call] = {n, code};
}
int64_t fake_calls(const char* call) {
  const Lock lock(state().mutex);
  return state().calls[call];
}
int64_t fake_live(const char* kind) {
  const Lock lock(state().mutex);
  if (kind != nullptr) return state().live[kind];
  int64_t sum = 0;
  for (const auto& [name, count] : state().live) sum += count;
  return sum;
}
int64_t fake_misuses() {
  const Lock lock(state().mutex);
  return state().misuses;
}
void fake_gpu(const char* name, int major, int minor, int driver, int count) {
  const Lock lock(state().mutex);
  State& all = state();
  all.gpu = name;
  all.major = major, all.minor = minor, all.driver = driver, all.count = count;
}
int fake_enter(const char* call) {
  const Lock lock(state().mutex);
  ++state().calls[call];
  const auto fault = state().faults.find(call);
  if (fault == state().faults.end() || --fault->second.calls_left > 0) return -1;
  const int code = fault->second.code;
  state().faults.erase(fault);
  return code;
}
void fake_made(const char* kind, int64_t change) {
  const Lock lock(state().mutex);
  if ((state().live[kind] += change) < 0) fake_misuse(kind);
}
void fake_misuse(const char* what) {
  const Lock lock(state().mutex);
  ++state().misuses;
  std::fprintf(stderr, "fake: %s\n", what);
}
void fake_enqueue(CUstream stream, std::function<bool()> work) {
  const Lock lock(state().mutex);
  (stream->capturing ? stream->captured : stream->work).push_back(std::move(work));
}
bool fake_capturing(CUstream stream) {
  const Lock lock(state().mutex);
  return stream->capturing;
}
bool fake_is_memory(const void* address, uint64_t size) {
  const Lock lock(state().mutex);
  return covers(state().device, address, size);
}

extern "C" {
#pragma GCC visibility push(default)

CUresult cuInit(unsigned int) {
  ENTER("cuInit", false)
  return CUDA_SUCCESS;
}
CUresult cuDriverGetVersion(int* version) {
  ENTER("cuDriverGetVersion", false)
  *version = state().driver;
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** name) {
  const std::map<CUresult, const char*> names = {
      {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
      {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
      {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
      {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"}};
  const auto found = names.find(error);
  *name = found == names.end() ? nullptr : found->second;
  return found == names.end() ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
CUresult cuDeviceGetCount(int* count) {
  ENTER("cuDeviceGetCount", false)
  *count = state().count;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice* device, int index) {
  ENTER("cuDeviceGet", false)
  *device = index;
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  ENTER("cuDeviceGetName", false)
  std::snprintf(name, size, "%s", state().gpu.c_str());
  return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
  ENTER("cuDeviceGetAttribute", false)
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? state().major : state().minor;
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  ENTER("cuDevicePrimaryCtxRetain", false)
  fake_made("context", 1);
  *context = reinterpret_cast<CUcontext>(&the_context);
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice) {
  ENTER("cuDevicePrimaryCtxRelease", false)
  fake_made("context", -1);
  return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context) {
  ENTER("cuCtxPushCurrent", false)
  if (context != reinterpret_cast<CUcontext>(&the_context)) return CUDA_ERROR_INVALID_CONTEXT;
  ++depth;
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext* context) {
  ENTER("cuCtxPopCurrent", true)
  *context = reinterpret_cast<CUcontext>(&the_context);
  --depth;
  return CUDA_SUCCESS;
}
CUresult cuMemAlloc(CUdeviceptr* address, size_t size) {
  ENTER("cuMemAlloc", true)
  return allocate(state().device, "device memory", reinterpret_cast<void**>(address), size);
}
CUresult cuMemFree(CUdeviceptr address) {
  ENTER("cuMemFree", true)
  return release(state().device, "device memory", reinterpret_cast<void*>(address));
}
CUresult cuMemAllocHost(void** address, size_t size) {
  ENTER("cuMemAllocHost", true)
  return allocate(state().host, "host memory", address, size);
}
CUresult cuMemFreeHost(void* address) {
  ENTER("cuMemFreeHost", true)
  return release(state().host, "host memory", address);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void* source, size_t size, CUstream stream) {
  ENTER("cuMemcpyHtoDAsync", true)
  copy(stream, reinterpret_cast<void*>(target), source, size);
  return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync(void* target, CUdeviceptr source, size_t size, CUstream stream) {
  ENTER("cuMemcpyDtoHAsync", true)
  copy(stream, target, reinterpret_cast<const void*>(source), size);
  return CUDA_SUCCESS;
}
CUresult cuStreamCreate(CUstream* stream, unsigned int flags) {
  ENTER("cuStreamCreate", true)
  if (flags != CU_STREAM_NON_BLOCKING) fake_misuse("TensorRT wants a stream that does not wait for the default one");
  *stream = new CUstream_st;
  fake_made("stream", 1);
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
  ENTER("cuStreamSynchronize", true)
  if (stream->capturing) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  Work work = std::move(stream->work);
  stream->work.clear();
  for (const auto& step : work) {
    if (!step()) return CUDA_ERROR_ILLEGAL_ADDRESS;
  }
  return CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
  ENTER("cuStreamDestroy", true)
  if (stream->capturing) fake_misuse("a stream is destroyed while it captures");
  delete stream;
  fake_made("stream", -1);
  return CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  ENTER("cuStreamBeginCapture", true)
  if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) fake_misuse("a capture that other threads can spoil");
  stream->capturing = true;
  return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  stream->capturing = false;  // also where it fails
  Work work = std::move(stream->captured);
  stream->captured.clear();
  *graph = nullptr;
  ENTER("cuStreamEndCapture", true)
  if (work.empty()) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *graph = new CUgraph_st{std::move(work)};
  fake_made("graph", 1);
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiate(CUgraphExec* runnable, CUgraph graph, unsigned long long) {
  ENTER("cuGraphInstantiate", true)
  *runnable = new CUgraphExec_st{graph->work};
  fake_made("runnable graph", 1);
  return CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) {
  ENTER("cuGraphDestroy", true)
  delete graph;
  fake_made("graph", -1);
  return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec runnable) {
  ENTER("cuGraphExecDestroy", true)
  delete runnable;
  fake_made("runnable graph", -1);
  return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec runnable, CUstream stream) {
  ENTER("cuGraphLaunch", true)
  for (const auto& step : runnable->work) fake_enqueue(stream, step);
  return CUDA_SUCCESS;
}

#pragma GCC visibility pop
}  // extern "C"
