# Where downloads are kept, and how a package of Debian 13 becomes a folder of headers without being installed.
include_guard()

# ${XDG_CACHE_HOME:-~/.cache}/lit-deploy
function(lit_deploy_cache_folder output)
  if(DEFINED ENV{XDG_CACHE_HOME} AND NOT "$ENV{XDG_CACHE_HOME}" STREQUAL "")
    set(base "$ENV{XDG_CACHE_HOME}")
  elseif(DEFINED ENV{HOME} AND NOT "$ENV{HOME}" STREQUAL "")
    set(base "$ENV{HOME}/.cache")
  else()
    set(base "${CMAKE_BINARY_DIR}")
  endif()
  set(${output} "${base}/lit-deploy" PARENT_SCOPE)
endfunction()

# Downloads a package from the mirror that this machine's own apt uses, once. Sets `folder` to where it is unpacked, or
# to "" and `reason` to what was in the way.
function(lit_deploy_from_debian package file folder reason)
  lit_deploy_cache_folder(cache)
  set(unpacked ${cache}/debian-trixie-${package})
  set(${folder} ${unpacked} PARENT_SCOPE)
  set(${reason} "" PARENT_SCOPE)
  if(EXISTS ${unpacked}/${file})
    return()
  endif()
  set(${folder} "" PARENT_SCOPE)
  find_program(apt_get apt-get NO_CACHE)
  find_program(dpkg dpkg NO_CACHE)
  if(NOT apt_get OR NOT dpkg)
    set(${reason} "no apt-get and dpkg here: Debian's package cannot be fetched" PARENT_SCOPE)
    return()
  endif()
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env LC_ALL=C
      sh ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/fetch_debian_package.sh ${unpacked} ${package} ${file}
    TIMEOUT 120 RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(code EQUAL 0)
    set(${folder} ${unpacked} PARENT_SCOPE)
    return()
  endif()
  string(STRIP "${output}" output)
  string(REGEX REPLACE ".*\n" "" output "${output}")
  set(${reason} "could not fetch Debian's ${package} (${code}): ${output}" PARENT_SCOPE)
endfunction()
