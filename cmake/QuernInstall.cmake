# What `cmake --install` copies: the program, the four libraries with their documented headers, and the package that
# `find_package(Quern)` reads. Component `libraries` is all that another program needs to link.
#
# A header is public unless its name says otherwise: *-inl.hpp (code of one instruction set), *_internal.hpp, and those
# below, which only the sources beside them include. tests/package compiles every installed header alone.
set(QUERN_PRIVATE_HEADERS "(-inl|_internal|matmul_blocking|hdf5_file)\\.hpp$")

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
