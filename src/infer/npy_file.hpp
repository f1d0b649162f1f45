// NumPy's .npy files of float32 matrices, written row by row.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "math/result.hpp"
#include "model/atomic_file.hpp"

namespace quern {

/// Writes a float32 matrix [rows, columns] in C order, little-endian, format version 1.0 (NumPy Enhancement Proposal 1). The
/// file appears under its name at commit(), whole.
class NpyWriter {
 public:
  /// Begins `path`. Errors: those of AtomicFile; bad_input where the sizes are negative or overflow.
  [[nodiscard]] static Result<NpyWriter> create(const std::string& path, std::int64_t rows, std::int64_t columns);

  /// Appends whole rows; bad_input where `values` is not a multiple of the columns, or more than the rows promised.
  [[nodiscard]] Result<void> append(std::span<const float> values);

  /// Error bad_input where rows are missing, and those of AtomicFile.
  [[nodiscard]] Result<void> commit();

 private:
  NpyWriter(AtomicFile file, std::int64_t rows, std::int64_t columns)
      : file_(std::move(file)), columns_(columns), missing_(rows * columns) {}
  AtomicFile file_;
  std::int64_t columns_ = 0;
  std::int64_t missing_ = 0;  // values
};

}  // namespace quern
