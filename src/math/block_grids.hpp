// The codebooks of GGUF's IQ1, IQ2 and IQ3 formats. Plain data only: instruction-set files include this header.
//
// A code in a block names a row of its format's grid; the row's numbers are the magnitudes (IQ2, IQ3) or the values (IQ1) of
// consecutive elements. The numbers are constants of the formats: a file can only be read with these.
#pragma once

#include <cstdint>

namespace quern::internal {

template <int kRows, int kValues>
struct CodebookGrid {
  std::int8_t rows[kRows][kValues];
};

extern const CodebookGrid<256, 8> kIq2XxsGrid;
extern const CodebookGrid<512, 8> kIq2XsGrid;
extern const CodebookGrid<1024, 8> kIq2SGrid;
extern const CodebookGrid<256, 4> kIq3XxsGrid;
extern const CodebookGrid<512, 4> kIq3SGrid;
extern const CodebookGrid<2048, 8> kIq1Grid;  ///< of IQ1_S and IQ1_M

}  // namespace quern::internal
