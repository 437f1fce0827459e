// The plugin MultiLevelRoiAlign: every call that the builder and the runtime make, with right tensors and wrong ones.
#include <cuda_runtime_api.h>

#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "tensorrt_plugin_fakes.h"
#include "tensorrt_plugin_harness.h"

namespace {

using namespace nvinfer1;

constexpr int32_t kInputs = 5;

Plugin create(const Library& library, int32_t output_size) {
  const PluginField field{"output_size", &output_size, PluginFieldType::kINT32, 1};
  const PluginFieldCollection fields{1, &field};
  return Plugin(library.creator->createPlugin("layer", &fields, TensorRTPhase::kBUILD));
}

struct RoiTensors {
  PluginTensorDesc in[kInputs];
  PluginTensorDesc out[1];
};

RoiTensors roi_tensors(DataType type, int64_t rois, int64_t channels, int64_t side, int64_t output_size) {
  const auto tensor = [](DataType of, const Dims& sizes) {
    return PluginTensorDesc{sizes, of, TensorFormat::kLINEAR, 1.0f};
  };
  RoiTensors t{};
  t.in[0] = tensor(DataType::kFLOAT, dims({rois, 4}));
  for (int32_t level = 0; level < 4; ++level) {
    t.in[1 + level] = tensor(type, dims({1, channels, side >> level, (side + 8) >> level}));
  }
  t.out[0] = tensor(type, dims({rois, channels, output_size, output_size}));
  return t;
}

// Any height and width up to 64, as an optimisation profile describes them.
struct DynamicRoiTensors {
  DynamicPluginTensorDesc all[kInputs + 1];
};

DynamicRoiTensors dynamic_tensors(DataType type) {
  const RoiTensors least = roi_tensors(type, 100, 16, 8, 14), most = roi_tensors(type, 100, 16, 64, 14);
  DynamicRoiTensors t{};
  for (int32_t i = 0; i < kInputs; ++i) {
    t.all[i].desc = most.in[i];
    t.all[i].min = least.in[i].dims;
    t.all[i].opt = t.all[i].max = most.in[i].dims;
    for (int32_t axis = 2; i > 0 && axis < 4; ++axis) t.all[i].desc.dims.d[axis] = -1;
  }
  t.all[kInputs].desc = most.out[0];
  t.all[kInputs].min = t.all[kInputs].opt = t.all[kInputs].max = most.out[0].dims;
  return t;
}

void test_creator(const Library& library) {
  IPluginCreatorV3One& creator = *library.creator;
  CHECK(std::strcmp(creator.getPluginName(), "MultiLevelRoiAlign") == 0, "%s", creator.getPluginName());
  CHECK(std::strcmp(creator.getPluginVersion(), "1") == 0, "%s", creator.getPluginVersion());
  CHECK(std::strcmp(creator.getPluginNamespace(), "lit_deploy") == 0, "%s", creator.getPluginNamespace());
  const PluginFieldCollection* names = creator.getFieldNames();
  CHECK(names != nullptr && names->nbFields == 1 && std::strcmp(names->fields[0].name, "output_size") == 0, "fields");

  const auto made = [&](const PluginField& field) {
    const PluginField fields[] = {{"plugin_version", "1", PluginFieldType::kCHAR, 1}, field};
    const PluginFieldCollection collection{2, fields};
    return Plugin(creator.createPlugin("layer", &collection, TensorRTPhase::kBUILD)).self != nullptr;
  };
  const int64_t wide = 14, huge = int64_t{1} << 40;
  const int32_t none = 0;
  CHECK(made({"output_size", &wide, PluginFieldType::kINT64, 1}), "as 64 bits");
  CHECK_REFUSED(made({"output_size", &huge, PluginFieldType::kINT64, 1}), "output_size is 1099511627776 or missing");
  CHECK_REFUSED(made({"output_size", &none, PluginFieldType::kINT32, 1}), "output_size is 0 or missing");
  CHECK_REFUSED(made({"output_size", nullptr, PluginFieldType::kINT32, 1}), "expected one whole number from 1");
  CHECK_REFUSED(made({"output_size", &wide, PluginFieldType::kFLOAT32, 1}), "output_size is 0 or missing");
  CHECK_REFUSED(made({"another", &wide, PluginFieldType::kINT64, 1}), "output_size is 0 or missing");
  CHECK_REFUSED(Plugin(creator.createPlugin("layer", nullptr, TensorRTPhase::kBUILD)).self != nullptr, "layer: ");
  const PluginField version{"plugin_version", "2", PluginFieldType::kCHAR, 1};
  const PluginFieldCollection other{1, &version};
  CHECK_REFUSED(Plugin(creator.createPlugin("layer", &other, TensorRTPhase::kBUILD)).self != nullptr,
                "another plugin_version");
}

void test_types(const Plugin& plugin) {
  CHECK(plugin.build->getNbOutputs() == 1, "%d outputs", plugin.build->getNbOutputs());
  DataType out = DataType::kBOOL;
  const auto types = [&](DataType rois, DataType level, DataType last) {
    const DataType in[] = {rois, level, level, level, last};
    return plugin.build->getOutputDataTypes(&out, 1, in, kInputs) == 0;
  };
  for (DataType type : {DataType::kFLOAT, DataType::kHALF}) {
    CHECK(types(DataType::kFLOAT, type, type) && out == type, "%s", name_of(type));
  }
  CHECK_REFUSED(types(DataType::kHALF, DataType::kHALF, DataType::kHALF), "rois is float16, expected float32");
  CHECK_REFUSED(types(DataType::kFLOAT, DataType::kBF16, DataType::kBF16), "level0 is bfloat16, expected float32 or");
  CHECK_REFUSED(types(DataType::kFLOAT, DataType::kHALF, DataType::kFLOAT), "level3 is float32 and level0 is float16");
  const DataType in[kInputs] = {};
  CHECK_REFUSED(plugin.build->getOutputDataTypes(&out, 1, in, 3) == 0, "3 inputs and 1 outputs, expected rois, level0");
}

void test_shapes(const Plugin& plugin) {
  Builder builder;
  const auto expressions = [&](std::initializer_list<int64_t> sizes, unsigned known) {
    DimsExprs result{};
    for (int64_t size : sizes) {
      result.d[result.nbDims] = builder.size(size, (known >> result.nbDims & 1u) != 0);
      ++result.nbDims;
    }
    return result;
  };
  DimsExprs in[kInputs] = {expressions({100, 4}, 3)};
  for (int32_t level = 0; level < 4; ++level) in[1 + level] = expressions({1, 16, 32 >> level, 40 >> level}, 3);
  DimsExprs out{};
  const auto shapes = [&] { return plugin.build->getOutputShapes(in, kInputs, nullptr, 0, &out, 1, builder) == 0; };
  CHECK(shapes() && out.nbDims == 4, "heights and widths that are not known yet");
  const int64_t expected[] = {100, 16, 14, 14};
  for (int i = 0; i < 4 && out.nbDims == 4; ++i) {
    const Size& size = static_cast<const Size&>(*out.d[i]);
    CHECK(size.constant() && size.value() == expected[i], "dimension %d", i);
  }
  in[2] = expressions({1, 8, 16, 20}, 15);
  CHECK_REFUSED(shapes(), "level1 has the shape [1, 8, 16, 20], expected [1, 16, ?, ?]");
  in[2] = expressions({2, 16, 16, 20}, 15);
  CHECK_REFUSED(shapes(), "level1 has the shape [2, 16, 16, 20], expected [1, 16, ?, ?]");
  in[2] = expressions({1, 16, 0, 20}, 15);
  CHECK_REFUSED(shapes(), "level1 has the shape [1, 16, 0, 20], expected no size of 0");
  in[0] = expressions({100, 5}, 3);
  CHECK_REFUSED(shapes(), "rois has the shape [100, 5], expected [?, 4]");
}

// Every type and format at every position. What lies beyond the position is garbage.
void test_formats(const Plugin& plugin) {
  for (DataType maps : {DataType::kFLOAT, DataType::kHALF, DataType::kBF16, DataType::kINT8}) {
    for (int32_t position = 0; position <= kInputs; ++position) {
      for (int32_t type = 0; type < EnumMax<DataType>(); ++type) {
        for (int32_t format = 0; format < EnumMax<TensorFormat>(); ++format) {
          DynamicRoiTensors t = dynamic_tensors(maps);
          t.all[position].desc.type = static_cast<DataType>(type);
          t.all[position].desc.format = static_cast<TensorFormat>(format);
          for (int i = position + 1; i <= kInputs; ++i) std::memset(&t.all[i], 0xa5, sizeof t.all[i]);
          const DataType of_maps = t.all[1].desc.type, wanted = position == 0 ? DataType::kFLOAT : of_maps;
          const bool floating = position == 0 || of_maps == DataType::kFLOAT || of_maps == DataType::kHALF;
          const bool expected = floating && static_cast<DataType>(type) == wanted &&
                                static_cast<TensorFormat>(format) == TensorFormat::kLINEAR;
          CHECK(plugin.build->supportsFormatCombination(position, t.all, kInputs, 1) == expected,
                "maps of type %d, position %d, type %d, format %d", static_cast<int>(maps), position, type, format);
        }
      }
    }
  }
  const DynamicRoiTensors t = dynamic_tensors(DataType::kFLOAT);
  CHECK(!plugin.build->supportsFormatCombination(kInputs + 1, t.all, kInputs, 1), "no such position");
  CHECK(!plugin.build->supportsFormatCombination(0, t.all, kInputs - 1, 1), "four inputs");
}

void test_sizes(const Plugin& plugin) {
  DynamicRoiTensors t = dynamic_tensors(DataType::kHALF);
  const auto configure = [&] { return plugin.build->configurePlugin(t.all, kInputs, t.all + kInputs, 1) == 0; };
  CHECK(configure(), "as a profile has them");
  t.all[4].min.d[2] = 0;
  CHECK_REFUSED(configure(), "level3 has the shape [1, 16, 0, 2], expected no size of 0");
  t = dynamic_tensors(DataType::kHALF);
  t.all[kInputs].desc.dims.d[3] = 7;
  CHECK_REFUSED(configure(), "y has the shape [100, 16, 14, 7], expected [100, 16, 14, 14]");
  const char* id = plugin.build->getTimingCacheID();
  CHECK(id != nullptr && std::strcmp(id, "lit_deploy.MultiLevelRoiAlign.1.14") == 0, "%s", id);

  RoiTensors run = roi_tensors(DataType::kFLOAT, 30, 8, 64, 14);
  const auto change = [&] { return plugin.runtime->onShapeChange(run.in, kInputs, run.out, 1) == 0; };
  CHECK(change(), "the right tensors");
  run.out[0].dims.d[0] = 29;
  CHECK_REFUSED(change(), "y has the shape [29, 8, 14, 14], expected [30, 8, 14, 14]");
  run = roi_tensors(DataType::kFLOAT, 30, 8, 64, 14);
  run.in[0].type = DataType::kINT32;
  CHECK_REFUSED(change(), "rois is int32");
}

// Stored and loaded, cloned and attached, it still has its size; the originals are gone by then.
void test_life(const Library& library) {
  std::unique_ptr<IPluginV3> clone;
  {
    const Plugin built = create(library, 14);
    clone.reset(built.self->clone());
  }
  const Plugin copy(clone.release());
  const PluginFieldCollection* stored = copy.runtime->getFieldsToSerialize();
  CHECK(stored != nullptr && stored->nbFields == 1, "one field");
  const Plugin loaded(library.creator->createPlugin("layer", stored, TensorRTPhase::kRUNTIME));
  UntouchableContext context;
  const Plugin attached(loaded.runtime->attachToContext(&context));
  CHECK(attached.self != nullptr && attached.self != loaded.self, "a context gets its own plugin");
  test_sizes(attached);
}

}  // namespace

