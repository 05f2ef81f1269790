# Settings shared by all targets, and the three functions the folders use.

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")

find_package(Threads REQUIRED)
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
  set(CMAKE_C_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
endif()

add_library(guard_settings INTERFACE)
target_include_directories(guard_settings INTERFACE "${CMAKE_SOURCE_DIR}/include" "${CMAKE_SOURCE_DIR}/src")
target_compile_options(guard_settings INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
  -Wnon-virtual-dtor -Woverloaded-virtual -Werror
  -fstack-protector-strong -ffunction-sections -fdata-sections)
target_compile_definitions(guard_settings INTERFACE
  _FILE_OFFSET_BITS=64 FMT_HEADER_ONLY=1
  BOOST_ASIO_NO_DEPRECATED=1 BOOST_ASIO_DISABLE_BOOST_COROUTINE=1)
target_link_options(guard_settings INTERFACE -Wl,--gc-sections -Wl,-z,relro,-z,now)
target_link_libraries(guard_settings INTERFACE Threads::Threads)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports false positives of these inside libstdc++ and Boost at -O2.
  target_compile_options(guard_settings INTERFACE -Wno-maybe-uninitialized -Wno-restrict
    -Wno-stringop-overread -Wno-stringop-overflow -Wno-array-bounds -Wno-dangling-pointer)
endif()
if(GUARD_SANITIZE MATCHES "thread" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ warns that the thread sanitizer does not see Asio's fences; Asio uses them next to atomics it does see.
  target_compile_options(guard_settings INTERFACE -Wno-tsan)
endif()
if(GUARD_SANITIZE)
  target_compile_options(guard_settings INTERFACE "-fsanitize=${GUARD_SANITIZE}" -fno-omit-frame-pointer -g
    -fno-sanitize-recover=all)
  target_link_options(guard_settings INTERFACE "-fsanitize=${GUARD_SANITIZE}")
endif()

if(GUARD_STATIC)
  # Position-independent all the same: addresses stay random.
  target_link_options(guard_settings INTERFACE -static-pie)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
  set(OPENSSL_USE_STATIC_LIBS ON)
endif()

# guard_library(name SOURCES ... [LIBS ...]): a static library with the project's settings.
function(guard_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC guard_settings ${ARG_LIBS})
endfunction()

# guard_program(name SOURCES ... [LIBS ...]): an executable in bin/.
function(guard_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE guard_settings ${ARG_LIBS})
endfunction()

# guard_test(name SOURCES ... [LIBS ...]): a GoogleTest program, registered with CTest, case by case.
# A case that does not end within two minutes has failed.
function(guard_test name)
  if(NOT GUARD_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  find_package(GTest REQUIRED)
  include(GoogleTest)
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE "${CMAKE_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE guard_settings ${ARG_LIBS} GTest::gtest GTest::gtest_main)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST TEST_PREFIX "${name}." PROPERTIES TIMEOUT 120 LABELS unit)
endfunction()

enable_testing()
