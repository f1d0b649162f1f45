// What quern quantize did or would do, as a table by tensor and as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <span>

#include "infer/quantize_model.hpp"

namespace quern::tools {

struct QuantizeReport {
  std::span<const QuantizedTensor> tensors;
  bool measured = false;  ///< there are errors; else it is a plan (--dry-run)
  bool weighted = false;  ///< by an importance matrix
  bool all = false;       ///< in text: every tensor, not layers that are alike as one line
};

/// Lines by kind of tensor, what did not fit its type, and the whole: bytes, bits per weight, error.
void print_report(const QuantizeReport& report);
/// Sets tensors, bytes_before, bytes, bits_per_weight and, where measured, the errors of the whole.
void add_report(nlohmann::ordered_json& json, const QuantizeReport& report);

}  // namespace quern::tools
