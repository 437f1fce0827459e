// What the two libraries that play CUDA and TensorRT share, and what tests ask of them (extern "C", for ctypes).
#ifndef LIT_DEPLOY_TESTS_RUNTIME_FAKE_H_
#define LIT_DEPLOY_TESTS_RUNTIME_FAKE_H_

#include <cuda.h>

#include <cstdint>
#include <functional>

#define FAKE_API extern "C" __attribute__((visibility("default")))

// Makes the n-th call of a function from now on fail, once: one of CUDA with the status `code`, one of TensorRT with
// "out of memory" for CUDA_ERROR_OUT_OF_MEMORY, without a word for 0, with some words otherwise. n = 0: none any more.
FAKE_API void fake_fail(const char* call, int64_t n, int code);
// Calls of a function so far, and objects of a kind (nullptr: of all kinds) that were made and not destroyed.
FAKE_API int64_t fake_calls(const char* call);
FAKE_API int64_t fake_live(const char* kind);
// Rules of CUDA or TensorRT that were broken; each is printed, too.
FAKE_API int64_t fake_misuses();
FAKE_API void fake_gpu(const char* name, int major, int minor, int driver, int count);

// For the other library. Counts a call: the code to fail with, or -1.
FAKE_API int fake_enter(const char* call);
FAKE_API void fake_made(const char* kind, int64_t change);
FAKE_API void fake_misuse(const char* what);
// Adds work to a stream, which is done when somebody waits; false from it is an illegal address.
__attribute__((visibility("default"))) void fake_enqueue(CUstream stream, std::function<bool()> work);
FAKE_API bool fake_capturing(CUstream stream);
// Whether `size` bytes of device memory begin at an address.
FAKE_API bool fake_is_memory(const void* address, uint64_t size);

#endif  // LIT_DEPLOY_TESTS_RUNTIME_FAKE_H_
