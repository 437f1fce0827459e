# Finds onnxruntime_c_api.h, the only thing of ONNX Runtime that the custom-op library needs at build time.
#
# Tried in this order, each step printed:
#   1. ONNXRUNTIME_ROOT (CMake variable, then environment): the folder of a release archive, or of the headers
#   2. the system's headers (libonnxruntime-dev and the like)
#   3. the headers of ONNX Runtime's release archive, checked against its SHA-256
#   4. Debian 13's libonnxruntime-dev, unpacked into a private folder, not installed
# 3 and 4 need LIT_DEPLOY_DOWNLOAD_HEADERS and keep what they fetch below ${XDG_CACHE_HOME:-~/.cache}/lit-deploy.
#
# Sets OnnxRuntimeHeaders_FOUND, OnnxRuntimeHeaders_INCLUDE_DIR, OnnxRuntimeHeaders_VERSION (the ORT_API_VERSION)
# and the target OnnxRuntimeHeaders::OnnxRuntimeHeaders.

set(_ort_version 1.21.0)
set(_ort_minimum_api 17)
set(_ort_archive onnxruntime-linux-x64-${_ort_version})  # the headers are the same for every processor
set(_ort_sha256 7485c7e7aac6501b27e353dcbe068e45c61ab51fbaf598d13970dfae669d20bf)
set(_ort_suffixes include include/onnxruntime onnxruntime include/onnxruntime/core/session)

include(${CMAKE_CURRENT_LIST_DIR}/LitDeployDownloads.cmake)

function(_ort_say text)
  if(NOT OnnxRuntimeHeaders_FIND_QUIETLY)
    message(STATUS "ONNX Runtime headers: ${text}")
  endif()
endfunction()

# Looks below one folder only; sets _ort_found in the caller to the folder of the header, or to "".
function(_ort_look folder)
  unset(candidate CACHE)
  find_path(candidate onnxruntime_c_api.h PATHS ${folder} PATH_SUFFIXES ${_ort_suffixes} NO_DEFAULT_PATH NO_CACHE)
  if(NOT candidate)
    set(candidate "")
  endif()
  set(_ort_found "${candidate}" PARENT_SCOPE)
endfunction()

function(_ort_api_version folder output)
  file(STRINGS ${folder}/onnxruntime_c_api.h line REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX REPLACE "[^0-9]" "" version "${line}")
  set(${output} "${version}" PARENT_SCOPE)
endfunction()

# 3. The release archive: downloaded, checked, and only its include/ kept.
function(_ort_from_release cache)
  set(folder ${cache}/${_ort_archive})
  _ort_look(${folder})
  if(NOT _ort_found)
    set(url https://github.com/microsoft/onnxruntime/releases/download/v${_ort_version}/${_ort_archive}.tgz)
    set(archive ${CMAKE_BINARY_DIR}/${_ort_archive}.tgz)
    lit_deploy_download(${url} ${_ort_sha256} ${archive} reason)
    if(reason)
      _ort_say("${reason}")
      set(_ort_found "" PARENT_SCOPE)
      return()
    endif()
    file(ARCHIVE_EXTRACT INPUT ${archive} DESTINATION ${CMAKE_BINARY_DIR}/onnxruntime-unpacked PATTERNS "*/include/*")
    file(REMOVE ${archive})
    # Renamed into place, so that an interrupted configure leaves nothing half done in the cache.
    file(MAKE_DIRECTORY ${cache})
    file(COPY ${CMAKE_BINARY_DIR}/onnxruntime-unpacked/${_ort_archive}/ DESTINATION ${folder}.part)
    file(RENAME ${folder}.part ${folder})
    file(REMOVE_RECURSE ${CMAKE_BINARY_DIR}/onnxruntime-unpacked)
    _ort_look(${folder})
  endif()
  set(_ort_found "${_ort_found}" PARENT_SCOPE)
endfunction()

set(_ort_found "")
set(_ort_root "${ONNXRUNTIME_ROOT}")
if(NOT _ort_root)
  set(_ort_root "$ENV{ONNXRUNTIME_ROOT}")
endif()
if(_ort_root)
  _ort_say("looking in ONNXRUNTIME_ROOT=${_ort_root}")
  _ort_look(${_ort_root})
  if(NOT _ort_found)
    # A folder that was named and is wrong should not be papered over by another version.
    message(FATAL_ERROR "ONNXRUNTIME_ROOT=${_ort_root} holds no onnxruntime_c_api.h; expected it there, in include/ or "
      "in include/onnxruntime/. Correct the folder, or leave ONNXRUNTIME_ROOT out.")
  endif()
else()
  _ort_say("ONNXRUNTIME_ROOT is not set")
  find_path(_ort_system onnxruntime_c_api.h PATH_SUFFIXES onnxruntime onnxruntime/core/session NO_CACHE)
  if(_ort_system)
    _ort_api_version(${_ort_system} _ort_api)
    if(_ort_api GREATER_EQUAL _ort_minimum_api)
      set(_ort_found ${_ort_system})
    else()
      _ort_say("those in ${_ort_system} are too old (API ${_ort_api}, needed ${_ort_minimum_api})")
    endif()
  else()
    _ort_say("none installed on this system")
  endif()
  unset(_ort_system)
  if(NOT _ort_found AND NOT LIT_DEPLOY_DOWNLOAD_HEADERS)
    _ort_say("not downloaded, LIT_DEPLOY_DOWNLOAD_HEADERS is OFF")
  elseif(NOT _ort_found)
    lit_deploy_cache_folder(_ort_cache)
    _ort_say("trying ONNX Runtime's release ${_ort_version} (cache ${_ort_cache})")
    _ort_from_release(${_ort_cache})
    if(NOT _ort_found)
      _ort_say("trying Debian 13's libonnxruntime-dev (cache ${_ort_cache})")
      lit_deploy_from_debian(libonnxruntime-dev usr/include/onnxruntime/onnxruntime_c_api.h _ort_unpacked _ort_reason)
      if(_ort_unpacked)
        _ort_look(${_ort_unpacked}/usr)
      else()
        _ort_say("${_ort_reason}")
      endif()
    endif()
  endif()
endif()

set(OnnxRuntimeHeaders_INCLUDE_DIR "${_ort_found}")
if(_ort_found)
  _ort_api_version(${_ort_found} OnnxRuntimeHeaders_VERSION)
  _ort_say("found in ${_ort_found} (API ${OnnxRuntimeHeaders_VERSION})")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OnnxRuntimeHeaders
  REQUIRED_VARS OnnxRuntimeHeaders_INCLUDE_DIR VERSION_VAR OnnxRuntimeHeaders_VERSION)
if(OnnxRuntimeHeaders_FOUND AND NOT TARGET OnnxRuntimeHeaders::OnnxRuntimeHeaders)
  add_library(OnnxRuntimeHeaders::OnnxRuntimeHeaders INTERFACE IMPORTED GLOBAL)
  # SYSTEM: their warnings are not ours to mend.
  target_include_directories(OnnxRuntimeHeaders::OnnxRuntimeHeaders SYSTEM INTERFACE ${OnnxRuntimeHeaders_INCLUDE_DIR})
endif()
