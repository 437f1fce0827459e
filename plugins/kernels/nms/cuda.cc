// Checks the arguments and enqueues the rounds.
#include "nms/cuda.h"

#include "nms/cuda_launch.h"

namespace lit_deploy {

cudaError_t nms_cuda_workspace(const NmsOptions& options, int64_t count, size_t& bytes) noexcept {
  bytes = 0;
  cuda::NmsCut cut;
  if (!cuda::cut_nms(options, count, kMaxCudaNmsBoxes, cut)) return cudaErrorInvalidValue;
  if (cut.rounds == 0) return cudaSuccess;
  size_t temporary = 0;
  const cudaError_t error = cuda::sort_keys(nullptr, temporary, nullptr, nullptr, count, nullptr);
  if (error == cudaSuccess) bytes = cut.bytes + temporary;
  return error;
}

cudaError_t nms_cuda(const NmsOptions& options, int64_t count, const float* boxes, const float* scores,
                     const int64_t* classes, int64_t* indices, void* workspace, size_t workspace_bytes,
                     cudaStream_t stream) noexcept {
  cuda::NmsCut cut;
  if (!cuda::cut_nms(options, count, kMaxCudaNmsBoxes, cut) ||
      !cuda::nms_pointers_fit(count, options.max_output, boxes, scores, classes, indices)) {
    return cudaErrorInvalidValue;
  }
  if (options.max_output == 0) return cudaSuccess;
  if (cut.rounds > 0 && (workspace == nullptr || !cuda::is_aligned(workspace, cuda::kNmsAlignment) ||
                         workspace_bytes < cut.bytes)) {
    return cudaErrorInvalidValue;
  }
  // All bits set is -1.
  cudaError_t error =
      cudaMemsetAsync(indices, 0xff, static_cast<size_t>(options.max_output) * sizeof(int64_t), stream);
  if (error != cudaSuccess || cut.rounds == 0) return error;
  const cuda::Suppression s =
      cuda::make_suppression(options, count, cut, boxes, scores, classes, indices, workspace);
  char* const memory = static_cast<char*>(workspace);
  error = cudaMemsetAsync(memory, 0, cut.keys, stream);
  if (error == cudaSuccess) error = cuda::launch_rank(cut, s, stream);
  if (error != cudaSuccess) return error;
  // CUB itself refuses memory that is too small for it.
  size_t temporary = workspace_bytes - cut.bytes;
  error = cuda::sort_keys(memory + cut.bytes, temporary, s.keys, reinterpret_cast<uint64_t*>(memory + cut.sorted),
                          count, stream);
  for (int64_t round = 0; round < cut.rounds && error == cudaSuccess; ++round) {
    const cuda::NmsRound r{s, static_cast<uint32_t>(round) * cut.tiles * cuda::kNmsTile};
    error = cuda::launch_compare(cut, r, stream);
    if (error == cudaSuccess) error = cuda::launch_settle(r, stream);
  }
  return error;
}

}  // namespace lit_deploy
