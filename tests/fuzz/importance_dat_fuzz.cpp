// Importance matrices of the older form: any bytes. What is read is asked for its every column.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "infer/importance_matrix.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto matrix = quern::importance_matrix_from_dat(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz");
  if (!matrix) return 0;
  for (const auto& [name, sums] : matrix->weights) {
    if (matrix->importance(name).size() != static_cast<std::size_t>(sums.cols)) std::abort();
  }
  return 0;
}
