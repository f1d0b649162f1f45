# Installs the libraries into an empty folder, and builds and runs the example against them; then compiles every
# installed header alone, with nothing but what the package says it needs.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message("${output}")
    message(FATAL_ERROR "failed (${result}): ${command}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(prefix ${WORK_DIR}/prefix)
file(REMOVE_RECURSE ${WORK_DIR}/prefix ${WORK_DIR}/example ${WORK_DIR}/run ${WORK_DIR}/headers)

run(${CMAKE_COMMAND} --install ${QUERN_BINARY_DIR} --prefix ${prefix} --component libraries)

set(settings -G Ninja -DCMAKE_CXX_COMPILER=${CXX_COMPILER} -DCMAKE_PREFIX_PATH=${prefix} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/example -B ${WORK_DIR}/example ${settings})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/example)

# A tiny run for the example to read.
string(REPEAT "In the beginning was the word, and the word was written down.\n" 80 text)
file(WRITE ${WORK_DIR}/run/text.txt "${text}")
file(WRITE ${WORK_DIR}/run/run.yaml "run: {dir: '${WORK_DIR}/run/out'}
model: {context: 32, layers: 1, width: 32, heads: 2}
data: {corpus: '${WORK_DIR}/run/text.h5'}
train: {steps: 3, batch: 2}
sample: {tokens: 0}
")
run(${QUERN} data prepare ${WORK_DIR}/run/text.txt --tokenizer char --out ${WORK_DIR}/run/text.h5)
run(${QUERN} train ${WORK_DIR}/run/run.yaml)
run(${WORK_DIR}/example/example ${WORK_DIR}/run/out "In the")
message("example: ${output}")
if(NOT output MATCHES "\\(30 tokens, ")
  message(FATAL_ERROR "the example generated no 30 tokens")
endif()
execute_process(COMMAND ${WORK_DIR}/example/example ${WORK_DIR}/absent "In the" RESULT_VARIABLE result ERROR_VARIABLE output)
if(result EQUAL 0 OR NOT output MATCHES "absent")
  message(FATAL_ERROR "the example did not name the missing run: ${output}")
endif()

# One source per header: one that includes them all would hide what a header forgets to include.
file(GLOB_RECURSE headers RELATIVE ${prefix}/include/quern ${prefix}/include/quern/*.hpp)
list(LENGTH headers count)
if(count LESS 20)
  message(FATAL_ERROR "only ${count} headers were installed")
endif()
set(list "")
foreach(header IN LISTS headers)
  string(MAKE_C_IDENTIFIER ${header} name)
  file(WRITE ${WORK_DIR}/headers/${name}.cpp "#include \"${header}\"\n")
  string(APPEND list " ${name}.cpp")
endforeach()
file(WRITE ${WORK_DIR}/headers/CMakeLists.txt "cmake_minimum_required(VERSION 3.25)
project(QuernHeaders LANGUAGES CXX)
find_package(Quern 0.1 REQUIRED)
add_library(headers OBJECT${list})
target_compile_options(headers PRIVATE -fsyntax-only -Wall -Wextra -Wpedantic)
target_link_libraries(headers PRIVATE Quern::train)
")
run(${CMAKE_COMMAND} -S ${WORK_DIR}/headers -B ${WORK_DIR}/headers/build ${settings})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/headers/build)
message("${count} headers compile alone")
