// Run configurations: any bytes as YAML.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "train/run_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  (void)quern::parse_run_config({reinterpret_cast<const char*>(data), size}, "fuzz.yaml", {});
  return 0;
}
