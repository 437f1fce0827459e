// What a model does with pictures, and where it is asked for it.
#ifndef LIT_SERVICE_TASK_H_
#define LIT_SERVICE_TASK_H_

#include <cstddef>
#include <string_view>

#include <lit_runtime.hpp>

namespace lit_service {

enum class Task { kClassify, kDetect, kSegment };

inline Task task_of(const lit::Model& model) {
  const std::string_view name = model.info().task;
  if (name == "classification") return Task::kClassify;
  return name == "semantic_segmentation" ? Task::kSegment : Task::kDetect;
}

// Which of them give more than JSON: a picture with what was found drawn into it, or one of labels.
inline bool gives_picture(Task task) { return task != Task::kClassify; }

inline const char* path_of(Task task) {
  constexpr const char* kPaths[] = {"/v1/classify", "/v1/detect", "/v1/segment"};
  return kPaths[static_cast<int>(task)];
}

// How many classes or objects are told where the query does not say: of classes that are not in the picture five, else
// all that there are.
inline size_t usual_top(Task task) { return task == Task::kClassify ? 5 : 1000; }

}  // namespace lit_service

#endif  // LIT_SERVICE_TASK_H_
