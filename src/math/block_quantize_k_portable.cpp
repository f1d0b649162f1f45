// K-quant quantizers for every machine: one lane at a time on x86-64 (Highway's own vectors start at SSSE3), NEON on ARM.
#if defined(__x86_64__) && !defined(HWY_COMPILE_ONLY_SCALAR)
#define HWY_COMPILE_ONLY_SCALAR
#endif

#include <hwy/highway.h>

// On ARM, Highway's functions carry target attributes that their callers must share. Elsewhere this file's flags suffice.
#if HWY_ARCH_ARM
HWY_BEFORE_NAMESPACE();
#endif

#include "math/block_quantize_k_table-inl.hpp"

namespace quern {

BlockQuantizer block_quantizer_k_portable() { return kq::quantize; }

#if !defined(__x86_64__)
BlockQuantizer block_quantizer_k_avx2() { return nullptr; }
BlockQuantizer block_quantizer_k_avx512() { return nullptr; }
#endif

}  // namespace quern

#if HWY_ARCH_ARM
HWY_AFTER_NAMESPACE();
#endif
