// The arithmetic peaks of this machine, repeat by repeat: f32, bf16 and 8-bit multiply-adds on registers.
#pragma once

#include <string>
#include <vector>

#include "math/dispatch.hpp"
#include "math/repeated_rates.hpp"
#include "math/thread_team.hpp"

namespace quern {

enum class PeakType : std::uint8_t { f32, bf16, int8 };
inline constexpr PeakType kPeakTypes[] = {PeakType::f32, PeakType::bf16, PeakType::int8};
[[nodiscard]] std::string_view to_word(PeakType type);

/// How a kernel table multiplies numbers of this type: "bf16 tiles (AMX)", ...; empty where it has no loop for it.
[[nodiscard]] std::string peak_method(const KernelTable& kernels, PeakType type);

/// Operations per second (a multiply-add is two) of register-only loops on all threads at once, one figure per repeat. None
/// where peak_method() is empty. bf16 without such instructions is what the kernels do then: f32 multiply-adds.
[[nodiscard]] std::vector<double> peak_rates(ThreadTeam& team, const KernelTable& kernels, PeakType type,
                                             const Repeats& repeats);

}  // namespace quern
