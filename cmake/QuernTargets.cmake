# quern_library(NAME): a library of every .cpp in the current folder. quern_test(FILE): a test program.
#
# Instruction-set flags follow a file's name: x_avx2.cpp, x_avx512.cpp, x_avx512_vnni.cpp and x_amx.cpp get that path's flags and
# no other file does. Such files keep everything in internal linkage (docs/architecture.md says why).

set(QUERN_FLAGS_avx2 -mavx2 -mfma -mbmi -mbmi2 -mf16c -maes -mpclmul)
set(QUERN_FLAGS_avx512 ${QUERN_FLAGS_avx2} -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl)
set(QUERN_FLAGS_avx512_vnni ${QUERN_FLAGS_avx512} -mavx512vnni -mavx512vbmi -mavx512bf16)
set(QUERN_FLAGS_amx ${QUERN_FLAGS_avx512_vnni} -mamx-tile -mamx-bf16 -mamx-int8)

string(REGEX MATCH "^(x86_64|AMD64|amd64)$" QUERN_IS_X86 "${CMAKE_SYSTEM_PROCESSOR}")

function(quern_common_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                                           -fno-math-errno)
  # GCC 12 reports overlaps that cannot be in the standard library's own string concatenation (GCC bug 105651).
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-restrict)
  endif()
  if(QUERN_WARNINGS_AS_ERRORS)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  set_target_properties(${target} PROPERTIES INTERPROCEDURAL_OPTIMIZATION ${QUERN_LTO})
  # Counts of a run's branches steer a second build in the same folder (tools/build_pgo.sh). What was not run keeps the usual
  # optimization, for other machines take other paths.
  if(QUERN_PROFILE STREQUAL "generate")
    target_compile_options(${target} PUBLIC -fprofile-generate=${PROJECT_BINARY_DIR}/profile -fprofile-update=prefer-atomic)
    target_link_options(${target} PUBLIC -fprofile-generate=${PROJECT_BINARY_DIR}/profile)
  elseif(QUERN_PROFILE STREQUAL "use")
    target_compile_options(${target} PRIVATE -fprofile-use=${PROJECT_BINARY_DIR}/profile -fprofile-correction
                                             -fprofile-partial-training -Wno-missing-profile)
  elseif(QUERN_PROFILE)
    message(FATAL_ERROR "QUERN_PROFILE is generate, use or empty, not ${QUERN_PROFILE}")
  endif()
  # Kernels hold inlined code that takes clang minutes to instrument, and no input of a fuzzer steers them.
  if(QUERN_SANITIZE AND NOT (QUERN_FUZZ AND target STREQUAL "quern_math"))
    # A finding ends the program: without this an undefined-behaviour report would be printed and the test would pass.
    target_compile_options(${target} PUBLIC -fsanitize=${QUERN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${QUERN_SANITIZE})
  endif()
endfunction()

function(quern_library name)
  file(GLOB sources CONFIGURE_DEPENDS *.cpp)
  add_library(quern_${name} STATIC)
  add_library(Quern::${name} ALIAS quern_${name})
  set_target_properties(quern_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  foreach(source IN LISTS sources)
    get_filename_component(stem ${source} NAME_WE)
    if(stem MATCHES "_(avx2|avx512|avx512_vnni|amx)$")
      if(NOT QUERN_IS_X86)
        continue()
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${QUERN_FLAGS_${CMAKE_MATCH_1}}")
    endif()
    target_sources(quern_${name} PRIVATE ${source})
  endforeach()
  target_include_directories(quern_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/src>
                                                  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/quern>)
  target_compile_features(quern_${name} PUBLIC cxx_std_20)
  quern_common_options(quern_${name})
endfunction()

# One program per test file, so that each builds, runs and fails alone: tests/math/matmul_test.cpp -> math_matmul_test.
function(quern_test file)
  get_filename_component(stem ${file} NAME_WE)
  get_filename_component(folder ${file} DIRECTORY)
  get_filename_component(folder ${folder} NAME)
  set(target ${folder}_${stem})
  add_executable(${target} ${file})
  target_link_libraries(${target} PRIVATE ${ARGN} quern_tile_emulation quern_test_support GTest::gtest GTest::gtest_main)
  quern_common_options(${target})
  gtest_discover_tests(${target} NO_PRETTY_VALUES DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 170)
endfunction()
