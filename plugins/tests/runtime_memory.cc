// Makes every allocation of the C runtime fail in turn, and says what became of it.
//
//   lit_deploy_runtime_memory MODEL     opens, asks for what its task gives and closes, again and again: the n-th
//                                       allocation fails, then the n-th and all behind it, for every n until there is
//                                       none left to fail
//
// Right is LIT_OUT_OF_MEMORY with a sentence, or success where the runtime can do without; anything else returns 1, and
// what ends the process ends this one. Prints how many allocations there were. Only the runtime's own fail, which is
// linked in here with the C++ library: back ends have theirs. Needs LIT_DEPLOY_ONNXRUNTIME.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string_view>
#include <vector>

#include "lit_runtime.h"

extern "C" char __executable_start, etext;
extern "C" void* __real_malloc(size_t size);

namespace {

long left = -1;     // allocations until one fails; below 0: none does
bool all = false;   // and those behind it, too
long failed = 0;

// Whether an allocation that this program's own code asked for fails now.
bool fails(const void* caller) {
  if (left < 0 || caller < &__executable_start || caller >= &etext) return false;
  if (left > 0 && --left > 0) return false;
  ++failed;
  if (!all) left = -1;
  return true;
}

void arm(long n, bool all_behind) {
  left = n;
  all = all_behind;
  failed = 0;
}

void expect(bool condition, const char* what, long n) {
  if (condition) return;
  arm(-1, false);
  std::fprintf(stderr, "runtime_memory: %s when allocation %ld fails (last error: %s)\n", what, n, lit_last_error());
  std::exit(1);
}

// What a model's task gives of a picture; the status of the first call that fails.
lit_status ask(const lit_model* model, lit_context* context, const lit_image& image) {
  const std::string_view task = lit_model_get_info(model)->task;
  if (task == "classification") {
    lit_output output{};
    lit_prediction best[3];
    size_t count = 0;
    const lit_status status = lit_run_images(context, &image, 1, &output);
    return status != LIT_OK ? status : lit_top_k(model, &output, 0, 3, best, &count);
  }
  if (task == "semantic_segmentation") {
    lit_label_map map{};
    lit_rle rle{};
    const lit_status status = lit_segment(context, &image, &map);
    return status != LIT_OK ? status : lit_encode_label(context, 0, &rle);
  }
  lit_detections found{};
  lit_status status = lit_detect(context, &image, &found);
  for (int64_t i = 0; status == LIT_OK && task == "instance_segmentation" && i < found.count; ++i) {
    lit_rle rle{};
    status = lit_encode_mask(context, i, &rle);
  }
  return status;
}

// The status of the first call that fails.
lit_status use(const char* path, const lit_options& options, const lit_image& image) {
  lit_model* model = nullptr;
  lit_context* context = nullptr;
  lit_status status = lit_model_open(path, &options, &model);
  if (status == LIT_OK) status = lit_context_create(model, &context);
  if (status == LIT_OK) status = ask(model, context, image);
  lit_context_destroy(context);
  lit_model_close(model);
  return status;
}

}  // namespace

[[gnu::noinline]] void* operator new(size_t size) {
  void* const memory = fails(__builtin_return_address(0)) ? nullptr : __real_malloc(size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return fails(__builtin_return_address(0)) ? nullptr : __real_malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

// By the linker's --wrap: what the C++ library asks for itself, for an exception for instance.
extern "C" void* __wrap_malloc(size_t size) {
  return fails(__builtin_return_address(0)) ? nullptr : __real_malloc(size);
}

int main(int argc, char** argv) {
  if (argc != 2) return std::fputs("usage: lit_deploy_runtime_memory MODEL\n", stderr), 2;
  lit_options options;
  lit_options_init(&options, sizeof options);
  options.threads = 1;
  options.operator_library = "";
  const std::vector<uint8_t> pixels(size_t{3} * 91 * 57, 200);
  const lit_image image{pixels.data(), 91, 57, 0};
  if (use(argv[1], options, image) != LIT_OK) return std::fprintf(stderr, "%s\n", lit_last_error()), 1;
  long counts[2] = {};
  for (const bool all_behind : {false, true}) {
    for (long n = 1;; ++n) {
      arm(n, all_behind);
      const lit_status status = use(argv[1], options, image);
      const bool none_left = failed == 0;
      arm(-1, false);
      if (none_left) break;
      counts[all_behind] = n;
      expect(status == LIT_OK || status == LIT_OUT_OF_MEMORY, lit_status_name(status), n);
      expect(status == LIT_OK || std::strcmp(lit_last_error(), "out of memory") == 0, "another sentence", n);
      expect(!all_behind || status != LIT_OK, "success", n);
    }
  }
  std::printf("%ld %ld allocations\n", counts[0], counts[1]);
  return use(argv[1], options, image) == LIT_OK ? 0 : 1;
}
