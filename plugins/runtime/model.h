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

namespace lit_deploy::runtime {

// What a model and its contexts share.
struct Network {
  Manifest manifest;
  std::unique_ptr<Backend> backend;
  lit_model_info info;
};

inline void require(bool condition, const std::string& sentence) {
  if (!condition) throw Error(LIT_INVALID_ARGUMENT, sentence);
}

// No release's lit_options comes near this; what a stack holds by chance does.
inline constexpr size_t kLargestOptions = 4096;

// lit_options as any release's header declares them; NULL for the defaults.
Options parse_options(const lit_options* given);

// lit_run() and lit_run_images(): fill `output` but for its `count`, and its `batch` in the former.
void run_tensor(lit_context& context, const lit_tensor& input, lit_output* output);
void run_images(lit_context& context, const lit_image* images, size_t count, lit_output* output);

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
};

#endif  // LIT_DEPLOY_RUNTIME_MODEL_H_
