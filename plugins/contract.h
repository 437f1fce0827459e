// Written by `make contract` from lit_deploy/artifacts/contract.py: do not edit.
// What Python and C++ have to agree on.
#ifndef LIT_DEPLOY_CONTRACT_H_
#define LIT_DEPLOY_CONTRACT_H_

#include <array>
#include <cstdint>

namespace lit_deploy::contract {

// The C API.
inline constexpr int64_t kAbiVersion = 1;
inline constexpr int64_t kMaxThreads = 1024;
inline constexpr std::array<const char*, 2> kPrecisionHints = {"f32", "bf16"};

// The operators, and TensorRT's plugins of the same names.
inline constexpr const char* kDomain = "lit_deploy";
inline constexpr const char* kOpType = "DeformableTokenMerging";
inline constexpr const char* kRoiAlignOpType = "MultiLevelRoiAlign";
inline constexpr int64_t kOpVersion = 1;
inline constexpr const char* kOpVersionText = "1";

// The custom-op library of ONNX Runtime.
inline constexpr const char* kDeviceEntry = "lit_deploy.device";
inline constexpr const char* kCudaDevice = "cuda";

// Manifests and sidecars.
inline constexpr const char* kManifestKey = "lit_deploy.manifest";
inline constexpr int64_t kOldestFormat = 1;
inline constexpr int64_t kFormat = 2;
inline constexpr int64_t kMaxBatch = 1024;
inline constexpr int64_t kMaxJsonBytes = 4194304;
inline constexpr int64_t kMaxNesting = 32;
inline constexpr int64_t kMaxRank = 8;
inline constexpr const char* kInputName = "images";
inline constexpr const char* kImageName = "image";
inline constexpr const char* kOriginalSizeName = "original_size";
inline constexpr const char* kCompleteName = "complete";
inline constexpr int64_t kBestClasses = 5;
inline constexpr int64_t kDefaultClasses = 1000;
inline constexpr int64_t kDefaultChannels = 3;
inline constexpr int64_t kMaxDetections = 1000;
inline constexpr double kDefaultScoreThreshold = 0.05;
inline constexpr double kDefaultIouThreshold = 0.5;
inline constexpr int64_t kDefaultMaxDetections = 100;
inline constexpr int64_t kDefaultCandidates = 1000;
inline constexpr std::array<const char*, 4> kTasks = {"classification", "detection", "instance_segmentation", "semantic_segmentation"};
inline constexpr std::array<const char*, 8> kFamilies = {"lit", "lit_ti", "retinanet_lit", "retinanet_lit_ti", "mask_rcnn_lit", "mask_rcnn_lit_ti", "sem_fpn_lit", "sem_fpn_lit_ti"};
inline constexpr std::array<const char*, 5> kOutputs = {"logits", "probabilities", "top5", "results", "features"};
inline constexpr std::array<const char*, 5> kPrecisions = {"fp32", "fp16", "bf16", "int8", "fp8"};
inline constexpr std::array<const char*, 3> kCalibrationMethods = {"minmax", "percentile", "entropy"};
inline constexpr std::array<const char*, 2> kBackends = {"tensorrt", "tensorrt_rtx"};
inline constexpr std::array<const char*, 2> kCompatibilities = {"none", "ampere+"};
inline constexpr std::array<const char*, 5> kRtxTargets = {"8.0", "8.6", "8.9", "12.0", "12.1"};
inline constexpr const char* kFp8Least = "8.9";

// Pictures.
inline constexpr std::array<const char*, 2> kInputKinds = {"float", "uint8"};
inline constexpr std::array<const char*, 2> kInterpolations = {"bicubic", "bilinear"};
inline constexpr std::array<const char*, 2> kResizeRules = {"centre_crop", "keep_ratio"};
inline constexpr std::array<double, 3> kDefaultMean = {0.485, 0.456, 0.406};
inline constexpr std::array<double, 3> kDefaultStd = {0.229, 0.224, 0.225};
inline constexpr int64_t kMaxPixels = 134217728;
inline constexpr int64_t kMaxDetectionPixels = 67108864;
inline constexpr int64_t kMaxSegmentationPixels = 16777216;
inline constexpr int64_t kMinSide = 32;
inline constexpr int64_t kMaxSide = 16384;
inline constexpr int64_t kMaxResize = 16;
inline constexpr double kMaxMean = 10000.0;
inline constexpr double kMinStd = 0.0001;
inline constexpr double kMaxStd = 10000.0;

}  // namespace lit_deploy::contract

#endif  // LIT_DEPLOY_CONTRACT_H_
