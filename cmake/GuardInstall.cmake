# What `cmake --install` installs: the component `programs`, which packages hold, with documents; and the component
# `library` for other programs (docs/LIBRARY.md): headers, one archive, and a package that find_package(guard) finds.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS xapi-guard RUNTIME DESTINATION "${CMAKE_INSTALL_SBINDIR}")
install(TARGETS xapi-guardctl xapi-sim xapiguard_cli RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
# The name under which toolstacks start the daemon.
file(CREATE_LINK xapi-guard "${CMAKE_BINARY_DIR}/varstored-guard" SYMBOLIC)
install(FILES "${CMAKE_BINARY_DIR}/varstored-guard" DESTINATION "${CMAKE_INSTALL_SBINDIR}")

install(FILES packaging/xapi-guard.toml DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(FILES packaging/xapi-guardctl.bash RENAME xapi-guardctl
  DESTINATION "${CMAKE_INSTALL_DATADIR}/bash-completion/completions")

# systemd's unit and a drop-in file for it, with the place of the program in them, which is known when they are
# installed.
install(CODE "set(sbin \"${CMAKE_INSTALL_SBINDIR}\")
  cmake_path(ABSOLUTE_PATH sbin BASE_DIRECTORY \"\${CMAKE_INSTALL_PREFIX}\")
  set(docs \"${CMAKE_INSTALL_DOCDIR}\")
  cmake_path(ABSOLUTE_PATH docs BASE_DIRECTORY \"\${CMAKE_INSTALL_PREFIX}\")
  foreach(name IN ITEMS varstored-guard.service metrics.conf)
    file(READ \"${CMAKE_SOURCE_DIR}/packaging/\${name}\" text)
    string(REPLACE /usr/sbin/ \"\${sbin}/\" text \"\${text}\")
    file(WRITE \"${CMAKE_BINARY_DIR}/installed/\${name}\" \"\${text}\")
  endforeach()
  file(INSTALL \"${CMAKE_BINARY_DIR}/installed/varstored-guard.service\"
    DESTINATION \"\${CMAKE_INSTALL_PREFIX}/lib/systemd/system\")
  file(INSTALL \"${CMAKE_BINARY_DIR}/installed/metrics.conf\" DESTINATION \"\${docs}\")")

install(FILES README.md ARCHITECTURE.md CHANGELOG.md LICENSE THIRD_PARTY.md DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(FILES packaging/grafana-dashboard.json packaging/prometheus-rules.yml
  DESTINATION "${CMAKE_INSTALL_DATADIR}/xapi-guard")
install(DIRECTORY docs DESTINATION "${CMAKE_INSTALL_DOCDIR}")

# One archive with everything behind guard/buffer.h.
set(parts)
foreach(part IN ITEMS buffer engine translate core journal base)
  list(APPEND parts "$<TARGET_OBJECTS:guard_${part}>")
endforeach()
add_library(guard STATIC ${parts})
set_target_properties(guard PROPERTIES LINKER_LANGUAGE CXX EXPORT_NAME buffer)
target_compile_features(guard INTERFACE cxx_std_20)
target_include_directories(guard INTERFACE "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
target_link_libraries(guard INTERFACE Threads::Threads "$<INSTALL_INTERFACE:guard::xxhash>")

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/guard")
configure_package_config_file(cmake/guardConfig.cmake.in "${CMAKE_BINARY_DIR}/guardConfig.cmake"
  INSTALL_DESTINATION "${package_dir}" NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${CMAKE_BINARY_DIR}/guardConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/guardConfig.cmake" "${CMAKE_BINARY_DIR}/guardConfigVersion.cmake"
  DESTINATION "${package_dir}" COMPONENT library)
install(TARGETS guard EXPORT guardTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT library)
install(EXPORT guardTargets NAMESPACE guard:: DESTINATION "${package_dir}" COMPONENT library)
install(DIRECTORY include/guard DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT library)
