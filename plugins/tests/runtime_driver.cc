// Exercises the C API for the sanitizers; prints "ok", or says what was wrong and returns 1.
//
//   threads MODEL           eight threads open, run, misuse and close, on a model they share and on models of their own
//   cycles MODEL COUNT      open, run, close, again and again; prints the heap's bytes after a tenth and at the end
//   refused MODEL           prints the sentence with which a model is refused
// Planted faults, which show that a sanitizer watches the library and not this program alone:
//   leak MODEL              a context that nobody destroys
//   overflow MODEL          a result that is one byte too small for lit_preprocess()
//   race MODEL              one context in two threads at once, which lit_runtime.h forbids
//
// LIT_DEPLOY_ONNXRUNTIME names libonnxruntime.so; LIT_DEPLOY_LIBRARY, where it is set, the operator library. With
// LIT_RUNTIME_DRIVER_OPENVINO set, everything is on OpenVINO, which LIT_DEPLOY_OPENVINO and
// LIT_DEPLOY_OPENVINO_EXTENSION name.
#include <lit_runtime.h>
#include <malloc.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
extern "C" size_t __sanitizer_get_current_allocated_bytes();
#endif

namespace {

constexpr int kThreads = 8;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "runtime_driver: %s (last error: %s)\n", what.c_str(), lit_last_error());
  std::exit(1);
}

void expect(bool condition, const std::string& what) {
  if (!condition) fail(what);
}

void expect_status(lit_status found, lit_status wanted, const std::string& what) {
  if (found != wanted) fail(what + ": " + lit_status_name(found) + " instead of " + lit_status_name(wanted));
}

lit_options options() {
  lit_options made;
  expect_status(lit_options_init(&made, sizeof made), LIT_OK, "lit_options_init");
  made.threads = 1;
  if (std::getenv("LIT_RUNTIME_DRIVER_OPENVINO") != nullptr) {
    made.backend = LIT_BACKEND_OPENVINO;
  } else if (std::getenv("LIT_DEPLOY_LIBRARY") == nullptr) {
    made.operator_library = "";
  }
  return made;
}

lit_model* open_model(const char* path) {
  const lit_options settings = options();
  lit_model* model = nullptr;
  expect_status(lit_model_open(path, &settings, &model), LIT_OK, "lit_model_open");
  return model;
}

lit_context* create_context(const lit_model* model) {
  lit_context* context = nullptr;
  expect_status(lit_context_create(model, &context), LIT_OK, "lit_context_create");
  return context;
}

// Rows a little apart, so that lit_run() has to put the batch together.
struct Batch {
  explicit Batch(const lit_model* model, uint8_t seed) {
    const lit_model_info* info = lit_model_get_info(model);
    const ptrdiff_t stride = ptrdiff_t{3} * info->input.width + 5;
    pixels.resize(static_cast<size_t>(stride) * info->input.height * info->min_batch);
    for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * i + seed * i);
    tensor = {LIT_UINT8, pixels.data(), info->min_batch, stride, 0};
  }
  std::vector<uint8_t> pixels;
  lit_tensor tensor;
};

std::vector<float> run(lit_context* context, const Batch& batch) {
  lit_output output;
  expect_status(lit_run(context, &batch.tensor, &output), LIT_OK, "lit_run");
  expect(output.batch == batch.tensor.batch && output.count > 0, "lit_run gave no scores");
  return std::vector<float>(output.scores, output.scores + output.batch * output.count);
}

// Pictures of an odd size, and the names of what is in them.
void classify(const lit_model* model, lit_context* context) {
  const std::vector<uint8_t> pixels(size_t{3} * 91 * 57, 200);
  const std::vector<lit_image> images(lit_model_get_info(model)->min_batch, lit_image{pixels.data(), 91, 57, 0});
  lit_output output;
  expect_status(lit_run_images(context, images.data(), images.size(), &output), LIT_OK, "lit_run_images");
  lit_prediction best[3];
  size_t count = 0;
  expect_status(lit_top_k(model, &output, 0, 3, best, &count), LIT_OK, "lit_top_k");
  expect(count == 3 && best[0].probability >= best[1].probability, "lit_top_k has no order");
  expect(best[0].label == lit_model_label(model, best[0].class_index), "lit_top_k has another label");
}

