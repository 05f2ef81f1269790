#include "daemon/exposition.h"

#include <algorithm>
#include <cassert>
#include <chrono>

namespace guard::daemon {

namespace {

double seconds(Time time) { return std::chrono::duration<double>(time).count(); }

/// Values of labels may hold anything; what would end them is escaped.
void append_label_value(std::string& out, std::string_view value) {
  for (const char c : value) {
    if (c == '\\' || c == '"') out.push_back('\\');
    if (c == '\n') {
      out += "\\n";
    } else {
      out.push_back(c);
    }
  }
}

}  // namespace

void Exposition::family(std::string_view name, std::string_view type, std::string_view help) {
  assert(help.find_first_of("\\\n") == std::string_view::npos);
  name_ = name;
  text_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void Exposition::sample_text(std::string_view suffix, std::initializer_list<Label> labels,
                             std::string_view value) {
  text_ += name_;
  text_ += suffix;
  char before = '{';
  for (const auto& [name, text] : labels) {
    if (name.empty()) continue;
    text_.push_back(before);
    before = ',';
    text_ += name;
    text_ += "=\"";
    append_label_value(text_, text);
    text_.push_back('"');
  }
  if (before == ',') text_.push_back('}');
  text_.push_back(' ');
  text_ += value;
  text_.push_back('\n');
}

void Exposition::states(std::string_view name, std::string_view help, std::string_view label,
                        std::initializer_list<std::string_view> all, std::string_view present) {
  assert(std::ranges::find(all, present) != all.end());
  family(name, "gauge", help);
  for (const std::string_view state : all) sample({{label, state}}, state == present ? 1 : 0);
}

void Exposition::histograms(std::string_view name, std::string_view help, std::string_view label,
                            std::initializer_list<std::pair<std::string_view, const Histogram*>> entries) {
  family(name, "histogram", help);
  for (const auto& [value, histogram] : entries) {
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < Histogram::bounds.size(); ++i) {
      below += histogram->in_bucket(i);
      sample_text("_bucket", {{label, value}, {"le", fmt::format("{}", seconds(Histogram::bounds[i]))}},
                  fmt::format("{}", below));
    }
    sample_text("_bucket", {{label, value}, {"le", "+Inf"}}, fmt::format("{}", histogram->count()));
    sample_text("_sum", {{label, value}}, fmt::format("{}", seconds(histogram->sum())));
    sample_text("_count", {{label, value}}, fmt::format("{}", histogram->count()));
  }
}

}  // namespace guard::daemon
