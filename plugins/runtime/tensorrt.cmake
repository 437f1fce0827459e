# The TensorRT and TensorRT-RTX back end of lit_deploy_runtime: it is compiled with their headers (10.0 or newer) and
# cuda.h, and loads the libraries when an engine is opened. Classes are laid out differently in TensorRT 10, 11 and
# TensorRT-RTX: the headers decide which of them this library runs (see tensorrt_library.cc).
set(missing "")
find_package(TensorRTHeaders MODULE QUIET)
find_package(CUDAToolkit QUIET)
if(NOT TensorRTHeaders_FOUND)
  list(APPEND missing
    "TensorRT's headers (-DTensorRT_ROOT=<folder>, libnvinfer-headers-dev or -DLIT_DEPLOY_FETCH_TENSORRT_HEADERS=ON)")
endif()
if(NOT TARGET CUDA::toolkit)
  list(APPEND missing "the CUDA toolkit's headers (cuda.h: put nvcc on the PATH, or -DCUDAToolkit_ROOT=<folder>)")
endif()
if(missing)
  list(JOIN missing ", " missing)
  message(WARNING
    "The TensorRT back end of the C runtime is NOT built: not found were ${missing}.\n"
    "Without it, lit_model_open() runs .onnx files and refuses engines.")
  file(REMOVE_RECURSE ${CMAKE_BINARY_DIR}/runtime_fakes)  # of an earlier build with headers: its tests would run
  target_sources(lit_deploy_runtime PRIVATE tensorrt_missing.cc)
  set_property(SOURCE tensorrt_missing.cc PROPERTY COMPILE_DEFINITIONS
    "LIT_DEPLOY_WITHOUT_TENSORRT=\"not found were ${missing}\"")
  return()
endif()

set(tensorrt_sources
  cuda_driver.cc sha256.cc sidecar.cc tensorrt_backend.cc tensorrt_context.cc tensorrt_library.cc tensorrt_preflight.cc)
target_sources(lit_deploy_runtime PRIVATE ${tensorrt_sources})
# In the package of an installed library neither headers nor CUDA are needed.
target_link_libraries(lit_deploy_runtime PRIVATE $<BUILD_INTERFACE:TensorRTHeaders::TensorRTHeaders>)
set_property(SOURCE ${tensorrt_sources} PROPERTY INCLUDE_DIRECTORIES ${CUDAToolkit_INCLUDE_DIRS})
if(LIT_DEPLOY_SANITIZE)
  # TensorRT's objects carry no type information to compare with.
  set_property(SOURCE ${tensorrt_sources} PROPERTY COMPILE_OPTIONS -fno-sanitize=vptr)
endif()
message(STATUS "C runtime: TensorRT back end for ${TensorRTHeaders_VERSION}")

# CUDA and TensorRT played by two libraries, for tests without a GPU (tests/plugins/test_runtime_engine*.py).
# There is no player for TensorRT-RTX's headers, whose versions begin at 1: the tests say so.
if(LIT_DEPLOY_TESTS AND TensorRTHeaders_VERSION VERSION_GREATER_EQUAL 10)
  string(REGEX MATCH "^[0-9]+" major ${TensorRTHeaders_VERSION})
  set(tests ${CMAKE_CURRENT_SOURCE_DIR}/../tests)
  add_library(lit_deploy_fake_cuda SHARED ${tests}/runtime_fake_cuda.cc)
  set_target_properties(lit_deploy_fake_cuda PROPERTIES OUTPUT_NAME cuda VERSION 1 SOVERSION 1)
  add_library(lit_deploy_fake_tensorrt SHARED ${tests}/runtime_fake_tensorrt.cc ${tests}/runtime_fake_engine.cc)
  set_target_properties(lit_deploy_fake_tensorrt PROPERTIES OUTPUT_NAME nvinfer VERSION ${major} SOVERSION ${major})
  target_link_libraries(lit_deploy_fake_tensorrt PRIVATE lit_deploy_fake_cuda TensorRTHeaders::TensorRTHeaders)
  foreach(fake IN ITEMS lit_deploy_fake_cuda lit_deploy_fake_tensorrt)
    target_include_directories(${fake} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
    # A folder of their own: no program but the tests may find them.
    set_target_properties(${fake} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/runtime_fakes)
  endforeach()
endif()
