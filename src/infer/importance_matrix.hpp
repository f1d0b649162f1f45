// Activation statistics of a model's matrices ("imatrix"): how large the inputs of each column are over a calibration text.
//
// Files: GGUF with general.type "imatrix" (imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size; for each weight the
// F32 tensors NAME.in_sum2 {n_in, matrices} and NAME.counts {1, matrices}), as llama.cpp writes and reads them; read is also
// the older binary form (.dat: i32 entries; each i32 length, name, i32 calls, i32 values, f32 mean squares times calls).
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/gguf_file.hpp"

namespace quern {

/// Sums over the rows that entered one weight: of one matrix, or of each expert's.
struct ActivationSums {
  std::int64_t cols = 0;      ///< inputs of the matrix
  std::int64_t matrices = 1;  ///< experts
  std::vector<float> sum2;    ///< [matrices, cols] sums of squared inputs
  std::vector<float> counts;  ///< [matrices] rows that were summed
};

struct ImportanceMatrix {
  std::map<std::string, ActivationSums, std::less<>> weights;  ///< by GGUF's tensor name, "blk.0.attn_q.weight"
  std::vector<std::string> datasets;
  std::int64_t chunks = 0;
  std::int64_t chunk_tokens = 0;

  /// Mean squared input of each column of one matrix: what QuantizeRows::importance takes. Empty where there is nothing
  /// about this tensor or expert (equal weights then).
  [[nodiscard]] std::vector<float> importance(std::string_view tensor, std::int64_t matrix = 0) const;
};

/// Either form, told by the file's first bytes. Everything in it is untrusted; errors are bad_input and name the file and
/// the entry.
[[nodiscard]] Result<ImportanceMatrix> load_importance_matrix(const std::string& path);
/// The same from a GGUF file that is open, and from the bytes of a .dat file; `where` names it in errors.
[[nodiscard]] Result<ImportanceMatrix> importance_matrix_from_gguf(const GgufFile& file);
[[nodiscard]] Result<ImportanceMatrix> importance_matrix_from_dat(std::string_view bytes, const std::string& where);

/// Gives the sums the shapes of a model's tensors: a .dat file does not say where one expert's columns end. Error bad_input
/// where a tensor that both have has other columns or experts; it names both and begins with `where`.
[[nodiscard]] Result<void> fit_importance_matrix(ImportanceMatrix& matrix, const GgufFile& model, std::string_view where);

/// Writes the GGUF form beside and renames.
[[nodiscard]] Result<void> save_importance_matrix(const ImportanceMatrix& matrix, const std::string& path);

}  // namespace quern
