// The kernels of one instruction set, and the choice among them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "math/attention_kernels.hpp"
#include "math/block_kernels.hpp"
#include "math/block_quantize.hpp"
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
  const BlockKernels* blocks;
  BlockQuantizer quantize_legacy;  ///< F32, F16, BF16, Q4_0 .. Q8_0, IQ4_NL, IQ4_XS, MXFP4
  BlockQuantizer quantize_k;       ///< Q2_K .. Q6_K
};

/// The tables this build holds and this machine can run, best first (portable is always last).
[[nodiscard]] const std::vector<const KernelTable*>& supported_kernels();

/// The environment variable that forces a path.
inline constexpr const char* kIsaVariable = "QUERN_ISA";

/// The path in use: the best supported one, or the lower one that the environment variable QUERN_ISA names. Chosen once.
/// Error bad_input when QUERN_ISA names an unknown or unsupported path; the message lists what is available.
[[nodiscard]] Result<const KernelTable*> chosen_kernels();

/// The table of a path by name ("portable", "avx2", ...), under the same rules and errors.
[[nodiscard]] Result<const KernelTable*> kernels_named(std::string_view name);

/// One path, and why it cannot be used here.
struct IsaStatus {
  Isa isa = Isa::portable;
  std::string obstacle;  ///< empty when it can
};

/// Every path that Quern knows, best first.
[[nodiscard]] std::vector<IsaStatus> isa_statuses();

}  // namespace quern
