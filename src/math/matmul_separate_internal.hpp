// What a product's epilogue does, in passes of their own over its result: for measuring what fusing them gives.
#pragma once

#include "math/matmul.hpp"

namespace quern::internal {

/// Whether a product into `out` is to be computed without `epilogue`, and separate_epilogue() called after it:
/// Backend::fused is false, there is something to do, and the residual is not `out` itself.
[[nodiscard]] bool ends_apart(const Backend& backend, const MutableMatrix& out, const Epilogue& epilogue);

/// Applies `epilogue` to `out`, which holds the product. Each step reads and writes all of it before the next begins. SPMD.
void separate_epilogue(Exec& exec, const MutableMatrix& out, const Epilogue& epilogue);

}  // namespace quern::internal
