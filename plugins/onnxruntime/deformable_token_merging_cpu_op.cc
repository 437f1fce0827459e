// The operator on the CPU execution provider: float32 and float16, on ONNX Runtime's own threads.
#include <new>

#include "deformable_token_merging.h"
#include "deformable_token_merging_op.h"

namespace lit_deploy::ort {
namespace {

struct CpuKernel {
  const OrtApi* api;
};

// T is float, or uint16_t for the bits of a half.
template <typename T>
struct Job {
  MergingShape shape;
  const T* x;
  const T* offset_weight;
  const T* offset_bias;
  T* y;

  static void run_row(void* job, size_t row) {
    const Job& j = *static_cast<const Job*>(job);
    const int64_t begin = static_cast<int64_t>(row);
    deformable_token_merging(j.shape, j.x, j.offset_weight, j.offset_bias, j.y, begin, begin + 1);
  }
};

template <typename T>
OrtStatus* read_input(const OrtApi* api, const OrtKernelContext* context, size_t index, const T*& data, Dims& dims) {
  const OrtValue* value = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetInput(context, index, &value));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  LIT_RETURN_IF_ERROR(api->GetTensorTypeAndShape(value, &info));
  OrtStatus* status = read_dims(api, info, dims);
  api->ReleaseTensorTypeAndShapeInfo(info);
  LIT_RETURN_IF_ERROR(status);
  void* untyped = nullptr;
  LIT_RETURN_IF_ERROR(api->GetTensorMutableData(const_cast<OrtValue*>(value), &untyped));  // the C API has no const one
  data = static_cast<const T*>(untyped);
  return nullptr;
}

template <typename T>
OrtStatus* ORT_API_CALL compute(void* kernel, OrtKernelContext* context) {
  const OrtApi* api = static_cast<const CpuKernel*>(kernel)->api;
  Job<T> job{};
  Dims x, offset_weight, offset_bias;
  LIT_RETURN_IF_ERROR(read_input(api, context, 0, job.x, x));
  LIT_RETURN_IF_ERROR(read_input(api, context, 1, job.offset_weight, offset_weight));
  LIT_RETURN_IF_ERROR(read_input(api, context, 2, job.offset_bias, offset_bias));
  LIT_RETURN_IF_ERROR(check_dims(api, x, offset_weight, offset_bias));

  job.shape = MergingShape{x.size[0], x.size[1], x.size[2], x.size[3]};
  const int64_t dims[4] = {job.shape.batch, job.shape.output_height(), job.shape.output_width(),
                           4 * job.shape.channels};
  OrtValue* output = nullptr;
  LIT_RETURN_IF_ERROR(api->KernelContext_GetOutput(context, 0, dims, 4, &output));
  void* untyped = nullptr;
  LIT_RETURN_IF_ERROR(api->GetTensorMutableData(output, &untyped));
  job.y = static_cast<T*>(untyped);
  return api->KernelContext_ParallelFor(context, Job<T>::run_row, static_cast<size_t>(job.shape.output_rows()), 0,
                                        &job);
}

OrtStatus* ORT_API_CALL create_kernel(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
  *kernel = nullptr;
  LIT_RETURN_IF_ERROR(check_version(api, info));
  *kernel = new (std::nothrow) CpuKernel{api};
  return *kernel != nullptr ? nullptr : api->CreateStatus(ORT_FAIL, "lit_deploy: out of memory");
}

template <typename T>
void fill_cpu_op(const OrtApi* api, ONNXTensorElementDataType type, MergingOp& op) {
  fill_schema(api, type, op);
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.CreateKernelV2 = create_kernel;
  op.KernelComputeV2 = compute<T>;
  op.KernelDestroy = [](void* kernel) { delete static_cast<CpuKernel*>(kernel); };
}

}  // namespace

void make_cpu_ops(const OrtApi* api, MergingOp (&ops)[kCpuOpCount]) {
  fill_cpu_op<float>(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ops[0]);
  fill_cpu_op<uint16_t>(api, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ops[1]);
}

}  // namespace lit_deploy::ort
