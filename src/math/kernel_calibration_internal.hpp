// The roofs over a kernel, measured quickly and often: a burst of arithmetic, a pass over a level of the memory.
#pragma once

#include <cstddef>
#include <map>
#include <vector>

#include "math/exec.hpp"
#include "math/hardware.hpp"
#include "math/kernel_bench.hpp"
#include "math/page_block.hpp"
#include "math/stream_rates.hpp"

namespace quern {

/// Measures peaks and bandwidths of a team, each in some milliseconds.
class KernelCalibration {
 public:
  /// `memory` must outlive this. `seconds`: of a measurement. Error no_memory.
  [[nodiscard]] static Result<KernelCalibration> make(ThreadTeam& team, const Backend& backend, const HardwareReport& report,
                                                      const BenchMemory& memory, double seconds);

  /// The roof under which a case lies: of its arithmetic's peak and its level's bandwidth times its FLOP per byte the lower,
  /// by a first measurement of both.
  [[nodiscard]] Roof roof_of(const KernelCase& one);
  /// Operations or bytes per second of all threads, now.
  [[nodiscard]] double measure(const Roof& roof);

 private:
  KernelCalibration(ThreadTeam& team, const Backend& backend, const HardwareReport& report, const BenchMemory& memory,
                    double seconds);
  [[nodiscard]] int level_of(const KernelCase& one) const;
  [[nodiscard]] double first(const Roof& roof);
  /// Bytes per second of one pass over a part of the memory, read or (read and written in place).
  [[nodiscard]] double memory_pass(bool update);

  ThreadTeam* team_;
  const Backend* backend_;
  const BenchMemory* memory_;
  double seconds_;
  const StreamKernels* streams_;
  std::vector<WorkingSet> sets_;
  std::map<int, std::vector<PageBlock>> blocks_;  ///< by level, one a thread
  std::map<std::string, double> known_;           ///< first measurements
  std::int64_t passes_ = 0;                       ///< over memory
};

}  // namespace quern
