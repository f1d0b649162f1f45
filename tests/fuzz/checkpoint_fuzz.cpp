// Checkpoints: any bytes as a file (what fails its checksum never reaches the HDF5 library), and as the model's JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "fuzz/memory_file.hpp"
#include "model/checkpoint.hpp"
#include "model/model_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const quern::MemoryFile file(data, size);
  (void)quern::read_checkpoint_info(file.path());
  (void)quern::model_config_from_json({reinterpret_cast<const char*>(data), size});
  return 0;
}
