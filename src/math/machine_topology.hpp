// Packages, cores, SMT threads, NUMA nodes and caches: what hwloc finds on this machine, in a file, or in a description.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// Caches of one level and kind that are alike in size and sharing.
struct CacheReport {
  int level = 0;
  std::string kind;  ///< "data", "instruction" or "unified"
  std::uint64_t bytes = 0;
  std::int64_t line_bytes = 0;
  std::int64_t instances = 0;
  std::int64_t processors_sharing = 0;  ///< logical processors that share one instance
};

/// Memory with its own path to some processors.
struct NumaNode {
  std::int64_t index = 0;          ///< the system's number
  std::uint64_t memory_bytes = 0;  ///< 0: not known, or a node without memory
  std::string processors;          ///< logical processors that it is local to, such as "0-15"; empty: memory alone
};

/// Logical processors of one kind, on machines that mix kinds of cores.
struct CoreKind {
  std::string processors;  ///< "0-7"
  int efficiency = -1;     ///< rank: the higher, the faster; -1: not known
  std::string type;        ///< "IntelCore", "IntelAtom", ...; empty: not known
};

/// Where one logical processor sits. Groups are numbered from 0 in hwloc's order; -1: the topology has none.
struct ProcessorPlace {
  int processor = 0;    ///< the system's number
  int core = -1;        ///< SMT siblings share it
  int last_cache = -1;  ///< the cache of the highest level among 2 and 3 that it shares or has
  int numa_node = -1;   ///< the nearest
  int package = -1;
};

struct MachineTopology {
  std::string processor;  ///< the package's model as the system names it; empty: not known
  std::int64_t logical_processors = 0;
  std::int64_t cores = 0;
  std::int64_t packages = 0;
  std::int64_t threads_per_core = 0;   ///< the most of any core
  std::vector<NumaNode> numa_nodes;    ///< by index
  std::vector<CacheReport> caches;     ///< by level
  std::vector<CoreKind> core_kinds;    ///< empty where all are alike or nothing is known
  std::vector<std::string> siblings;   ///< logical processors of each core, such as "0,16", in hwloc's order
  std::vector<ProcessorPlace> places;  ///< of every logical processor, neighbours next to each other

  /// The size of one data or unified cache of this level, the largest where they differ; 0: there is none.
  [[nodiscard]] std::uint64_t cache_bytes(int level) const;
};

/// Where a topology comes from: this machine unless a member says otherwise.
struct TopologySource {
  std::string synthetic;      ///< hwloc's words: "pack:2 numa:1 l3:1 core:4 pu:2" (hwloc(7), "Synthetic topologies")
  std::filesystem::path xml;  ///< a file that `lstopo machine.xml` wrote
};

/// Reads a topology. Processors that this process may not use are counted too. Errors: bad_input for a description or file
/// that hwloc does not take, unsupported where it cannot read this machine.
[[nodiscard]] Result<MachineTopology> read_topology(const TopologySource& source = {});

}  // namespace quern
