// Which format's walk computes a type's dot products. Included by instruction-set files only, after block_rows-inl.hpp.
namespace quern {
namespace {

using DotFunction = void (*)(const BlockDot& d);

DotFunction dot_function(ElementType type) {
  switch (type) {
    case ElementType::q4_0:
      return walk_rows<Q40>;
    case ElementType::q4_1:
      return walk_rows<Q41>;
    case ElementType::q5_0:
      return walk_rows<Q50>;
    case ElementType::q5_1:
      return walk_rows<Q51>;
    case ElementType::q8_0:
      return walk_rows<Q80>;
    case ElementType::iq4_nl:
      return walk_rows<Iq4Nl>;
    case ElementType::mxfp4:
      return walk_rows<Mxfp4>;
    case ElementType::q2_k:
      return walk_rows<Q2K>;
    case ElementType::q3_k:
      return walk_rows<Q3K>;
    case ElementType::q4_k:
      return walk_rows<Q4K>;
    case ElementType::q5_k:
      return walk_rows<Q5K>;
    case ElementType::q6_k:
      return walk_rows<Q6K>;
    case ElementType::iq4_xs:
      return walk_rows<Iq4Xs>;
    default:
      return nullptr;
  }
}

bool has_dot(ElementType type) { return dot_function(type) != nullptr; }
void dot(const BlockDot& d) { dot_function(d.type)(d); }

}  // namespace
}  // namespace quern
