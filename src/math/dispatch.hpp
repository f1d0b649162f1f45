// The kernels of one instruction set, and the choice among them.
#pragma once

#include <vector>

#include "math/attention_kernels.hpp"
#include "math/cpu_features.hpp"
#include "math/elementwise_kernels.hpp"
#include "math/matmul_kernels.hpp"
#include "math/result.hpp"

namespace quern {

/// Every kernel of one instruction-set path. Tables are constants with static lifetime.
struct KernelTable {
  Isa isa;
  const MatmulKernels* matmul;
  const ElementwiseKernels* elementwise;
  const AttentionKernels* attention;
};

/// The tables this build holds and this machine can run, best first (portable is always last).
[[nodiscard]] const std::vector<const KernelTable*>& supported_kernels();

/// The path in use: the best supported one, or the lower one that the environment variable QUERN_ISA names. Chosen once.
/// Error bad_input when QUERN_ISA names an unknown or unsupported path; the message lists what is available.
[[nodiscard]] Result<const KernelTable*> chosen_kernels();

/// The table of a path by name ("portable", "avx2", ...), under the same rules and errors.
[[nodiscard]] Result<const KernelTable*> kernels_named(std::string_view name);

}  // namespace quern
