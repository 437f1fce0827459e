// The service's answers as JSON. Boost.JSON would need a compiled library; this writes three shapes and reads none.
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

// {"predictions": [{"class": 1, "label": "dog", "probability": 0.75}, ...]}; probabilities are finite.
std::string predictions_json(const std::vector<lit::Prediction>& predictions);

}  // namespace lit_service

#endif  // LIT_SERVICE_JSON_H_
