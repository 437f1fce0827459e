// The plugin RelativePositionAttention: every call of the builder and the runtime, with right tensors and wrong ones.
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "check.h"
#include "tensorrt_plugin_fakes.h"
#include "tensorrt_plugin_harness.h"

namespace {

using namespace nvinfer1;

constexpr int32_t kInputs = 2, kHeads = 3;

IPluginV3* made(const Library& library, const PluginField& heads, const PluginField& scale) {
  const PluginField fields[] = {heads, {"plugin_version", "1", PluginFieldType::kCHAR, 1}, scale};
  const PluginFieldCollection collection{3, fields};
  return library.creator->createPlugin("layer", &collection, TensorRTPhase::kBUILD);
}

Plugin create(const Library& library) {
  const int32_t heads = kHeads;
  const float scale = 0.25f;
  return Plugin(made(library, {"num_heads", &heads, PluginFieldType::kINT32, 1},
                     {"scale", &scale, PluginFieldType::kFLOAT32, 1}));
}

// qkv, table, y of heads of 8 channels.
struct AttentionTensors {
  PluginTensorDesc all[kInputs + 1];
};

AttentionTensors attention_tensors(DataType type, int64_t rows, int64_t columns) {
  const auto tensor = [](DataType of, const Dims& sizes) {
    return PluginTensorDesc{sizes, of, TensorFormat::kLINEAR, 1.0f};
  };
  return {{tensor(type, dims({1, rows * columns, 3 * kHeads * 8})),
           tensor(DataType::kFLOAT, dims({kHeads, 2 * rows - 1, 2 * columns - 1})),
           tensor(type, dims({1, rows * columns, kHeads * 8}))}};
}

// Maps of 4 x 6 to 50 x 76, as an optimisation profile describes them.
struct DynamicAttentionTensors {
  DynamicPluginTensorDesc all[kInputs + 1];
};

DynamicAttentionTensors dynamic_tensors(DataType type) {
  const AttentionTensors least = attention_tensors(type, 4, 6), most = attention_tensors(type, 50, 76);
  DynamicAttentionTensors t{};
  for (int32_t i = 0; i <= kInputs; ++i) {
    t.all[i].desc = most.all[i];
    t.all[i].min = least.all[i].dims;
    t.all[i].opt = t.all[i].max = most.all[i].dims;
    for (int32_t axis = 0; axis < 3; ++axis) {
      if (t.all[i].min.d[axis] != t.all[i].max.d[axis]) t.all[i].desc.dims.d[axis] = -1;
    }
  }
  return t;
}

void test_creator(const Library& library) {
  IPluginCreatorV3One& creator = *library.creator;
  CHECK(std::strcmp(creator.getPluginName(), "RelativePositionAttention") == 0, "%s", creator.getPluginName());
  CHECK(std::strcmp(creator.getPluginNamespace(), "lit_deploy") == 0, "%s", creator.getPluginNamespace());
  const PluginFieldCollection* names = creator.getFieldNames();
  CHECK(names != nullptr && names->nbFields == 2 && std::strcmp(names->fields[0].name, "num_heads") == 0 &&
            std::strcmp(names->fields[1].name, "scale") == 0,
        "fields");
  const int64_t heads = 3, huge = int64_t{1} << 40;
  const float scale = 0.25f, infinite = INFINITY;
  const PluginField good_heads{"num_heads", &heads, PluginFieldType::kINT64, 1};
  const PluginField good_scale{"scale", &scale, PluginFieldType::kFLOAT32, 1};
  const auto takes = [&](const PluginField& a, const PluginField& b) { return Plugin(made(library, a, b)).self != nullptr; };
  CHECK(takes(good_heads, good_scale), "as 64 bits");
  CHECK_REFUSED(takes({"num_heads", &huge, PluginFieldType::kINT64, 1}, good_scale), "num_heads is 1099511627776 or");
  CHECK_REFUSED(takes({"num_heads", &scale, PluginFieldType::kFLOAT32, 1}, good_scale), "num_heads is 0 or missing");
  CHECK_REFUSED(takes(good_heads, {"scale", &infinite, PluginFieldType::kFLOAT32, 1}), "scale is not finite or missing");
  CHECK_REFUSED(takes(good_heads, {"another", &scale, PluginFieldType::kFLOAT32, 1}), "scale is not finite or missing");
  CHECK_REFUSED(Plugin(creator.createPlugin("layer", nullptr, TensorRTPhase::kBUILD)).self != nullptr, "layer: ");
}

void test_types(const Plugin& plugin) {
  DataType out = DataType::kBOOL;
  const auto types = [&](DataType qkv, DataType table) {
    const DataType in[] = {qkv, table};
    return plugin.build->getOutputDataTypes(&out, 1, in, kInputs) == 0;
  };
  for (DataType type : kTypes) CHECK(types(type, DataType::kFLOAT) && out == type, "%s", name_of(type));
  CHECK_REFUSED(types(DataType::kINT8, DataType::kFLOAT), "qkv is int8, expected float32, float16 or bfloat16");
  CHECK_REFUSED(types(DataType::kHALF, DataType::kHALF), "table is float16, expected float32");
  const DataType in[3] = {};
  CHECK_REFUSED(plugin.build->getOutputDataTypes(&out, 1, in, 3) == 0, "3 inputs and 1 outputs, expected qkv, table");
  for (DataType first : {DataType::kHALF, DataType::kBF16, DataType::kINT8}) {
    for (int32_t position = 0; position <= kInputs; ++position) {
      for (int32_t type = 0; type < EnumMax<DataType>(); ++type) {
        for (int32_t format = 0; format < EnumMax<TensorFormat>(); ++format) {
          DynamicAttentionTensors t = dynamic_tensors(first);
          t.all[position].desc.type = static_cast<DataType>(type);
          t.all[position].desc.format = static_cast<TensorFormat>(format);
          for (int i = position + 1; i <= kInputs; ++i) std::memset(&t.all[i], 0xa5, sizeof t.all[i]);
          const DataType qkv = t.all[0].desc.type, wanted = position == 1 ? DataType::kFLOAT : qkv;
          const bool floating =
              position == 1 || qkv == DataType::kFLOAT || qkv == DataType::kHALF || qkv == DataType::kBF16;
          const bool expected = floating && static_cast<DataType>(type) == wanted &&
                                static_cast<TensorFormat>(format) == TensorFormat::kLINEAR;
          CHECK(plugin.build->supportsFormatCombination(position, t.all, kInputs, 1) == expected,
                "qkv of type %d, position %d, type %d, format %d", static_cast<int>(first), position, type, format);
        }
      }
    }
  }
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
  DimsExprs out{};
  const auto shapes = [&](const DimsExprs& qkv, const DimsExprs& table) {
    const DimsExprs in[] = {qkv, table};
    return plugin.build->getOutputShapes(in, kInputs, nullptr, 0, &out, 1, builder) == 0;
  };
  const DimsExprs qkv = expressions({2, 24, 72}, 5), table = expressions({3, 7, 11}, 1);
  CHECK(shapes(qkv, table) && out.nbDims == 3, "a map that is not known yet");
  const int64_t expected[] = {2, 24, 24};
  for (int i = 0; i < 3 && out.nbDims == 3; ++i) {
    CHECK(static_cast<const Size&>(*out.d[i]).value() == expected[i], "dimension %d", i);
  }
  CHECK(shapes(expressions({2, 23, 72}, 7), expressions({0, 0, 0}, 7)), "no table, and any number of tokens");
  const DimsExprs known = expressions({2, 24, 72}, 7);
  CHECK_REFUSED(shapes(known, expressions({3, 7, 9}, 7)), "table has the shape [3, 7, 9], expected [3, 2 * height - 1");
  CHECK_REFUSED(shapes(known, expressions({3, 8, 11}, 7)), "table has the shape [3, 8, 11], expected [3, 2 * height");
  CHECK_REFUSED(shapes(known, expressions({4, 7, 11}, 7)), "table has the shape [4, 7, 11], expected [3, ?, ?]");
  CHECK_REFUSED(shapes(expressions({2, 24, 71}, 7), table), "qkv has the shape [2, 24, 71], expected [batch, tokens");
  CHECK_REFUSED(shapes(expressions({2, 24, 9 * 129}, 7), table), "heads (3) of 1 to 128 channels");
  CHECK_REFUSED(shapes(expressions({24, 72}, 3), table), "qkv has the shape [24, 72], expected [?, ?, ?]");
}

void test_sizes(const Plugin& plugin) {
  DynamicAttentionTensors t = dynamic_tensors(DataType::kHALF);
  const auto configure = [&] { return plugin.build->configurePlugin(t.all, kInputs, t.all + kInputs, 1) == 0; };
  CHECK(configure(), "as a profile has them");
  t.all[1].min.d[2] = 13;
  CHECK_REFUSED(configure(), "table has the shape [3, 7, 13], expected [3, 2 * height - 1");
  t = dynamic_tensors(DataType::kHALF);
  t.all[kInputs].desc.dims.d[2] = 72;
  CHECK_REFUSED(configure(), "y has the shape [1, ?, 72], expected [1, ?, 24]");
  const char* id = plugin.build->getTimingCacheID();
  CHECK(id != nullptr && std::strcmp(id, "lit_deploy.RelativePositionAttention.1.3.0x1p-2") == 0, "%s", id);

  AttentionTensors run = attention_tensors(DataType::kBF16, 7, 5);
  const auto change = [&] { return plugin.runtime->onShapeChange(run.all, kInputs, run.all + kInputs, 1) == 0; };
  CHECK(change(), "the right tensors");
  run.all[kInputs].dims.d[1] = 34;
  CHECK_REFUSED(change(), "y has the shape [1, 34, 24], expected [1, 35, 24]");
  run = attention_tensors(DataType::kBF16, 7, 5);
  run.all[1].type = DataType::kINT32;
  CHECK_REFUSED(change(), "table is int32");
}

// Stored and loaded, cloned and attached, it still has its attributes; the originals are gone by then.
void test_life(const Library& library) {
  std::unique_ptr<IPluginV3> clone;
  {
    const Plugin built = create(library);
    clone.reset(built.self->clone());
  }
  const Plugin copy(clone.release());
  const PluginFieldCollection* stored = copy.runtime->getFieldsToSerialize();
  CHECK(stored != nullptr && stored->nbFields == 2, "two fields");
  const Plugin loaded(library.creator->createPlugin("layer", stored, TensorRTPhase::kRUNTIME));
  UntouchableContext context;
  const Plugin attached(loaded.runtime->attachToContext(&context));
  CHECK(attached.self != nullptr && attached.self != loaded.self, "a context gets its own plugin");
  test_sizes(attached);
}

}  // namespace

void test_attention_plugin(const Library& library) {
  test_creator(library);
  const Plugin plugin = create(library);
  test_types(plugin);
  test_shapes(plugin);
  test_sizes(plugin);
  test_life(library);
}

// What the kernel computes is for tests/plugins/test_cuda_attention.py; here, that nothing but a launch can fail.
void test_attention_plugin_enqueue(const Library& library) {
  const Plugin plugin = create(library);
  AttentionTensors t = attention_tensors(DataType::kINT8, 7, 5);
  CHECK_REFUSED(plugin.runtime->enqueue(t.all, t.all + kInputs, nullptr, nullptr, nullptr, nullptr) == 0, "rebuild the");
  int devices = 0;
  if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return;
  t = attention_tensors(DataType::kHALF, 7, 5);
  alignas(16) static float memory[16];
  const void* inputs[] = {memory, memory};
  void* outputs[] = {memory};
  CHECK_REFUSED(plugin.runtime->enqueue(t.all, t.all + kInputs, inputs, outputs, nullptr, nullptr) == 0,
                "the kernel for qkv [1, 35, 72] could not be launched: ");
}
