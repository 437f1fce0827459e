// The most probable classes of one image.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "model.h"

namespace lit_deploy::runtime {

void find_top_k(const Network& network, const lit_output& output, int64_t image, size_t k, lit_prediction* predictions,
                size_t* count) {
  const Manifest& manifest = network.manifest;
  network.require_task(!manifest.is_dense(), "lit_top_k()");
  require(manifest.output != LIT_FEATURES,
          "this model gives features, which name no classes; compare them or index them, or export the checkpoint again "
          "with --output logits");
  const bool top5 = manifest.output == LIT_TOP5;
  require(output.scores != nullptr && (output.classes != nullptr) == top5 && output.count == manifest.scores(),
          "the output is not one of this model");
  require(image >= 0 && image < output.batch,
          "image is " + std::to_string(image) + "; the output has " + std::to_string(output.batch) + " of them");
  const float* scores = output.scores + image * output.count;
  std::vector<double> probabilities(scores, scores + output.count);
  if (manifest.output == LIT_LOGITS) {
    const double highest = *std::max_element(probabilities.begin(), probabilities.end());
    double sum = 0;
    for (double& value : probabilities) {
      value = std::exp(value - highest);
      sum += value;
    }
    for (double& value : probabilities) value /= sum;
  }
  std::vector<int64_t> order(probabilities.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  const size_t best = std::min(k, order.size());
  if (!top5) {
    std::partial_sort(order.begin(), order.begin() + best, order.end(), [&](int64_t a, int64_t b) {
      const double left = probabilities[a], right = probabilities[b];
      if (std::isnan(left) || std::isnan(right))
        return std::isnan(left) == std::isnan(right) ? a < b : std::isnan(right);
      return left != right ? left > right : a < b;
    });
  }
  for (size_t i = 0; i < best; ++i) {
    const int64_t index = top5 ? output.classes[image * output.count + order[i]] : order[i];
    require(index >= 0 && index < manifest.classes(),
            "the output names class " + std::to_string(index) + ", which the model does not have");
    predictions[i] = {index, static_cast<float>(probabilities[order[i]]), manifest.labels[index].c_str()};
  }
  *count = best;
}

}  // namespace lit_deploy::runtime
