# cuDNN's graph API, for attention windows: the headers of cudnn-frontend, and the cuDNN and NVRTC
# that LibTorch brings along. Where one is missing there is no target swiattn_cudnn, and windows are
# left to FlashAttention-2.

# The environment of scripts/setup has the wheel also where LibTorch is another Python's.
file(GLOB environment_include "$ENV{SWIATTN_DEPS}/venv/lib/python3*/site-packages/include")
find_path(SWIATTN_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h
  HINTS "${SWIATTN_SITE}/include" ${environment_include})
find_path(SWIATTN_NVRTC_INCLUDE nvrtc.h
  HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} "${cu}/include" /usr/local/cuda/include)
find_library(SWIATTN_CUDNN NAMES libcudnn.so.9 cudnn HINTS "${SWIATTN_SITE}/nvidia/cudnn/lib")
find_library(SWIATTN_NVRTC NAMES libnvrtc.so.13 nvrtc HINTS "${cu}/lib" /usr/local/cuda/lib64)

set(frontend_version 0)
if(EXISTS "${SWIATTN_CUDNN_FRONTEND_INCLUDE}/cudnn_frontend_version.h")
  file(STRINGS "${SWIATTN_CUDNN_FRONTEND_INCLUDE}/cudnn_frontend_version.h" frontend_version
    REGEX "define CUDNN_FRONTEND_(MAJOR|MINOR)_VERSION")
  string(REGEX REPLACE "[^;]*VERSION ([0-9]+)" "\\1" frontend_version "${frontend_version}")
  string(REPLACE ";" "." frontend_version "${frontend_version}")
endif()

if(frontend_version VERSION_GREATER_EQUAL 1.23 AND frontend_version VERSION_LESS 2
    AND SWIATTN_NVRTC_INCLUDE AND SWIATTN_CUDNN AND SWIATTN_NVRTC)
  add_library(swiattn_cudnn INTERFACE)
  # The frontend brings a JSON library that teaches another of the same version other numbers.
  target_compile_definitions(swiattn_cudnn INTERFACE CUDNN_FRONTEND_SKIP_JSON_LIB)
  target_include_directories(swiattn_cudnn SYSTEM INTERFACE
    "${SWIATTN_CUDNN_FRONTEND_INCLUDE}" "${SWIATTN_NVRTC_INCLUDE}")
  foreach(library IN ITEMS "${SWIATTN_CUDNN}" "${SWIATTN_NVRTC}")
    get_filename_component(folder "${library}" DIRECTORY)
    target_link_options(swiattn_cudnn INTERFACE "LINKER:-rpath,${folder}")
  endforeach()
  target_link_libraries(swiattn_cudnn INTERFACE "${SWIATTN_CUDNN}" "${SWIATTN_NVRTC}")
else()
  message(WARNING "cudnn-frontend 1.23 or newer was not found with cuDNN 9 and NVRTC: attention "
    "windows will use FlashAttention-2, at about half the speed. scripts/setup installs it.")
endif()