void test_roi_align(const Library& library) {
  test_creator(library);
  const Plugin plugin = create(library, 14);
  CHECK(std::strcmp(plugin.core->getPluginName(), "MultiLevelRoiAlign") == 0, "%s", plugin.core->getPluginName());
  test_types(plugin);
  test_shapes(plugin);
  test_formats(plugin);
  test_sizes(plugin);
  test_life(library);
}

// What the kernel computes is for tests/plugins/test_cuda_roi_align.py; here, that nothing but a launch can fail.
void test_roi_align_enqueue(const Library& library) {
  const Plugin plugin = create(library, 7);
  RoiTensors t = roi_tensors(DataType::kBF16, 2, 8, 64, 7);
  CHECK_REFUSED(plugin.runtime->enqueue(t.in, t.out, nullptr, nullptr, nullptr, nullptr) == 0, "rebuild the engine");
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return;
  t = roi_tensors(DataType::kHALF, 2, 8, 64, 7);
  alignas(16) static float memory[16];
  const void* inputs[] = {memory, memory, memory, memory, memory};
  void* outputs[] = {memory};
  CHECK_REFUSED(plugin.runtime->enqueue(t.in, t.out, inputs, outputs, nullptr, nullptr) == 0,
                "the kernel for rois [2, 4] could not be launched: ");
}
