// Reads the .npy files that the program writes, from the format's description: shares no code with the writer.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <regex>
#include <string>
#include <vector>

#include "tools/run_quern.hpp"

namespace quern {

struct NpyMatrix {
  std::size_t rows = 0, columns = 0;
  std::vector<float> values;
  [[nodiscard]] const float* row(std::size_t i) const { return values.data() + i * columns; }
};

/// An empty matrix, and a failed test, where the file is not float32 [rows, columns].
inline NpyMatrix read_npy(const std::string& path) {
  NpyMatrix matrix;
  const std::string bytes = read_text_file(path);
  if (bytes.size() < 10 || bytes.substr(0, 8) != std::string("\x93NUMPY\x01\x00", 8)) {
    ADD_FAILURE() << path << " is no .npy file";
    return matrix;
  }
  const std::size_t header = static_cast<unsigned char>(bytes[8]) + 256U * static_cast<unsigned char>(bytes[9]);
  const std::string dictionary = bytes.substr(10, header);
  std::smatch shape;
  if (!std::regex_search(dictionary, shape, std::regex(R"('<f4'.*False.*\((\d+), (\d+)\))"))) {
    ADD_FAILURE() << dictionary;
    return matrix;
  }
  matrix.rows = std::stoul(shape[1]);
  matrix.columns = std::stoul(shape[2]);
  matrix.values.resize(matrix.rows * matrix.columns);
  EXPECT_EQ(bytes.size(), 10 + header + matrix.values.size() * sizeof(float));
  std::memcpy(matrix.values.data(), bytes.data() + 10 + header,
              std::min(bytes.size() - 10 - header, matrix.values.size() * sizeof(float)));
  return matrix;
}

}  // namespace quern
