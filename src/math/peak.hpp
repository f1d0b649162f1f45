// The best floating-point rate that this machine's registers allow: what `peak_fraction` divides by.
#pragma once

#include "math/element_type.hpp"
#include "math/exec.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// FLOP/s of register-only multiply-adds (f32: vector FMA; bf16: the tile or vector dot product of the instruction set) on
/// all threads of `team` at once. Matrix tiles multiply varied numbers: zeros or constants would run at a clock that real
/// products never see. Measured in bursts of about 2 ms for `seconds` in all (50 ms is enough); the best burst counts,
/// because cores may be shared. Not deterministic.
[[nodiscard]] double register_peak_flops(ThreadTeam& team, const Backend& backend, ComputeType compute,
                                         double seconds = 0.05);

/// FLOP/s of bf16 matrix tiles in the 2 x 2 pattern of the products with all operands in first-level cache: what tile loads
/// leave of the register peak. 0 where the instruction set has no matrix tiles.
[[nodiscard]] double l1_tile_flops(ThreadTeam& team, const Backend& backend, double seconds = 0.05);

/// The same for tiles of 8-bit integers (unsigned by signed), in operations/s, of which a multiply-add is two.
[[nodiscard]] double l1_int8_tile_ops(ThreadTeam& team, const Backend& backend, double seconds = 0.05);

}  // namespace quern
