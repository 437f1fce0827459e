// Detectors and segmentation networks: from the caller's picture to objects or a label map of that picture.
#include <algorithm>
#include <cmath>
#include <string>

#include "contract.h"
#include "keep_ratio.h"
#include "model.h"

namespace lit_deploy::runtime {
namespace {

size_t pixel_bytes(PictureSize size) {
  return size_t{3} * static_cast<size_t>(size.width) * static_cast<size_t>(size.height);
}

bool finite(const float* values, size_t count) {
  return std::all_of(values, values + count, [](float value) { return std::isfinite(value); });
}

Error unusable(const std::string& what) {
  return Error(LIT_RUN_FAILED, "the model's answer cannot be used: " + what +
                                   "; check the file with lit-deploy verify, and export it again");
}

Error bad_labels(const Manifest& manifest) {
  return unusable("its labels are outside 0 to " + std::to_string(manifest.classes() - 1));
}

// Runs one picture; what the network says, in the order of promised_outputs(), valid until the next run.
std::vector<Values> run_picture(lit_context& context, const lit_prepared& picture) {
  const Manifest& manifest = context.network->manifest;
  require(picture.pixels != nullptr, "the picture's pixels are NULL; pass the address of its first row");
  const PictureSize size = keep_ratio_size(manifest, picture.original_width, picture.original_height);
  require(picture.width == size.width && picture.height == size.height,
          "the prepared picture has " + std::to_string(picture.width) + " x " + std::to_string(picture.height) +
              " pixels where " + std::to_string(size.width) + " x " + std::to_string(size.height) +
              " are expected for its original; use lit_prepare()");
  context.network->backend->check_picture(size, {picture.original_width, picture.original_height});
  const int64_t original[2] = {picture.original_height, picture.original_width};
  std::vector<Values> inputs(2);
  inputs[0] = {picture.pixels, {1, size.height, size.width, 3}};
  inputs[1] = {original, {2}};
  if (manifest.input.type == LIT_FLOAT32) {
    context.floats.resize(pixel_bytes(size));
    normalize_picture(manifest, picture.pixels, size, context.floats.data());
    inputs[0] = {context.floats.data(), {1, 3, size.height, size.width}};
  }
  std::vector<Values> outputs;
  for (const TensorSpec& promised : promised_outputs(manifest)) {
    outputs.push_back({nullptr, promised.shape});
    std::vector<int64_t>& shape = outputs.back().shape;
    if (promised.fixed()) continue;  // the rest ends in the picture's rows and columns
    shape[shape.size() - 2] = picture.original_height;
    shape[shape.size() - 1] = picture.original_width;
  }
  context.runner->run(inputs, &outputs);
  return outputs;
}

}  // namespace

lit_prepared prepare(lit_context& context, const lit_image& image) {
  const Manifest& manifest = context.network->manifest;
  require(image.pixels != nullptr, "the picture's pixels are NULL; pass the address of its first row");
  const PictureSize size = keep_ratio_size(manifest, image.width, image.height);
  context.pixels.resize(pixel_bytes(size));
  keep_ratio_picture(manifest, image, context.pixels.data());
  return {context.pixels.data(), size.width, size.height, image.width, image.height};
}

void detect(lit_context& context, const lit_prepared& picture, lit_detections* detections) {
  const Manifest& manifest = context.network->manifest;
  Objects& objects = context.objects;
  objects.clear();
  const std::vector<Values> outputs = run_picture(context, picture);
  const auto* boxes = static_cast<const float*>(outputs[0].data);
  const auto* scores = static_cast<const float*>(outputs[1].data);
  const auto* labels = static_cast<const int32_t*>(outputs[2].data);
  const int32_t found = *static_cast<const int32_t*>(outputs[3].data);
  if (found < 0 || found > manifest.dense.max_detections) {
    throw unusable("it counts " + std::to_string(found) + " objects");
  }
  const size_t count = static_cast<size_t>(found);
  const auto* masks = outputs.size() > 4 ? static_cast<const float*>(outputs[4].data) : nullptr;
  const size_t cells = static_cast<size_t>(manifest.dense.mask_size * manifest.dense.mask_size);
  if (!finite(boxes, 4 * count) || !finite(scores, count) || (masks != nullptr && !finite(masks, cells * count))) {
    throw unusable("its boxes, scores or masks are not finite (NaN or infinity)");
  }
  const auto threshold = static_cast<float>(manifest.dense.score_threshold);
  for (size_t i = 0; i < count; ++i) {
    if (labels[i] < 0 || labels[i] >= manifest.classes()) throw bad_labels(manifest);
    if (!(scores[i] > threshold)) continue;
    objects.boxes.insert(objects.boxes.end(), boxes + 4 * i, boxes + 4 * i + 4);
    objects.scores.push_back(scores[i]);
    objects.labels.push_back(labels[i]);
    if (masks != nullptr) objects.masks.push_back(masks + cells * i);
  }
  objects.width = picture.original_width;
  objects.height = picture.original_height;
  *detections = {objects.boxes.data(), objects.scores.data(), objects.labels.data(),
                 static_cast<int64_t>(objects.scores.size()), objects.width, objects.height};
}

const PastedMask& paste_mask(lit_context& context, int64_t index) {
  const Manifest& manifest = context.network->manifest;
  Objects& objects = context.objects;
  require(manifest.task == Task::kInstanceSegmentation,
          std::string("this model is for ") + manifest.task_name() + ", which gives no masks");
  const auto count = static_cast<int64_t>(objects.masks.size());
  require(index >= 0 && index < count, "index is " + std::to_string(index) +
                                           "; the context's last lit_detect() found " + std::to_string(count) +
                                           " objects");
  const auto place = static_cast<size_t>(index);
  paste(objects.masks[place], manifest.dense.mask_size, objects.boxes.data() + 4 * place, objects.width,
        objects.height, &objects.pasted);
  return objects.pasted;
}

const PastedMask& pixels_of_label(lit_context& context, int64_t label) {
  Objects& objects = context.objects;
  const int64_t classes = context.network->manifest.classes();
  require(objects.map != nullptr, "no label map is there; call lit_segment() first");
  require(label >= 0 && label < classes,
          "the label is " + std::to_string(label) + "; the model has 0 to " + std::to_string(classes - 1));
  PastedMask& own = objects.pasted;
  own.area = 0;
  own.pixels.resize(static_cast<size_t>(objects.width) * static_cast<size_t>(objects.height));
  own.left = own.top = 0;
  own.width = objects.width;
  own.height = objects.height;
  for (size_t i = 0; i < own.pixels.size(); ++i) {
    own.pixels[i] = objects.map[i] == label;
    own.area += own.pixels[i];
  }
  return own;
}

void segment(lit_context& context, const lit_prepared& picture, lit_label_map* map) {
  const Manifest& manifest = context.network->manifest;
  context.objects.clear();
  const std::vector<Values> outputs = run_picture(context, picture);
  const auto count = static_cast<size_t>(picture.original_width) * static_cast<size_t>(picture.original_height);
  const auto* labels = static_cast<const uint8_t*>(outputs[0].data);
  if (manifest.output == LIT_LOGITS) {
    const auto* logits = static_cast<const float*>(outputs[0].data);
    const auto classes = static_cast<size_t>(manifest.classes());
    if (!finite(logits, classes * count)) throw unusable("its logits are not finite (NaN or infinity)");
    std::vector<float> best(logits, logits + count);
    context.found.assign(count, 0);
    for (size_t label = 1; label < classes; ++label) {
      const float* const plane = logits + label * count;
      for (size_t i = 0; i < count; ++i) {
        if (plane[i] <= best[i]) continue;  // of equal ones the first
        best[i] = plane[i];
        context.found[i] = static_cast<uint8_t>(label);
      }
    }
    labels = context.found.data();
  } else if (*std::max_element(labels, labels + count) >= manifest.classes()) {
    throw bad_labels(manifest);
  }
  context.objects.map = labels;
  context.objects.width = picture.original_width;
  context.objects.height = picture.original_height;
  *map = {labels, picture.original_width, picture.original_height};
}

}  // namespace lit_deploy::runtime
