// That tests under emulated tiles do take the path with tiles (support/tile_emulation.hpp). Whether the emulation computes
// what the instructions do shows in the tests of products and attention, which compare it with double precision.
#include "support/tile_emulation.hpp"

#include <gtest/gtest.h>

#include "math/dispatch.hpp"

namespace quern {
namespace {

TEST(TileEmulation, WhereItIsOnTilesAreTheBestPathAndTheirInstructionsAreCarriedOut) {
  if (!test::emulates_tiles()) {
    EXPECT_EQ(test::emulated_tile_instructions(), 0);
    return;
  }
  const KernelTable& best = *supported_kernels().front();
  ASSERT_EQ(best.isa, Isa::amx);
  const long long before = test::emulated_tile_instructions();
  best.matmul->begin();  // LDTILECFG
  best.matmul->end();    // TILERELEASE
  EXPECT_EQ(test::emulated_tile_instructions(), before + 2);
}

}  // namespace
}  // namespace quern
