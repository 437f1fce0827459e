// Usage: lit_deploy_tensorrt_harness LIBRARY GOLDEN_FILE
//
// Plays the builder and the runtime for liblit_deploy_tensorrt.so: every call in the order in which TensorRT makes it,
// with the right tensors and with wrong ones. Only enqueue() needs a GPU.
#include "tensorrt_plugin_harness.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "check.h"
#include "tensorrt_plugin_fakes.h"

namespace {

using namespace nvinfer1;

struct DynamicTensors {
  DynamicPluginTensorDesc all[4];
};

DynamicPluginTensorDesc range(const PluginTensorDesc& desc, const Dims& least, const Dims& most) {
  DynamicPluginTensorDesc result{};
  result.desc = desc;
  result.min = least;
  result.opt = result.max = most;
  for (int32_t i = 0; i < desc.dims.nbDims; ++i) {
    if (least.d[i] != most.d[i]) result.desc.dims.d[i] = -1;
  }
  return result;
}

// Batch 1 to 32, height and width 8 to 56, as an optimisation profile describes them.
DynamicTensors dynamic_tensors(DataType type, int64_t channels) {
  const Tensors least = tensors(type, 1, 8, 9, channels), most = tensors(type, 32, 56, 57, channels);
  DynamicTensors result{};
  for (int i = 0; i < 3; ++i) result.all[i] = range(most.in[i], least.in[i].dims, most.in[i].dims);
  result.all[3] = range(most.out[0], least.out[0].dims, most.out[0].dims);
  return result;
}

Plugin create(const Library& library, TensorRTPhase phase, const PluginFieldCollection* fields) {
  return Plugin(library.creator->createPlugin("layer", fields, phase));
}

void test_creator(const Library& library) {
  IPluginCreatorV3One& creator = *library.creator;
  const InterfaceInfo info = creator.getInterfaceInfo();
  CHECK(std::strcmp(info.kind, "PLUGIN CREATOR_V3ONE") == 0 && info.major == 1, "%s %d", info.kind, info.major);
  CHECK(std::strcmp(creator.getPluginName(), "DeformableTokenMerging") == 0, "%s", creator.getPluginName());
  CHECK(std::strcmp(creator.getPluginVersion(), "1") == 0, "%s", creator.getPluginVersion());
  CHECK(std::strcmp(creator.getPluginNamespace(), "lit_deploy") == 0, "%s", creator.getPluginNamespace());
  CHECK(creator.getFieldNames() != nullptr && creator.getFieldNames()->nbFields == 0, "the operator has no fields");

  // What parsers may hand over: nothing, or the node's attributes, with or without the closing zero.
  const PluginField good[] = {{"plugin_version", "1", PluginFieldType::kCHAR, 1},
                              {"plugin_namespace", "lit_deploy", PluginFieldType::kCHAR, 10},
                              {"something_else", nullptr, PluginFieldType::kUNKNOWN, 0}};
  const PluginField closed[] = {{"plugin_version", "1", PluginFieldType::kCHAR, 2}};
  const PluginFieldCollection tolerated[] = {{0, nullptr}, {3, good}, {1, closed}};
  for (TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
    CHECK(create(library, phase, nullptr).self != nullptr, "without fields");
    for (const PluginFieldCollection& fields : tolerated) {
      CHECK(create(library, phase, &fields).self != nullptr, "%d fields", fields.nbFields);
    }
  }
  for (const char* version : {"2", "10", ""}) {
    const PluginField field{"plugin_version", version, PluginFieldType::kCHAR,
                            static_cast<int32_t>(std::strlen(version))};
    const PluginFieldCollection fields{1, &field};
    CHECK_REFUSED(create(library, TensorRTPhase::kBUILD, &fields).self != nullptr, "another plugin_version");
  }
}

void test_core(const Plugin& plugin) {
  CHECK(std::strcmp(plugin.core->getPluginName(), "DeformableTokenMerging") == 0, "%s", plugin.core->getPluginName());
  CHECK(std::strcmp(plugin.core->getPluginVersion(), "1") == 0, "%s", plugin.core->getPluginVersion());
  CHECK(std::strcmp(plugin.core->getPluginNamespace(), "lit_deploy") == 0, "%s", plugin.core->getPluginNamespace());
  CHECK(std::strcmp(plugin.core->getInterfaceInfo().kind, "PLUGIN_V3ONE_CORE") == 0, "core");
  CHECK(std::strcmp(plugin.build->getInterfaceInfo().kind, "PLUGIN_V3ONE_BUILD") == 0, "build");
  CHECK(std::strcmp(plugin.runtime->getInterfaceInfo().kind, "PLUGIN_V3ONE_RUNTIME") == 0, "runtime");
  CHECK(plugin.self->getCapabilityInterface(static_cast<PluginCapabilityType>(99)) == nullptr, "no such capability");
}

void test_types(const Plugin& plugin) {
  CHECK(plugin.build->getNbOutputs() == 1, "%d outputs", plugin.build->getNbOutputs());
  for (DataType type : kTypes) {
    const DataType in[] = {type, type, type};
    DataType out = DataType::kBOOL;
    CHECK(plugin.build->getOutputDataTypes(&out, 1, in, 3) == 0 && out == type, "%s", name_of(type));
  }
  DataType out = DataType::kBOOL;
  const DataType mixed[] = {DataType::kHALF, DataType::kFLOAT, DataType::kHALF};
  const DataType integers[] = {DataType::kINT8, DataType::kINT8, DataType::kINT8};
  CHECK_REFUSED(plugin.build->getOutputDataTypes(&out, 1, mixed, 3) == 0, "offset_weight is float32 and x is float16");
  CHECK_REFUSED(plugin.build->getOutputDataTypes(&out, 1, integers, 3) == 0, "x is int8");
  CHECK_REFUSED(plugin.build->getOutputDataTypes(&out, 1, mixed, 2) == 0, "2 inputs");
  CHECK(out == DataType::kBOOL, "a refusal writes nothing");
}

// [B, H, W, C] in terms of the builder; `known` tells which sizes the network fixes.
DimsExprs expressions(Builder& builder, std::initializer_list<int64_t> sizes, unsigned known) {
  DimsExprs result{};
  for (int64_t size : sizes) {
    result.d[result.nbDims] = builder.size(size, (known >> result.nbDims & 1u) != 0);
    ++result.nbDims;
  }
  return result;
}

void test_shapes(const Plugin& plugin) {
  const int64_t cases[][4] = {{1, 2, 2, 1}, {3, 7, 9, 12}, {128, 56, 56, 96}, {0, 8, 8, 4}};
  for (const auto& c : cases) {
    for (unsigned known = 0; known < 16; ++known) {
      Builder builder;
      const DimsExprs in[] = {expressions(builder, {c[0], c[1], c[2], c[3]}, known),
                              expressions(builder, {8, 4 * c[3]}, 3), expressions(builder, {8}, 1)};
      DimsExprs out{};
      CHECK(plugin.build->getOutputShapes(in, 3, nullptr, 0, &out, 1, builder) == 0, "known sizes %u", known);
      CHECK(out.nbDims == 4, "%d dimensions", out.nbDims);
      const int64_t expected[] = {c[0], c[1] / 2, c[2] / 2, 4 * c[3]};
      for (int i = 0; i < 4 && out.nbDims == 4; ++i) {
        const Size& size = static_cast<const Size&>(*out.d[i]);
        CHECK(size.value() == expected[i], "dimension %d is %lld", i, static_cast<long long>(size.value()));
        CHECK(size.constant() == ((known >> i & 1u) != 0), "dimension %d", i);
      }
    }
  }
  Builder builder;
  DimsExprs out{};
  const DimsExprs x = expressions(builder, {2, 8, 8, 4}, 15), weight = expressions(builder, {8, 16}, 3);
  const DimsExprs bias = expressions(builder, {8}, 1), flat = expressions(builder, {2, 64, 4}, 7);
  const DimsExprs thin = expressions(builder, {2, 1, 8, 4}, 15), narrow = expressions(builder, {8, 12}, 3);
  const auto shapes = [&](const DimsExprs& a, const DimsExprs& b, const DimsExprs& c) {
    const DimsExprs in[] = {a, b, c};
    return plugin.build->getOutputShapes(in, 3, nullptr, 0, &out, 1, builder) == 0;
  };
  CHECK(shapes(x, weight, bias), "the right shapes");
  CHECK_REFUSED(shapes(flat, weight, bias), "x has the shape [2, 64, 4], expected [?, ?, ?, ?]");
  CHECK_REFUSED(shapes(thin, weight, bias), "H and W at least 2");
  CHECK_REFUSED(shapes(x, narrow, bias), "offset_weight has the shape [8, 12], expected [8, 16]");
  CHECK_REFUSED(shapes(x, weight, weight), "offset_bias has the shape [8, 16], expected [8]");
  const DimsExprs two[] = {x, weight};
  CHECK_REFUSED(plugin.build->getOutputShapes(two, 2, nullptr, 0, &out, 1, builder) == 0, "2 inputs");
}

// Every type and every format at every position, after every type of x. What lies beyond the position is garbage.
void test_formats(const Plugin& plugin) {
  constexpr int32_t type_count = EnumMax<DataType>(), format_count = EnumMax<TensorFormat>();
  for (int32_t first = 0; first < type_count; ++first) {
    for (int32_t position = 0; position < 4; ++position) {
      for (int32_t type = 0; type < type_count; ++type) {
        for (int32_t format = 0; format < format_count; ++format) {
          DynamicTensors t = dynamic_tensors(static_cast<DataType>(first), 96);
          t.all[position].desc.type = static_cast<DataType>(type);
          t.all[position].desc.format = static_cast<TensorFormat>(format);
          for (int i = position + 1; i < 4; ++i) std::memset(&t.all[i], 0xa5, sizeof t.all[i]);
          const DataType x = t.all[0].desc.type;
          const bool floating = x == DataType::kFLOAT || x == DataType::kHALF || x == DataType::kBF16;
          const bool expected = floating && static_cast<DataType>(type) == x &&
                                static_cast<TensorFormat>(format) == TensorFormat::kLINEAR;
          const bool received = plugin.build->supportsFormatCombination(position, t.all, 3, 1);
          CHECK(received == expected, "x of type %d, position %d, type %d, format %d", first, position, type, format);
        }
      }
    }
  }
  const DynamicTensors t = dynamic_tensors(DataType::kFLOAT, 96);
  CHECK(!plugin.build->supportsFormatCombination(4, t.all, 3, 1), "no such position");
  CHECK(!plugin.build->supportsFormatCombination(0, t.all, 2, 1), "two inputs");
}

void test_configuration(const Plugin& plugin) {
  for (DataType type : kTypes) {
    DynamicTensors t = dynamic_tensors(type, 96);
    const auto configure = [&] { return plugin.build->configurePlugin(t.all, 3, t.all + 3, 1) == 0; };
    CHECK(configure(), "%s", name_of(type));
    CHECK(plugin.build->getWorkspaceSize(t.all, 3, t.all + 3, 1) == 0, "no workspace");
    t.all[0].min.d[1] = 1;
    CHECK_REFUSED(configure(), "[1, 1, 9, 96], expected [B, H, W, C] with H and W at least 2");
    t = dynamic_tensors(type, 96);
    t.all[1].desc.dims.d[1] = 96;
    CHECK_REFUSED(configure(), "offset_weight has the shape [8, 96], expected [8, 384]");
    t = dynamic_tensors(type, 96);
    t.all[3].desc.dims.d[3] = 96;
    CHECK_REFUSED(configure(), "y has the shape [?, ?, ?, 96], expected [?, ?, ?, 384]");
    t = dynamic_tensors(type, 96);
    t.all[0].desc.dims.nbDims = 3;
    CHECK_REFUSED(configure(), "x has the shape [?, ?, ?], expected");
    CHECK_REFUSED(plugin.build->configurePlugin(t.all, 4, t.all + 3, 1) == 0, "4 inputs");
  }
  CHECK(plugin.build->getNbTactics() == 0, "no tactics");
  const char* id = plugin.build->getTimingCacheID();
  CHECK(id != nullptr && std::strlen(id) > 0, "null would switch the timing cache off");
}

void test_shape_change(const Plugin& plugin) {
  for (DataType type : kTypes) {
    Tensors t = tensors(type, 2, 14, 15, 12);
    const auto change = [&] { return plugin.runtime->onShapeChange(t.in, 3, t.out, 1) == 0; };
    CHECK(change(), "%s", name_of(type));
    t.out[0].dims.d[2] = 8;
    CHECK_REFUSED(change(), "y has the shape [2, 7, 8, 48], expected [2, 7, 7, 48]");
    t = tensors(type, 2, 14, 1, 12);
    CHECK_REFUSED(change(), "H and W at least 2");
    t = tensors(type, 2, 14, 15, 12);
    t.in[2].type = DataType::kINT32;
    CHECK_REFUSED(change(), "offset_bias is int32");
  }
}

// Building, storing and loading an engine, with clones as TensorRT makes them; the originals are gone by then.
void test_life(const Library& library) {
  std::unique_ptr<IPluginV3> clone;
  const PluginFieldCollection* fields = nullptr;
  {
    const Plugin built = create(library, TensorRTPhase::kBUILD, library.creator->getFieldNames());
    clone.reset(built.self->clone());
    fields = built.runtime->getFieldsToSerialize();
  }
  CHECK(fields != nullptr && fields->nbFields == 0, "nothing to store");
  const Plugin copy(clone.release());
  test_configuration(copy);
  const Plugin loaded = create(library, TensorRTPhase::kRUNTIME, fields);
  UntouchableContext context;
  const Plugin attached(loaded.runtime->attachToContext(&context));
  CHECK(attached.self != nullptr && attached.self != loaded.self, "a context gets its own plugin");
  test_shape_change(attached);
}

// Builders and contexts call from many threads; the record must not lose a call.
void test_threads(const Library& library) {
  constexpr int kThreads = 4, kRepeats = 5000;
  const int64_t created = library.calls("createPlugin"), cloned = library.calls("clone");
  std::atomic<int> waiting{kThreads};  // all start together
  std::vector<std::thread> threads;
  int failures[kThreads] = {};
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (--waiting; waiting > 0;) std::this_thread::yield();
      for (int n = 0; n < kRepeats; ++n) {
        const Plugin plugin = create(library, TensorRTPhase::kRUNTIME, nullptr);
        const Plugin copy(plugin.self->clone());
        const Tensors t = tensors(kTypes[n % 3], 1 + n % 5, 8, 8, 4);
        if (copy.runtime->onShapeChange(t.in, 3, t.out, 1) != 0) ++failures[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int count : failures) CHECK(count == 0, "%d refusals", count);
  CHECK(library.calls("createPlugin") == created + kThreads * kRepeats, "createPlugin");
  CHECK(library.calls("clone") == cloned + kThreads * kRepeats, "clone");
  CHECK(library.calls("no_such_method") == -1 && library.calls(nullptr) == -1, "unknown names");
}

template <typename Function>
Function symbol(void* library, const char* name) {
  return reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

Plugin::Plugin(IPluginV3* plugin) : self(plugin) {
  if (plugin == nullptr) return;
  core = static_cast<IPluginV3OneCore*>(plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
  build = static_cast<IPluginV3OneBuild*>(plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
  runtime = static_cast<IPluginV3OneRuntime*>(plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

const char* name_of(DataType type) {
  return type == DataType::kFLOAT ? "float32" : type == DataType::kHALF ? "float16" : "bfloat16";
}

Dims dims(std::initializer_list<int64_t> sizes) {
  Dims result{};
  for (int64_t size : sizes) result.d[result.nbDims++] = size;
  return result;
}

Tensors tensors(DataType type, int64_t batch, int64_t height, int64_t width, int64_t channels) {
  const auto tensor = [type](const Dims& sizes) {
    return PluginTensorDesc{sizes, type, TensorFormat::kLINEAR, 1.0f};
  };
  return Tensors{{tensor(dims({batch, height, width, channels})), tensor(dims({8, 4 * channels})), tensor(dims({8}))},
                 {tensor(dims({batch, height / 2, width / 2, 4 * channels}))}};
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s LIBRARY GOLDEN_FILE\n", argv[0]);
    return 2;
  }
  void* handle = dlopen(argv[1], RTLD_LAZY | RTLD_LOCAL);
  if (handle == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  const auto get_creators = symbol<IPluginCreatorInterface* const* (*)(int32_t&)>(handle, "getCreators");
  const auto set_logger_finder = symbol<void (*)(ILoggerFinder*)>(handle, "setLoggerFinder");
  const auto calls = symbol<decltype(&lit_deploy_plugin_calls)>(handle, "lit_deploy_plugin_calls");
  const auto version = symbol<decltype(&lit_deploy_plugin_version)>(handle, "lit_deploy_plugin_version");
  const auto build = symbol<decltype(&lit_deploy_plugin_build)>(handle, "lit_deploy_plugin_build");
  CHECK(get_creators && set_logger_finder && calls && version && build, "an exported function is missing");
  if (counts().failed > 0) return 1;
  std::printf("%s: version %s, %s\n", argv[1], version(), build());
  CHECK(std::strcmp(version(), "1") == 0, "%s", version());
  CHECK(calls("getCreators") == 0 && calls("createPlugin") == 0, "nothing was called yet");

  UntouchableFinder finder;
  set_logger_finder(&finder);
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = get_creators(count);
  CHECK(creators != nullptr && count == 3 && calls("getCreators") == 1, "%d creators", count);
  if (counts().failed > 0) return 1;
  const Library library{static_cast<IPluginCreatorV3One*>(creators[0]), calls};
  const Library roi_align{static_cast<IPluginCreatorV3One*>(creators[1]), calls};
  const Library attention{static_cast<IPluginCreatorV3One*>(creators[2]), calls};

  test_creator(library);
  {
    const Plugin plugin = create(library, TensorRTPhase::kBUILD, library.creator->getFieldNames());
    test_core(plugin);
    test_types(plugin);
    test_shapes(plugin);
    test_formats(plugin);
    test_configuration(plugin);
    test_shape_change(plugin);
  }
  test_life(library);
  test_threads(library);
  test_roi_align(roi_align);
  test_attention_plugin(attention);
  CHECK(calls("enqueue") == 0, "the builder's part reached enqueue()");
  test_roi_align_enqueue(roi_align);
  test_attention_plugin_enqueue(attention);
  test_enqueue(library, argv[2]);
  std::printf("tensorrt_plugin: %d passed, %d failed\n", counts().passed, counts().failed);
  // Not closed: what the library keeps until exit (its own copy of the C++ runtime) would look like a leak.
  return counts().failed == 0 && counts().passed > 0 ? 0 : 1;
}
