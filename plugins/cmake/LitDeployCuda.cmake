# Turns LIT_DEPLOY_CUDA (AUTO, ON, OFF) into LIT_DEPLOY_HAS_CUDA, enables the CUDA language if so, and chooses the
# architectures: CMAKE_CUDA_ARCHITECTURES or the environment's CUDAARCHS where the user gives one, else machine code for
# every data-centre and desktop GPU that this nvcc knows from compute capability 8.0 on (the kernel's tensor-core
# products need it), and PTX for the rest, which the driver compiles: of the first for what lies between (Jetson), of
# the last for what comes later.
set(LIT_DEPLOY_HAS_CUDA FALSE)
if(NOT LIT_DEPLOY_CUDA)
  message(STATUS "CUDA kernel: off (LIT_DEPLOY_CUDA=${LIT_DEPLOY_CUDA})")
  return()
endif()

set(_minimum_cuda 11.8)  # the first that knows compute capability 9.0

# What is missing stops the build where CUDA was asked for, and is said loudly where it was not.
macro(lit_deploy_without_cuda reason)
  if(NOT LIT_DEPLOY_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "LIT_DEPLOY_CUDA=${LIT_DEPLOY_CUDA}, but ${reason}. Install the CUDA toolkit (${_minimum_cuda} "
      "or newer) and put its bin folder on the PATH, name its nvcc with -DCMAKE_CUDA_COMPILER=<nvcc> in a new build "
      "folder, or leave CUDA out with -DLIT_DEPLOY_CUDA=OFF.")
  endif()
  message(WARNING "The CUDA kernel is NOT built: ${reason}. The libraries run on the CPU alone. To get it, install the "
    "CUDA toolkit (${_minimum_cuda} or newer), put its bin folder on the PATH and build again in a new build folder; "
    "-DLIT_DEPLOY_CUDA=OFF silences this.")
  return()
endmacro()

set(_own_architectures FALSE)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND "$ENV{CUDAARCHS}" STREQUAL "")
  set(_own_architectures TRUE)
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  lit_deploy_without_cuda("no working nvcc was found")
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS _minimum_cuda)
  lit_deploy_without_cuda("${CMAKE_CUDA_COMPILER} is of CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
endif()
find_package(CUDAToolkit)
if(NOT TARGET CUDA::cudart_static)
  lit_deploy_without_cuda("the CUDA runtime's static library (libcudart_static.a) was not found")
endif()

if(_own_architectures)
  set(_architectures 80 86-real 89-real)
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
