// Intel's AMX tiles in software, for tests on processors that have AVX-512 with VNNI and BF16 but no tiles.
#pragma once

namespace quern::test {

/// Set to 1, a test program's cpu_features() shows tiles and every tile instruction is carried out in software; elsewhere
/// and where the processor has tiles or lacks what comes below them, nothing changes. (The linker puts our cpu_features()
/// before the library's: tests/CMakeLists.txt, QUERN_EMULATES_TILES.)
inline constexpr const char* kEmulatedTilesVariable = "QUERN_TEST_EMULATED_TILES";

/// Whether this program emulates tiles. For tests whose subject is the processor itself.
bool emulates_tiles();

/// Tile instructions carried out so far by all threads.
long long emulated_tile_instructions();

}  // namespace quern::test
