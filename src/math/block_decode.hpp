// Decoders of GGUF's element and block formats, by instruction set. Plain data only: instruction-set files include this
// header.
//
// Every instruction set gives the same bits, the exact value rounded to nearest: every product of a format is exact in f32,
// so only the addition of a minimum rounds. The one exception: which NaN a NaN or infinite scale gives is not fixed.
#pragma once

#include <cstdint>

#include "math/element_type.hpp"

namespace quern {

/// Decodes `elements` (>= 0, whole blocks) consecutive elements of a float or block-quantized type into out[elements].
/// `blocks` and `out` need no alignment beyond out's float and must not overlap. Integer types are not decoded: nothing is
/// written. Block data is never trusted: any bytes are in bounds. Thread-safe, allocates nothing.
using BlockDecoder = void (*)(ElementType type, const void* blocks, std::int64_t elements, float* out);

/// The decoders; null where this build lacks the path. Only the block kernel tables and tests call these. The caller has
/// checked that the processor has what `cpu_features.hpp` lists for the instruction set of that name.
BlockDecoder block_decoder_portable();
BlockDecoder block_decoder_avx2();
BlockDecoder block_decoder_avx512();

}  // namespace quern
