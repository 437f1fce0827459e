# Finds NvInferRuntime.h, the only thing of TensorRT that the plugin needs at build time.
#
# Tried in this order, each step printed:
#   1. TensorRT_ROOT (CMake variable, then environment): the folder of NVIDIA's archive, or of the headers
#   2. the system's headers (libnvinfer-headers-dev and the like)
#   3. NVIDIA's own CMake packages (archives from 11.2 on)
#   4. with LIT_DEPLOY_FETCH_TENSORRT_HEADERS: include/ of the open repository, at a pinned commit, kept below
#      ${XDG_CACHE_HOME:-~/.cache}/lit-deploy
#
# Sets TensorRTHeaders_FOUND, TensorRTHeaders_INCLUDE_DIR, TensorRTHeaders_VERSION and the target
# TensorRTHeaders::TensorRTHeaders.

# 10.9 is the oldest TensorRT that lit-deploy supports: what compiles against it uses nothing newer. The commit is that
# of the tag v10.9.0; git checks every object it receives against it, so no separate hash is needed.
set(_trt_version 10.9.0)
set(_trt_commit 8c6d69ddec0b2feff12f55472dc5d55cb6861d53)
set(LIT_DEPLOY_TENSORRT_REPOSITORY https://github.com/NVIDIA/TensorRT.git
  CACHE STRING "Where LIT_DEPLOY_FETCH_TENSORRT_HEADERS gets TensorRT's open repository (a mirror will do)")
mark_as_advanced(LIT_DEPLOY_TENSORRT_REPOSITORY)

include(${CMAKE_CURRENT_LIST_DIR}/LitDeployDownloads.cmake)

function(_trt_say text)
  if(NOT TensorRTHeaders_FIND_QUIETLY)
    message(STATUS "TensorRT headers: ${text}")
  endif()
endfunction()

# Looks below one folder only; sets _trt_found in the caller to the folder of the header, or to "".
function(_trt_look folder)
  find_path(candidate NvInferRuntime.h PATHS ${folder} NO_DEFAULT_PATH NO_CACHE
    PATH_SUFFIXES include targets/${CMAKE_SYSTEM_PROCESSOR}-linux-gnu/include include/${CMAKE_LIBRARY_ARCHITECTURE})
  if(NOT candidate)
    set(candidate "")
  endif()
  set(_trt_found "${candidate}" PARENT_SCOPE)
endfunction()

# "10.9.0". From 10.16 on the macros name other macros, which hold the number.
function(_trt_read_version folder output)
  set(parts "")
  if(EXISTS ${folder}/NvInferVersion.h)
    file(READ ${folder}/NvInferVersion.h text)
    foreach(part IN ITEMS MAJOR MINOR PATCH)
      set(name NV_TENSORRT_${part})
      foreach(step RANGE 1)
        if(text MATCHES "#define ${name}[ \t]+([A-Za-z0-9_]+)")
          set(name ${CMAKE_MATCH_1})
        endif()
      endforeach()
      list(APPEND parts ${name})
    endforeach()
  endif()
  list(JOIN parts "." version)
  set(${output} "${version}" PARENT_SCOPE)
endfunction()

# TensorRT 10.0 brought IPluginV3. Asked for by name and not by number, because TensorRT-RTX counts from 1.
function(_trt_is_recent folder output)
  file(STRINGS ${folder}/NvInferRuntime.h lines REGEX "class IPluginV3OneBuild")
  if(lines)
    set(${output} TRUE PARENT_SCOPE)
  else()
    set(${output} FALSE PARENT_SCOPE)
  endif()
endfunction()

# 3. The packages' targets carry the include folder; their names differ from one product to the next.
function(_trt_from_packages)
  set(_trt_found "" PARENT_SCOPE)
  foreach(package IN ITEMS TensorRT-Enterprise TensorRT TensorRT-RTX)
    find_package(${package} CONFIG QUIET)
  endforeach()
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  list(FILTER targets INCLUDE REGEX "^TensorRT")
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    foreach(folder IN LISTS folders)
      if(EXISTS "${folder}/NvInferRuntime.h")
        set(_trt_found "${folder}" PARENT_SCOPE)
        return()
      endif()
    endforeach()
  endforeach()
endfunction()

