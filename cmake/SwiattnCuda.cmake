# The GPU half of the dependencies: nvcc, the CUDA runtime, cuBLAS and NCCL that LibTorch itself uses.
#
# Kernels (.cu) never include LibTorch: they take plain pointers, so that a file compiles in seconds.

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(SWIATTN_NVCC nvcc HINTS "${SWIATTN_SITE}/nvidia/cu13/bin" /usr/local/cuda/bin)
  if(NOT SWIATTN_NVCC)
    message(FATAL_ERROR "nvcc was not found. Run scripts/setup, set CUDACXX, or build with the preset 'cpu'.")
  endif()
  set(CMAKE_CUDA_COMPILER "${SWIATTN_NVCC}")
endif()
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  # Newer GPUs translate the intermediate code of 8.0 when a kernel is first used.
  set(CMAKE_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "GPU architectures")
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)

set(cu "${SWIATTN_SITE}/nvidia/cu13")
# The compiler's own headers (crt/) first; cuBLAS's may lie with LibTorch's libraries only.
find_path(SWIATTN_CUDA_INCLUDE crt/host_defines.h
  HINTS ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} "${cu}/include" /usr/local/cuda/include REQUIRED)
find_path(SWIATTN_CUBLAS_INCLUDE cublas_v2.h
  HINTS "${cu}/include" ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} /usr/local/cuda/include REQUIRED)
find_library(SWIATTN_CUDART NAMES libcudart.so.13 cudart HINTS "${cu}/lib" /usr/local/cuda/lib64 REQUIRED)
find_library(SWIATTN_CUBLASLT NAMES libcublasLt.so.13 cublasLt HINTS "${cu}/lib" /usr/local/cuda/lib64 REQUIRED)
find_library(SWIATTN_NCCL NAMES libnccl.so.2 nccl HINTS "${SWIATTN_SITE}/nvidia/nccl/lib" REQUIRED)
find_path(SWIATTN_NCCL_INCLUDE nccl.h HINTS "${SWIATTN_SITE}/nvidia/nccl/include" REQUIRED)
find_path(SWIATTN_NVTX_INCLUDE nvtx3/nvToolsExt.h
  HINTS "${cu}/include" ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES} /usr/local/cuda/include REQUIRED)
find_path(SWIATTN_CUDNN_INCLUDE cudnn.h HINTS "${SWIATTN_SITE}/nvidia/cudnn/include" REQUIRED)

add_library(swiattn_cuda INTERFACE)
target_compile_definitions(swiattn_cuda INTERFACE SWIATTN_CUDA=1)
target_compile_options(swiattn_cuda INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:--expt-relaxed-constexpr -lineinfo -Xcompiler=-Wall>")
target_include_directories(swiattn_cuda SYSTEM INTERFACE
  "${SWIATTN_CUDA_INCLUDE}" "${SWIATTN_CUBLAS_INCLUDE}" "${SWIATTN_NCCL_INCLUDE}"
  "${SWIATTN_NVTX_INCLUDE}" "${SWIATTN_CUDNN_INCLUDE}")
foreach(library IN ITEMS "${SWIATTN_CUDART}" "${SWIATTN_CUBLASLT}" "${SWIATTN_NCCL}")
  get_filename_component(folder "${library}" DIRECTORY)
  target_link_options(swiattn_cuda INTERFACE "LINKER:-rpath,${folder}")
endforeach()
target_link_libraries(swiattn_cuda INTERFACE
  "${SWIATTN_CUDART}" "${SWIATTN_CUBLASLT}" "${SWIATTN_NCCL}")
# Nothing of ours names a symbol of libtorch_cuda by itself, yet it registers the CUDA operators.
target_link_libraries(swiattn_torch INTERFACE
  swiattn_cuda "-Wl,--push-state,--no-as-needed" torch_cuda c10_cuda "-Wl,--pop-state")

include(SwiattnCudnn)
