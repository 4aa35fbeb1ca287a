# Finds what the project stands on. docs/dependencies.md says why each is here.
#
# LibTorch is used through an imported target of our own: its include folder brings headers named
# fmt/ and google/ that would shadow the distribution's, so it is searched last (-idirafter).

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(ZLIB REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
if(SWIATTN_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

# A library that ships a header and a shared object but no CMake package.
function(swiattn_find_library target header)
  cmake_parse_arguments(ARG "" "" "NAMES" ${ARGN})
  string(MAKE_C_IDENTIFIER "SWIATTN_${target}" key)
  find_path(${key}_INCLUDE ${header} REQUIRED)
  find_library(${key}_LIBRARY NAMES ${ARG_NAMES} REQUIRED)
  mark_as_advanced(${key}_INCLUDE ${key}_LIBRARY)
  add_library(${target} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES
    IMPORTED_LOCATION "${${key}_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${${key}_INCLUDE}")
endfunction()
swiattn_find_library(swiattn::zstd zstd.h NAMES zstd)
swiattn_find_library(swiattn::xxhash xxhash.h NAMES xxhash)
swiattn_find_library(swiattn::pcre2 pcre2.h NAMES pcre2-8)
swiattn_find_library(swiattn::sentencepiece sentencepiece_processor.h NAMES sentencepiece)

# yaml-cpp 0.7 exports `yaml-cpp`, 0.8 `yaml-cpp::yaml-cpp`.
if(NOT TARGET yaml-cpp::yaml-cpp)
  add_library(yaml-cpp::yaml-cpp ALIAS yaml-cpp)
endif()

if(NOT SWIATTN_TORCH)
  find_program(SWIATTN_PYTHON NAMES python3)
  execute_process(COMMAND ${SWIATTN_PYTHON} -c "import torch, os; print(os.path.dirname(torch.__file__))"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(SWIATTN_TORCH "${found}" CACHE PATH "LibTorch: the folder with include/ and lib/" FORCE)
endif()
if(NOT EXISTS "${SWIATTN_TORCH}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch was not found: '${SWIATTN_TORCH}/lib/libtorch_cpu.so' does not exist. "
    "Run scripts/setup, or give -DSWIATTN_TORCH=FOLDER with the folder that holds include/ and lib/.")
endif()

# Torch's own headers need its CUDA and cuDNN neighbours when the GPU parts are built.
get_filename_component(SWIATTN_SITE "${SWIATTN_TORCH}" DIRECTORY)
add_library(swiattn_torch INTERFACE)
target_compile_options(swiattn_torch INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${SWIATTN_TORCH}/include>"
  "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${SWIATTN_TORCH}/include/torch/csrc/api/include>")
target_link_directories(swiattn_torch INTERFACE "${SWIATTN_TORCH}/lib")
target_link_options(swiattn_torch INTERFACE "LINKER:-rpath,${SWIATTN_TORCH}/lib")
target_link_libraries(swiattn_torch INTERFACE torch_cpu c10)

if(SWIATTN_CUDA)
  include(SwiattnCuda)
endif()
