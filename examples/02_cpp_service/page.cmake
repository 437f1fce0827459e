# Writes page.h: page.html with its style and its script inside, and a policy that names the two by their SHA-256, so
# that a browser runs no other script, whatever a label or a file's name may say.
set(LIT_SERVICE_PAGE ${CMAKE_CURRENT_BINARY_DIR}/page)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS page.html page.css page.js)
foreach(part html css js)
  file(READ page.${part} ${part})
endforeach()
string(REPLACE [[<link rel="stylesheet" href="page.css">]] "<style>${css}</style>" html "${html}")
string(REPLACE [[<script src="page.js"></script>]] "<script>${js}</script>" html "${html}")

# The SHA-256 of a text in base64, which CMake has no word for.
function(hash_of text result)
  string(SHA256 hex "${text}")
  set(letters "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
  set(base64 "")
  foreach(at RANGE 0 60 6)  # the 32 bytes and a zero: eleven times three bytes, each four letters of six bits
    string(SUBSTRING ${hex}00 ${at} 6 three)
    foreach(shift 18 12 6 0)
      math(EXPR letter "(0x${three} >> ${shift}) & 63")
      string(SUBSTRING ${letters} ${letter} 1 letter)
      string(APPEND base64 ${letter})
    endforeach()
  endforeach()
  string(REGEX REPLACE "A$" "=" base64 ${base64})
  set(${result} ${base64} PARENT_SCOPE)
endfunction()

hash_of("${css}" css_hash)
hash_of("${js}" js_hash)
configure_file(page.h.in ${LIT_SERVICE_PAGE}/page.h @ONLY)
