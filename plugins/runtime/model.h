// What the handles of the C API point to, and what the files behind api.cc share.
#ifndef LIT_DEPLOY_RUNTIME_MODEL_H_
#define LIT_DEPLOY_RUNTIME_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "error.h"
#include "lit_runtime.h"
#include "masks.h"

namespace lit_deploy::runtime {

// What a model and its contexts share.
struct Network {
  Manifest manifest;
  std::unique_ptr<Backend> backend;
  lit_model_info info;

  // Throws LIT_INVALID_ARGUMENT for a model of another task than `function` is for.
  void require_task(bool right, const char* function) const {
    if (right) return;
    const char* const mend = !manifest.is_dense() ? "lit_run_images()"
                             : manifest.task == Task::kSemanticSegmentation ? "lit_segment()"
                                                                            : "lit_detect()";
    throw Error(LIT_INVALID_ARGUMENT, std::string("this model is for ") + manifest.task_name() + ", which " + function +
                                          " does not run; use " + mend);
  }
};

inline void require(bool condition, const std::string& sentence) {
  if (!condition) throw Error(LIT_INVALID_ARGUMENT, sentence);
}

// No release's lit_options comes near this; what a stack holds by chance does.
inline constexpr size_t kLargestOptions = 4096;

// lit_options as any release's header declares them; NULL for the defaults.
Options parse_options(const lit_options* given);

// What lit_detect() or lit_segment() found in a picture.
struct Objects {
  std::vector<float> boxes, scores;
  std::vector<int32_t> labels;
  std::vector<const float*> masks;  // into what the back end returned
  int32_t width = 0, height = 0;    // of the picture
  const uint8_t* map = nullptr;     // what lit_segment() found in it instead: labels of pixels
  PastedMask pasted;
  std::string counts;  // of it

  // Before a run, which invalidates what `masks` points to.
  void clear() {
    boxes.clear();
    scores.clear();
    labels.clear();
    masks.clear();
    map = nullptr;
  }
};

// lit_run() and lit_run_images(): fill `output` but for its `count`, and its `batch` in the former.
void run_tensor(lit_context& context, const lit_tensor& input, lit_output* output);
void run_images(lit_context& context, const lit_image* images, size_t count, lit_output* output);

// A detector's or segmentation network's picture, prepared in the context's memory.
lit_prepared prepare(lit_context& context, const lit_image& image);

// lit_detect_prepared(), lit_segment_prepared(), and what is asked of their results; that the task is right, and
// nothing NULL, has been checked.
void detect(lit_context& context, const lit_prepared& picture, lit_detections* detections);
const PastedMask& paste_mask(lit_context& context, int64_t index);
const PastedMask& pixels_of_label(lit_context& context, int64_t label);
void segment(lit_context& context, const lit_prepared& picture, lit_label_map* map);

// lit_top_k(). Throws LIT_INVALID_ARGUMENT for an output that is not one of this model's.
void find_top_k(const Network& network, const lit_output& output, int64_t image, size_t k, lit_prediction* predictions,
                size_t* count);

}  // namespace lit_deploy::runtime

struct lit_model {
  std::shared_ptr<const lit_deploy::runtime::Network> network;
};

struct lit_context {
  std::shared_ptr<const lit_deploy::runtime::Network> network;  // first: `runner` must go before its backend
  std::unique_ptr<lit_deploy::runtime::BackendContext> runner;
  std::vector<uint8_t> pixels;  // of a batch that has to be put together
  std::vector<float> floats;    // the same, normalised
  lit_deploy::runtime::Objects objects;
  std::vector<uint8_t> found;  // labels of pixels, of a file that returns logits
};

#endif  // LIT_DEPLOY_RUNTIME_MODEL_H_