# 4. git fetches one commit without its files, then the files of include/ alone: a few megabytes.
function(_trt_from_repository)
  set(_trt_found "" PARENT_SCOPE)
  lit_deploy_cache_folder(cache)
  set(folder ${cache}/tensorrt-headers-${_trt_version})
  _trt_look(${folder})
  if(NOT _trt_found)
    find_program(git git NO_CACHE)
    if(NOT git)
      _trt_say("no git here: the headers cannot be fetched")
      return()
    endif()
    _trt_say("fetching ${_trt_version} (${_trt_commit}) from ${LIT_DEPLOY_TENSORRT_REPOSITORY}")
    set(work ${CMAKE_BINARY_DIR}/tensorrt-repository)
    file(REMOVE_RECURSE ${work})
    file(MAKE_DIRECTORY ${work})
    foreach(arguments IN ITEMS
        "init|--quiet"
        "remote|add|origin|${LIT_DEPLOY_TENSORRT_REPOSITORY}"
        "fetch|--quiet|--depth=1|--filter=blob:none|origin|${_trt_commit}"
        "checkout|--quiet|${_trt_commit}|--|include|LICENSE")
      string(REPLACE "|" ";" arguments "${arguments}")
      execute_process(COMMAND ${CMAKE_COMMAND} -E env GIT_TERMINAL_PROMPT=0 ${git} ${arguments}
        WORKING_DIRECTORY ${work} TIMEOUT 300 RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
      if(NOT code EQUAL 0)
        string(STRIP "${output}" output)
        string(REGEX REPLACE ".*\n" "" output "${output}")
        _trt_say("git could not fetch them (${code}): ${output}")
        file(REMOVE_RECURSE ${work})
        return()
      endif()
    endforeach()
    # Renamed into place, so that an interrupted configure leaves nothing half done in the cache.
    file(REMOVE_RECURSE ${work}/.git ${folder}.part)
    file(MAKE_DIRECTORY ${cache})
    file(COPY ${work}/ DESTINATION ${folder}.part)
    file(RENAME ${folder}.part ${folder})
    file(REMOVE_RECURSE ${work})
    _trt_look(${folder})
  endif()
  set(_trt_found "${_trt_found}" PARENT_SCOPE)
endfunction()

set(_trt_found "")
set(_trt_root "${TensorRT_ROOT}")
if(NOT _trt_root)
  set(_trt_root "$ENV{TensorRT_ROOT}")
endif()
if(_trt_root)
  _trt_say("looking in TensorRT_ROOT=${_trt_root}")
  _trt_look(${_trt_root})
  if(NOT _trt_found)
    # A folder that was named and is wrong should not be papered over by another version.
    message(FATAL_ERROR "TensorRT_ROOT=${_trt_root} holds no NvInferRuntime.h; expected it there or in include/ (pip "
      "packages of TensorRT carry no headers). Correct the folder, or leave TensorRT_ROOT out.")
  endif()
else()
  _trt_say("TensorRT_ROOT is not set")
  find_path(_trt_system NvInferRuntime.h NO_CACHE NO_SYSTEM_ENVIRONMENT_PATH)
  if(_trt_system)
    set(_trt_found ${_trt_system})
  else()
    _trt_say("none installed on this system")
    _trt_from_packages()
    if(NOT _trt_found)
      _trt_say("no CMake package of NVIDIA's names them")
    endif()
  endif()
  unset(_trt_system)
endif()
if(_trt_found)
  _trt_is_recent(${_trt_found} _trt_recent)
  if(NOT _trt_recent)
    _trt_read_version(${_trt_found} _trt_old)
    if(_trt_root)
      message(FATAL_ERROR "TensorRT_ROOT=${_trt_root} holds TensorRT ${_trt_old}; expected 10.0 or newer. Name a newer "
        "one, or leave TensorRT_ROOT out.")
    endif()
    _trt_say("those in ${_trt_found} are too old (${_trt_old}, needed 10.0)")
    set(_trt_found "")
  endif()
endif()
if(NOT _trt_found AND NOT _trt_root)
  if(LIT_DEPLOY_FETCH_TENSORRT_HEADERS)
    _trt_from_repository()
  else()
    _trt_say("not fetched, LIT_DEPLOY_FETCH_TENSORRT_HEADERS is OFF")
  endif()
endif()

set(TensorRTHeaders_INCLUDE_DIR "${_trt_found}")
unset(TensorRTHeaders_VERSION)
if(_trt_found)
  _trt_read_version(${_trt_found} TensorRTHeaders_VERSION)
  _trt_say("found ${TensorRTHeaders_VERSION} in ${_trt_found}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(TensorRTHeaders
  REQUIRED_VARS TensorRTHeaders_INCLUDE_DIR VERSION_VAR TensorRTHeaders_VERSION)
if(TensorRTHeaders_FOUND AND NOT TARGET TensorRTHeaders::TensorRTHeaders)
  add_library(TensorRTHeaders::TensorRTHeaders INTERFACE IMPORTED GLOBAL)
  # SYSTEM: their warnings are not ours to mend.
  target_include_directories(TensorRTHeaders::TensorRTHeaders SYSTEM INTERFACE ${TensorRTHeaders_INCLUDE_DIR})
endif()
