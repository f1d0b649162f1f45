// Writing a quantized GGUF from another: streamed tensor by tensor, whatever the file's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "infer/importance_matrix.hpp"
#include "infer/quantize_mix.hpp"
#include "math/dispatch.hpp"
#include "math/quantize.hpp"
#include "math/result.hpp"
#include "math/thread_team.hpp"
#include "model/gguf_file.hpp"

namespace quern {

struct QuantizedTensor {
  TensorChoice choice;
  std::size_t bytes = 0;
  QuantizationError error;
  bool used_importance = false;
};

struct QuantizeOptions {
  const ImportanceMatrix* importance = nullptr;  ///< null: none
  std::string importance_path = {};              ///< for the metadata
  std::string file_type_name = {};               ///< the mix, for general.file_type; else that of the type of most bytes
  bool checksums = false;                        ///< a SHA-256 of each tensor in the metadata
  /// After each piece: tensors done, bytes read and bytes in all. An error ends the work; nothing is left then.
  std::function<Result<void>(std::size_t tensors, std::size_t done, std::size_t all)> progress = {};
};

/// Writes `path` from `file` with the chosen types. Memory: a few pieces of at most 64 MiB; mapped pages are given back
/// tensor by tensor. Errors: bad_input for NaN or infinity in a tensor (named), io errors. Metadata is copied, with
/// general.file_type, general.quantization_version 2 and quantize.imatrix.* as llama.cpp writes them.
[[nodiscard]] Result<std::vector<QuantizedTensor>> quantize_model(const GgufFile& file,
                                                                  std::span<const TensorChoice> choices,
                                                                  const KernelTable& kernels, ThreadTeam& team,
                                                                  const std::string& path, const QuantizeOptions& options);

}  // namespace quern
