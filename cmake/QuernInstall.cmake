# What `cmake --install` copies: the program, the four libraries with their documented headers, and the package that
# `find_package(Quern)` reads. Component `program` is the first, `libraries` all that another program needs to link.
#
# A header is public unless its name says otherwise: *-inl.hpp (code of one instruction set), *_internal.hpp, and those
# below, which only the sources beside them include. tests/package compiles every installed header alone.
set(QUERN_PRIVATE_HEADERS
    "(-inl|_internal|matmul_blocking|matmul_convert|matmul_eigen|hdf5_file|hdf5_user_block|jinja_[a-z_]*|logits_base|output_error|sensitivity|gguf_architectures|gguf_parser|gguf_values|huggingface_[a-z]*|json_document|mxfp4_layout|safetensors|safetensors_header|sentencepiece_model|sentencepiece_ranks|engine_room|run_config_schema|run_config_yaml)\\.hpp$")

include(CMakePackageConfigHelpers)

foreach(room math model infer train)
  install(TARGETS quern_${room} EXPORT QuernTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT libraries)
  file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${room}/*.hpp)
  list(FILTER headers EXCLUDE REGEX "${QUERN_PRIVATE_HEADERS}")
  install(FILES ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/quern/${room} COMPONENT libraries)
endforeach()

set(QUERN_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/Quern)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/QuernConfig.cmake.in ${PROJECT_BINARY_DIR}/QuernConfig.cmake
                              INSTALL_DESTINATION ${QUERN_PACKAGE_DIR} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change interfaces, so 0.1 asks for 0.1.x.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/QuernConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/QuernConfig.cmake ${PROJECT_BINARY_DIR}/QuernConfigVersion.cmake
        DESTINATION ${QUERN_PACKAGE_DIR} COMPONENT libraries)
install(EXPORT QuernTargets NAMESPACE Quern:: DESTINATION ${QUERN_PACKAGE_DIR} COMPONENT libraries)

# Shell completions, which the program prints. It cannot run here when it was built for another machine.
if(NOT CMAKE_CROSSCOMPILING)
  foreach(place bash=bash-completion/completions/quern zsh=zsh/site-functions/_quern fish=fish/vendor_completions.d/quern.fish)
    string(REGEX MATCH "^(.*)=(.*)/(.*)$" place ${place})
    set(shell ${CMAKE_MATCH_1})
    set(folder ${CMAKE_INSTALL_DATADIR}/${CMAKE_MATCH_2})
    set(generated ${PROJECT_BINARY_DIR}/completions/${CMAKE_MATCH_3})
    install(CODE "file(MAKE_DIRECTORY \"${PROJECT_BINARY_DIR}/completions\")
      execute_process(COMMAND \"$<TARGET_FILE:quern>\" completion ${shell} OUTPUT_FILE \"${generated}\"
                      COMMAND_ERROR_IS_FATAL ANY)"
            COMPONENT program)
    install(FILES ${generated} DESTINATION ${folder} COMPONENT program)
  endforeach()
endif()
