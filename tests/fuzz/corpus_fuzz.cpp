// Prepared corpora: any bytes as a file. What fails its checksum never reaches the HDF5 library.
#include <cstddef>
#include <cstdint>

#include "fuzz/memory_file.hpp"
#include "train/corpus.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const quern::MemoryFile file(data, size);
  (void)quern::Corpus::open(file.path());
  return 0;
}