// Every call fails, and the sentence is this thread's.
void misuse(const lit_model* model, lit_context* context, const Batch& batch, int thread) {
  lit_output output;
  lit_tensor wrong = batch.tensor;
  wrong.batch = 100000;
  expect_status(lit_run(context, &wrong, &output), LIT_INVALID_ARGUMENT, "a batch beyond the most");
  wrong = batch.tensor;
  wrong.row_stride = 1;
  expect_status(lit_run(context, &wrong, &output), LIT_INVALID_ARGUMENT, "a short stride");
  expect_status(lit_run(nullptr, &wrong, &output), LIT_INVALID_ARGUMENT, "no context");
  expect_status(lit_run_images(context, nullptr, 1, &output), LIT_INVALID_ARGUMENT, "no images");
  expect_status(lit_top_k(model, &output, 0, 1, nullptr, nullptr), LIT_INVALID_ARGUMENT, "no place");
  expect(output.scores == nullptr && output.batch == 0, "a failed run left an output");
  const std::string missing = "/nowhere/thread" + std::to_string(thread) + ".onnx";
  lit_model* none = nullptr;
  expect_status(lit_model_open(missing.c_str(), nullptr, &none), LIT_FILE_ERROR, "a missing file");
  expect(none == nullptr, "a missing file gave a model");
  std::this_thread::yield();
  expect(std::string(lit_last_error()).find(missing) != std::string::npos, "the sentence is another thread's");
}

void use_in_threads(const char* path) {
  lit_model* shared = open_model(path);
  const Batch batch(shared, 1);
  std::vector<float> expected;
  {
    lit_context* context = create_context(shared);
    expected = run(context, batch);
    lit_context_destroy(context);
  }
  const auto same = [&](const std::vector<float>& found) {
    for (size_t i = 0; i < expected.size(); ++i) {
      if (!(std::fabs(found[i] - expected[i]) <= 1e-5f * (1 + std::fabs(expected[i])))) return false;
    }
    return found.size() == expected.size();
  };
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      lit_context* context = create_context(shared);
      for (int round = 0; round < 3; ++round) {
        expect(same(run(context, batch)), "a thread got other scores");
        classify(shared, context);
        misuse(shared, context, batch, thread);
        lit_model* own = open_model(path);
        lit_context* own_context = create_context(own);
        lit_model_close(own);  // the context keeps what it needs
        expect(same(run(own_context, batch)), "a closed model's context got other scores");
        lit_context_destroy(own_context);
      }
      lit_context_destroy(context);
    });
  }
  for (std::thread& thread : threads) thread.join();
  lit_model_close(shared);
}

size_t heap() {
#if defined(__SANITIZE_ADDRESS__)
  return __sanitizer_get_current_allocated_bytes();
#else
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
#endif
}

void cycle(const char* path, long count) {
  size_t early = 0;
  for (long i = 1; i <= count; ++i) {
    lit_model* model = open_model(path);
    lit_context* context = create_context(model);
    run(context, Batch(model, static_cast<uint8_t>(i)));
    lit_context_destroy(context);
    lit_model_close(model);
    if (i == count / 10) early = heap();
  }
  std::printf("heap %zu %zu\n", early, heap());
}

void print_refusal(const char* path) {
  const lit_options settings = options();
  lit_model* model = nullptr;
  expect_status(lit_model_open(path, &settings, &model), LIT_BAD_MODEL, "lit_model_open");
  std::printf("%s\n", lit_last_error());
}

void overflow(const char* path) {
  lit_model* model = open_model(path);
  const lit_input_spec& spec = lit_model_get_info(model)->input;
  const std::vector<uint8_t> pixels(size_t{3} * 80 * 80);
  const lit_image image{pixels.data(), 80, 80, 0};
  const std::unique_ptr<uint8_t[]> small(new uint8_t[size_t{3} * spec.height * spec.width - 1]);
  lit_preprocess(&spec, &image, small.get());
  lit_model_close(model);
}

void race(const char* path) {
  lit_model* model = open_model(path);
  lit_context* context = create_context(model);
  const Batch batch(model, 1);
  std::atomic<int> ready{0};
  const auto use = [&] {
    lit_output output;
    ++ready;
    while (ready < 2) std::this_thread::yield();
    for (int i = 0; i < 3; ++i) lit_run(context, &batch.tensor, &output);
  };
  std::thread other(use);
  use();
  other.join();
  lit_context_destroy(context);
  lit_model_close(model);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  if (command == "threads") {
    use_in_threads(argv[2]);
  } else if (command == "cycles" && argc > 3) {
    cycle(argv[2], std::atol(argv[3]));
  } else if (command == "refused") {
    print_refusal(argv[2]);
  } else if (command == "leak") {
    lit_model* model = open_model(argv[2]);
    create_context(model);
    lit_model_close(model);
  } else if (command == "overflow") {
    overflow(argv[2]);
  } else if (command == "race") {
    race(argv[2]);
  } else {
    std::fprintf(stderr, "usage: see the head of runtime_driver.cc\n");
    return 2;
  }
  std::printf("ok\n");
  return 0;
}
