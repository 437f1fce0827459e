// The service's answers as JSON. Boost.JSON would need a compiled library; this writes six shapes and reads none.
#ifndef LIT_SERVICE_JSON_H_
#define LIT_SERVICE_JSON_H_

#include <string>
#include <string_view>
#include <vector>

#include <lit_runtime.hpp>

namespace lit_service {

// A JSON string, with its quotes. `text` is UTF-8.
std::string quoted(std::string_view text);

// {"error": sentence}
std::string error_json(std::string_view sentence);

// {"name": "lit_s", "network": "lit_s", "task": "classification", "precision": "fp32", "backend": "ONNX Runtime 1.31.0,
// CPU", "path": "/v1/classify?model=lit_s", "classes": 1000, "input": {"height": 224, "width": 224}}. Height and width
// are null of a file that takes any; detectors have "max_detections", "score_threshold" and "masks", too.
std::string model_json(std::string_view name, std::string_view path, const lit_model_info& info);

// {"predictions": [{"class": 1, "label": "dog", "probability": 0.75}, ...]}; probabilities are finite.
std::string predictions_json(const std::vector<lit::Prediction>& predictions);

// {"height": 375, "width": 500, "detections": [{"category_id": 18, "label": "dog", "score": 0.75, "bbox": [x, y, width,
// height], ...}]}, as COCO's results have it; where the model gives masks each with "segmentation": {"size": [height,
// width], "counts": "..."} and "area". The best `top` of what the context's last run found; masks are pasted one by
// one. Where that run left a warning, "complete": false comes last.
std::string detections_json(lit::Context& context, const lit::Detections& found, size_t top);

// {"height": 375, "width": 500, "classes": [{"category_id": 3, "label": "sky", "pixels": 60000, "share": 0.32,
// "segmentation": {"size": [height, width], "counts": "..."}}, ...]}: the `top` largest, equal ones by their labels.
std::string label_map_json(lit::Context& context, const lit::LabelMap& map, size_t top);

}  // namespace lit_service

#endif  // LIT_SERVICE_JSON_H_
