// Which format unpacks a type. Included by instruction-set files only, after block_panels-inl.hpp.
namespace quern {
namespace {

/// visit.template operator()<Format>() of the type's format; false where there is none.
template <class Visit>
bool visit_format(ElementType type, Visit&& visit) {
  switch (type) {
    case ElementType::q4_0:
      visit.template operator()<Q40>();
      return true;
    case ElementType::q4_1:
      visit.template operator()<Q41>();
      return true;
    case ElementType::q5_0:
      visit.template operator()<Q50>();
      return true;
    case ElementType::q5_1:
      visit.template operator()<Q51>();
      return true;
    case ElementType::q8_0:
      visit.template operator()<Q80>();
      return true;
    case ElementType::iq4_nl:
      visit.template operator()<Iq4Nl>();
      return true;
    case ElementType::mxfp4:
      visit.template operator()<Mxfp4>();
      return true;
    case ElementType::q2_k:
      visit.template operator()<Q2K>();
      return true;
    case ElementType::q3_k:
      visit.template operator()<Q3K>();
      return true;
    case ElementType::q4_k:
      visit.template operator()<Q4K>();
      return true;
    case ElementType::q5_k:
      visit.template operator()<Q5K>();
      return true;
    case ElementType::q6_k:
      visit.template operator()<Q6K>();
      return true;
    case ElementType::iq4_xs:
      visit.template operator()<Iq4Xs>();
      return true;
    default:
      return false;
  }
}

bool has_dot(ElementType type) {
  return visit_format(type, []<class Format>() {});
}
void dot(const BlockDot& d) {
  visit_format(d.type, [&]<class Format>() { walk_rows<Format>(d); });
}
void decode_floats(const BlockPanel& d) {
  visit_format(d.type, [&]<class Format>() { decode_panel<Format, FloatPanel>(d); });
}

}  // namespace
}  // namespace quern
