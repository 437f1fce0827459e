# Turns LIT_DEPLOY_CUDA (AUTO, ON, OFF) into LIT_DEPLOY_HAS_CUDA, enables the CUDA language if so, and chooses the
# architectures: CMAKE_CUDA_ARCHITECTURES or the environment's CUDAARCHS where the user gives one, else machine code for
# every data-centre and desktop GPU that this nvcc knows from compute capability 8.0 on (the kernel's tensor-core
# products need it), and PTX of the last, which the driver compiles for what comes later.
set(LIT_DEPLOY_HAS_CUDA FALSE)
if(NOT LIT_DEPLOY_CUDA)
  message(STATUS "CUDA kernel: off (LIT_DEPLOY_CUDA=${LIT_DEPLOY_CUDA})")
  return()
endif()

set(_own_architectures FALSE)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND "$ENV{CUDAARCHS}" STREQUAL "")
  set(_own_architectures TRUE)
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT LIT_DEPLOY_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "LIT_DEPLOY_CUDA=${LIT_DEPLOY_CUDA}, but no working nvcc was found: install the CUDA toolkit "
      "(11.8 or newer) and put its bin folder on the PATH, name it with -DCMAKE_CUDA_COMPILER=<nvcc>, or leave CUDA "
      "out with -DLIT_DEPLOY_CUDA=OFF.")
  endif()
  message(STATUS "CUDA kernel: NOT built, no working nvcc (CUDA toolkit 11.8 or newer) was found")
  return()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

if(_own_architectures)
  set(_architectures 80-real 86-real 89-real)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
    list(APPEND _architectures 90)
  else()
    list(APPEND _architectures 90-real 100-real 120)
  endif()
  # FORCE: enable_language has just put the compiler's own choice there. In the cache, so that the next run finds it.
  set(CMAKE_CUDA_ARCHITECTURES ${_architectures} CACHE STRING "CUDA architectures" FORCE)
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG")
set(LIT_DEPLOY_HAS_CUDA TRUE)
message(STATUS "CUDA kernel: nvcc ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")
