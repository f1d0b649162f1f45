#include "report/page.hpp"

#include <fmt/format.h>

#include <cstdio>

#include "model/atomic_file.hpp"
#include "report/html.hpp"
#include "report/sections.hpp"

namespace quern::tools {

namespace {

// Colours keep a contrast of 4.5 with the background for text and of 3 for what is drawn, light and dark.
constexpr const char* kStyle = R"(
:root{color-scheme:light dark;--back:#fff;--text:#1c1c1c;--muted:#5a5a5a;--rule:#d9d9d9;--head:#f3f3f1;
--c0:#1f5fa8;--c1:#b8480b;--c2:#1b7837;--c3:#7b3294;--c4:#b2182b;--c5:#4d4d4d;--c6:#00727a;--c7:#806000}
@media (prefers-color-scheme:dark){:root{--back:#15171a;--text:#e8e8e6;--muted:#a8a8a4;--rule:#3a3d42;--head:#1f2226;
--c0:#6db3f2;--c1:#ffa15c;--c2:#6fd08c;--c3:#d29cf0;--c4:#ff8a8a;--c5:#c8c8c8;--c6:#5fd4d8;--c7:#e0c050}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1280px;padding:1.5rem;background:var(--back);color:var(--text);
font:16px/1.5 system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
h1{font-size:1.7rem;margin:0 0 .3rem}h2{font-size:1.25rem;margin:2.4rem 0 .6rem;border-bottom:1px solid var(--rule);padding-bottom:.2rem}
p{margin:.4rem 0 .8rem;max-width:75ch}.muted{color:var(--muted)}
nav a{margin-right:1rem;white-space:nowrap;display:inline-block}a{color:var(--c0)}
li{margin:.35rem 0;max-width:85ch}
.figure{display:grid;grid-template-columns:minmax(0,1.1fr) minmax(0,1fr);gap:1.2rem;align-items:start;margin:1rem 0 1.6rem}
figure{margin:0}figcaption,caption{font-weight:600;text-align:left;margin-bottom:.3rem;padding:0}
svg{width:100%;height:auto;display:block;font:13px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
svg text{fill:var(--text);paint-order:stroke;stroke:var(--back);stroke-width:3px}svg text.muted,svg text.label{fill:var(--muted)}
.grid{stroke:var(--rule);stroke-width:1}.axis{fill:none;stroke:var(--muted);stroke-width:1}
.reference{fill:none;stroke:var(--muted);stroke-width:1.5;stroke-dasharray:6 4}
.line{fill:none;stroke:var(--c);stroke-width:2}.whisker{fill:none;stroke:var(--c);stroke-width:1.5}
.s0{--c:var(--c0)}.s1{--c:var(--c1)}.s2{--c:var(--c2)}.s3{--c:var(--c3)}
.s4{--c:var(--c4)}.s5{--c:var(--c5)}.s6{--c:var(--c6)}.s7{--c:var(--c7)}
.s1 .line,.s5 .line{stroke-dasharray:8 3}.s2 .line,.s6 .line{stroke-dasharray:3 3}.s3 .line,.s7 .line{stroke-dasharray:10 3 2 3}
.mark,svg g>circle,svg g>rect,svg g>path:not(.line):not(.whisker){fill:var(--c);stroke:var(--back);stroke-width:1}
.bar{fill:var(--c);opacity:.8}.bar+.whisker{stroke:var(--text)}
.table{overflow:auto;max-height:30rem}table{border-collapse:collapse;font-size:.8rem;width:100%}
th,td{text-align:left;padding:.18rem .4rem .18rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
thead th{background:var(--head);position:sticky;top:0}th{font-weight:500}thead th{font-weight:600}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
@media (max-width:820px){.figure{grid-template-columns:minmax(0,1fr)}}
@media print{:root{--back:#fff;--text:#000;--muted:#444;--rule:#bbb;--head:#eee;
--c0:#1f5fa8;--c1:#b8480b;--c2:#1b7837;--c3:#7b3294;--c4:#b2182b;--c5:#4d4d4d;--c6:#00727a;--c7:#806000}
body{max-width:none;padding:0;font-size:10pt}nav{display:none}h2{break-after:avoid}figure,tr{break-inside:avoid}
svg{-webkit-print-color-adjust:exact;print-color-adjust:exact}.table{overflow:visible;max-height:none}}
)";

struct Section {
  const char* id;
  const char* title;
  std::string html;
};

std::string advice_html(const std::vector<std::string>& sentences) {
  if (sentences.empty()) return "";
  std::string html = "<ul>\n";
  for (const std::string& sentence : sentences) html += "<li>" + escape(sentence, 2000) + "</li>\n";
  return html + "</ul>\n";
}

}  // namespace

std::string report_page(const ReportData& data) {
  const Section sections[] = {{"recommendations", "Recommendations", advice_html(recommendations(data))},
                              {"log", "Baseline against tuned", section_log(data)},
                              {"threads", "Threads", section_scaling(data)},
                              {"context", "Length of the text", section_context(data)},
                              {"batch", "Batches", section_batch(data)},
                              {"types", "Types of weights", section_types(data)},
                              {"settings", "Settings", section_settings(data)},
                              {"roofline", "Kernels under their roofs", section_roofline(data)},
                              {"sources", "What was measured", section_sources(data)}};
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
      "<title>Quern: benchmark report</title>\n<style>{}</style>\n</head>\n<body>\n<header><h1>Quern: benchmark "
      "report</h1>\n",
      kStyle);
  if (!data.processor.empty()) page += "<p class=\"muted\">" + escape(data.processor) + "</p>\n";
  page += "<nav aria-label=\"Sections\">";
  for (const Section& section : sections) {
    if (!section.html.empty()) page += fmt::format("<a href=\"#{}\">{}</a>", section.id, section.title);
  }
  page += "</nav></header>\n<main>\n";
  for (const Section& section : sections) {
    if (section.html.empty()) continue;
    page += fmt::format("<section id=\"{0}\" aria-labelledby=\"{0}-title\"><h2 id=\"{0}-title\">{1}</h2>\n{2}</section>\n",
                        section.id, section.title, section.html);
  }
  return page + "</main>\n</body>\n</html>\n";
}

Result<void> check_report(const std::string& path) {
  if (path.empty()) return {};
  if (const auto writable = AtomicFile::create(path); !writable) return tl::make_unexpected(writable.error());
  return {};
}

Result<void> write_report(const ReportData& data, const std::string& path) {
  if (auto written = write_file_atomically(path, report_page(data)); !written) return written;
  fmt::print(stderr, "report: {}\n", path);
  return {};
}

Result<void> write_report_of(const nlohmann::ordered_json& json, const std::string& path) {
  if (path.empty()) return {};
  ReportData data;
  // As a file of it would be read: text that is no UTF-8 replaced, counts without a sign.
  const auto read =
      nlohmann::ordered_json::parse(json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  if (auto added = add_result(data, read, "this run"); !added) return added;
  return write_report(data, path);
}

}  // namespace quern::tools
