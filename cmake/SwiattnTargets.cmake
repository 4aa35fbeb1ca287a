# The helpers every folder's CMakeLists.txt uses: one library per folder, one program per main file,
# one test program per test folder. All settings are target properties; nothing here is global but
# where the programs go and which standard they are written in.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

# GCC 12 warns of uninitialised strings in aggregates of tests that are none; the sanitizers
# find the real ones.
add_library(swiattn_options INTERFACE)
target_compile_options(swiattn_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wno-unused-parameter
    -Wno-missing-field-initializers -Wno-maybe-uninitialized -Wno-restrict -Werror=return-type>)
target_include_directories(swiattn_options INTERFACE
  "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/src" "${PROJECT_BINARY_DIR}/generated")
if(SWIATTN_SANITIZE)
  target_compile_options(swiattn_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${SWIATTN_SANITIZE} -fno-omit-frame-pointer>)
  target_link_options(swiattn_options INTERFACE -fsanitize=${SWIATTN_SANITIZE})
endif()

# swiattn_library(NAME SOURCES file... USES target...): the library of one folder.
function(swiattn_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES;USES_PRIVATELY" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC swiattn_options ${ARG_USES} PRIVATE ${ARG_USES_PRIVATELY})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()

# swiattn_program(NAME SOURCES file... USES target...): an executable of build/bin that is installed.
function(swiattn_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE swiattn_options ${ARG_USES})
  # What the build finds next to LibTorch, an installed program must find there too.
  set_target_properties(${name} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endfunction()

# swiattn_test(NAME LABEL label SOURCES file... USES target...): a GoogleTest program whose tests
# ctest lists one by one. The label is one of unit, dist, gpu, fault. One thread a test, since
# ctest runs several at once and OpenMP teams that share cores wait for each other.
function(swiattn_test name)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES;USES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE swiattn_options ${ARG_USES} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    SWIATTN_TEST_FIXTURES="${PROJECT_SOURCE_DIR}/tests/fixtures"
    SWIATTN_PROGRAMS="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  # Tests that start several ranks or time them take two cores; those of a GPU go one at a time.
  set(alone "")
  if(ARG_LABEL MATCHES "dist|fault")
    set(alone PROCESSORS 2)
  elseif(ARG_LABEL MATCHES "gpu")
    set(alone RESOURCE_LOCK gpu)
  endif()
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST NO_PRETTY_VALUES
    PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT 600 ENVIRONMENT OMP_NUM_THREADS=1 ${alone})
endfunction()
