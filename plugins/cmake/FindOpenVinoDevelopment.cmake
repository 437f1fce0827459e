# Finds the headers, libraries and CMake package of OpenVINO (2025.0 or newer), which its Python wheel carries.
#
# Tried in this order, each step printed:
#   1. OpenVINO_DIR (CMake variable, then environment): the folder of OpenVINOConfig.cmake
#   2. the wheel beside the CMake that runs, where that is a wheel, too (make native)
#   3. the wheel of a Python: Python_EXECUTABLE or Python3_EXECUTABLE, VIRTUAL_ENV's, the first on the PATH
#   4. the system's (an archive whose setupvars.sh has run, a package of the distribution)
# The extension works with the release that it was built with and no other, so the wheel that will load it comes first.
#
# Sets OpenVinoDevelopment_FOUND, OpenVinoDevelopment_VERSION and the target OpenVinoDevelopment::OpenVinoDevelopment.

set(_ov_minimum 2025.0)

function(_ov_say text)
  if(NOT OpenVinoDevelopment_FIND_QUIETLY)
    message(STATUS "OpenVINO: ${text}")
  endif()
endfunction()

# The folder of the CMake package of the wheel in one of the folders of Python packages, or "".
function(_ov_in_wheel output)
  foreach(folder IN LISTS ARGN)
    if(EXISTS ${folder}/openvino/cmake/OpenVINOConfig.cmake)
      set(${output} ${folder}/openvino/cmake PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${output} "" PARENT_SCOPE)
endfunction()

# Where a Python keeps its packages. Asked for folders, not for the module: a build that pip isolates does not see the
# modules of the environment it installs into, but runs its Python.
function(_ov_python_folders python output)
  execute_process(
    COMMAND ${python} -c "import sysconfig as s; print(s.get_path('platlib'), s.get_path('purelib'), sep=';')"
    RESULT_VARIABLE code OUTPUT_VARIABLE folders ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT code EQUAL 0)
    set(folders "")
  endif()
  set(${output} "${folders}" PARENT_SCOPE)
endfunction()

function(_ov_look output)
  cmake_path(SET beside NORMALIZE ${CMAKE_COMMAND}/../../../..)  # <packages>/cmake/data/bin/cmake
  _ov_in_wheel(found ${beside})
  if(found)
    set(${output} ${found} PARENT_SCOPE)
    return()
  endif()
  find_program(path_python NAMES python3 python NO_CACHE)
  foreach(python IN ITEMS
      "${Python_EXECUTABLE}" "${Python3_EXECUTABLE}" "$ENV{VIRTUAL_ENV}/bin/python" "${path_python}")
    if(EXISTS "${python}")
      _ov_python_folders(${python} folders)
      _ov_in_wheel(found ${folders})
      if(found)
        break()
      endif()
      _ov_say("${python} has no openvino")
    endif()
  endforeach()
  set(${output} "${found}" PARENT_SCOPE)
endfunction()

# No version is asked for: OpenVINO's package takes another year's number for one that does not fit.
set(_ov_named "${OpenVINO_DIR}")
if(NOT _ov_named)
  set(_ov_named "$ENV{OpenVINO_DIR}")
endif()
if(_ov_named)
  find_package(OpenVINO QUIET CONFIG COMPONENTS Runtime Threading PATHS ${_ov_named} NO_DEFAULT_PATH)
  if(NOT OpenVINO_FOUND)
    # A folder that was named and is wrong should not be papered over by another release.
    message(FATAL_ERROR "OpenVINO_DIR=${_ov_named} holds no OpenVINOConfig.cmake that works; expected the folder of "
      "that file (openvino/cmake in the Python wheel, runtime/cmake in an archive). Correct it, or leave OpenVINO_DIR "
      "out.")
  endif()
else()
  _ov_look(_ov_wheel)
  find_package(OpenVINO QUIET CONFIG COMPONENTS Runtime Threading PATHS ${_ov_wheel} NO_DEFAULT_PATH)
  if(NOT OpenVINO_FOUND)
    find_package(OpenVINO QUIET CONFIG COMPONENTS Runtime Threading)
  endif()
  if(OpenVINO_FOUND)
    _ov_say("found in ${OpenVINO_DIR}")
  else()
    _ov_say("none found")
  endif()
  # Not kept: the next run looks for the wheel of that day.
  unset(OpenVINO_DIR CACHE)
  unset(TBB_DIR CACHE)
endif()
set(_ov_recent FALSE)
if(OpenVINO_FOUND AND NOT OpenVINO_VERSION VERSION_LESS _ov_minimum)
  set(_ov_recent TRUE)
elseif(OpenVINO_FOUND)
  _ov_say("${OpenVINO_VERSION} is too old, needed ${_ov_minimum}")
endif()
set(OpenVinoDevelopment_VERSION ${OpenVINO_VERSION})

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenVinoDevelopment
  REQUIRED_VARS _ov_recent VERSION_VAR OpenVinoDevelopment_VERSION)
if(OpenVinoDevelopment_FOUND AND NOT TARGET OpenVinoDevelopment::OpenVinoDevelopment)
  add_library(OpenVinoDevelopment::OpenVinoDevelopment INTERFACE IMPORTED)
  target_link_libraries(OpenVinoDevelopment::OpenVinoDevelopment INTERFACE openvino::runtime openvino::threading)
endif()
