// lit_runtime.hpp: lit_runtime.h with destructors and exceptions, for C++17. Header-only; link lit_deploy::runtime.
//
//     const lit::Model model("lit_s.onnx");
//     lit::Context context(model);
//     for (const lit::Prediction& best : context.classify({pixels, width, height, 0}, 5))
//       std::printf("%5.1f %% %s\n", 100 * best.probability, best.label);
//
// Of detectors and instance segmentation networks context.detect(), of semantic segmentation context.segment().
//
// Threads, ownership and back ends: as in lit_runtime.h. A function that fails throws lit::Error.
#ifndef LIT_RUNTIME_HPP_
#define LIT_RUNTIME_HPP_

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "lit_runtime.h"

namespace lit {

using Category = lit_category;
using Detections = lit_detections;
using Image = lit_image;
using LabelMap = lit_label_map;
using Mask = lit_mask;
using Output = lit_output;
using Prediction = lit_prediction;
using Prepared = lit_prepared;
using Rle = lit_rle;
using Tensor = lit_tensor;

// A call that failed; what() is its sentence.
class Error : public std::runtime_error {
 public:
  Error(lit_status status, const std::string& sentence) : std::runtime_error(sentence), status_(status) {}
  lit_status status() const noexcept { return status_; }

 private:
  lit_status status_;
};

inline void check(lit_status status) {
  if (status != LIT_OK) throw Error(status, lit_last_error());
}

// Throws LIT_WRONG_VERSION when the library is not one that these declarations describe.
inline void check_abi() {
  if (lit_abi_version() != LIT_ABI_VERSION) {
    throw Error(LIT_WRONG_VERSION, "liblit_deploy_runtime.so has ABI " + std::to_string(lit_abi_version()) +
                                       ", this program was compiled for " + std::to_string(LIT_ABI_VERSION));
  }
}

// lit_options with its defaults in place.
struct Options : lit_options {
  Options() : lit_options() {
    check_abi();
    check(lit_options_init(this, sizeof(lit_options)));
  }
};

// A loaded file. Cheap to copy (copies share it); any number of threads may use one.
class Model {
 public:
  explicit Model(const std::string& path, const Options& options = Options()) {
    lit_model* model = nullptr;
    check(lit_model_open(path.c_str(), &options, &model));
    model_.reset(model, lit_model_close);
  }

  // Valid, like all text in it, while a copy of this Model is.
  const lit_model_info& info() const noexcept { return *lit_model_get_info(model_.get()); }

  // Throws std::out_of_range for an index that no class has.
  std::string label(std::int64_t class_index) const {
    const char* text = lit_model_label(model_.get(), class_index);
    if (text == nullptr) throw std::out_of_range("no class " + std::to_string(class_index));
    return text;
  }

  // What the data set says of a class; its label lives as long as the Model. Not of classifiers.
  Category category(std::int64_t class_index) const {
    Category found{};
    check(lit_model_category(model_.get(), class_index, &found));
    return found;
  }

  // Throws where preprocess() would not take a picture of this size: ask before decoding it.
  void check_size(std::int32_t width, std::int32_t height) const { prepared_size(width, height); }

  // Width and height of what preprocess() makes of a picture of this size; throws as check_size().
  std::pair<std::int32_t, std::int32_t> prepared_size(std::int32_t width, std::int32_t height) const {
    std::pair<std::int32_t, std::int32_t> size;
    check(lit_prepared_size(model_.get(), width, height, &size.first, &size.second));
    return size;
  }

  // One picture as the network takes it: height * width * 3 bytes of prepared_size().
  std::vector<std::uint8_t> preprocess(const Image& image) const {
    const auto [width, height] = prepared_size(image.width, image.height);
    std::vector<std::uint8_t> pixels(std::size_t{3} * static_cast<std::size_t>(height) *
                                     static_cast<std::size_t>(width));
    check(lit_prepare(model_.get(), &image, pixels.data()));
    return pixels;
  }

  // The `k` most probable classes of one image of an output, best first; labels live as long as the Model.
  std::vector<Prediction> top_k(const Output& output, std::int64_t image, std::size_t k) const {
    const std::size_t most = output.count < 0 ? 0 : static_cast<std::size_t>(output.count);
    std::vector<Prediction> best(k < most ? k : most);
    std::size_t count = 0;
    check(lit_top_k(model_.get(), &output, image, best.size(), best.data(), &count));
    best.resize(count);
    return best;
  }

  const lit_model* get() const noexcept { return model_.get(); }

 private:
  std::shared_ptr<lit_model> model_;
};

// What one thread needs to run a model. Movable, not copyable.
class Context {
 public:
  explicit Context(const Model& model) : model_(model) {
    lit_context* context = nullptr;
    check(lit_context_create(model.get(), &context));
    context_.reset(context);
  }

  // Runs prepared images; the output is valid until the next run or the end of the context.
  Output run(const Tensor& input) {
    Output output{};
    check(lit_run(context_.get(), &input, &output));
    return output;
  }

  // Prepares and runs pictures of any size; the output as above.
  Output run(const std::vector<Image>& images) {
    Output output{};
    check(lit_run_images(context_.get(), images.data(), images.size(), &output));
    return output;
  }

  // Names one picture.
  std::vector<Prediction> classify(const Image& image, std::size_t k = 5) {
    return model_.top_k(run(std::vector<Image>{image}), 0, k);
  }

  // The objects of one picture; valid until the next run or the end of the context.
  Detections detect(const Image& image) {
    Detections found{};
    check(lit_detect(context_.get(), &image, &found));
    return found;
  }

  // The same of what Model::preprocess() made.
  Detections detect_prepared(const Prepared& picture) {
    Detections found{};
    check(lit_detect_prepared(context_.get(), &picture, &found));
    return found;
  }

  // The pixels of one object of the last detect(); valid until the next mask, run or end of the context.
  Mask paste_mask(std::int64_t index) {
    Mask mask{};
    check(lit_paste_mask(context_.get(), index, &mask));
    return mask;
  }

  // The same as COCO's run lengths.
  Rle encode_mask(std::int64_t index) {
    Rle rle{};
    check(lit_encode_mask(context_.get(), index, &rle));
    return rle;
  }

  // A class for every pixel of one picture; valid until the next run or the end of the context.
  LabelMap segment(const Image& image) {
    LabelMap map{};
    check(lit_segment(context_.get(), &image, &map));
    return map;
  }

  // The same of what Model::preprocess() made.
  LabelMap segment_prepared(const Prepared& picture) {
    LabelMap map{};
    check(lit_segment_prepared(context_.get(), &picture, &map));
    return map;
  }

  // COCO's run lengths of one label of the last segment(); valid until the next ones, run or end of the context.
  Rle encode_label(std::int64_t label) {
    Rle rle{};
    check(lit_encode_label(context_.get(), label, &rle));
    return rle;
  }

  // What is to be said of the last run's result, "" for nothing: see lit_context_warning().
  std::string warning() const { return lit_context_warning(context_.get()); }

  const Model& model() const noexcept { return model_; }
  lit_context* get() const noexcept { return context_.get(); }

 private:
  struct Destroy {
    void operator()(lit_context* context) const noexcept { lit_context_destroy(context); }
  };
  Model model_;
  std::unique_ptr<lit_context, Destroy> context_;
};

}  // namespace lit

#endif  // LIT_RUNTIME_HPP_
