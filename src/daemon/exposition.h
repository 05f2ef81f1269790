// The text format in which Prometheus reads metrics, version 0.0.4: families of samples, each family with one
// HELP and one TYPE line before its samples. Written by hand: a few lines do.
#pragma once

#include <fmt/format.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/histogram.h"

namespace guard::daemon {

class Exposition {
 public:
  using Label = std::pair<std::string_view, std::string_view>;

  /// Begins a family; the samples that follow belong to it. `type` is gauge or counter.
  void family(std::string_view name, std::string_view type, std::string_view help);

  template <class Number>
    requires std::is_arithmetic_v<Number>
  void sample(std::initializer_list<Label> labels, Number value) {
    sample_text({}, labels, fmt::format("{}", value));
  }

  /// A family of one sample without labels.
  template <class Number>
  void gauge(std::string_view name, std::string_view help, Number value) {
    family(name, "gauge", help);
    sample({}, value);
  }
  template <class Number>
  void counter(std::string_view name, std::string_view help, Number value) {
    family(name, "counter", help);
    sample({}, value);
  }
  /// One sample per possible state, 1 for the present one and 0 for the others.
  void states(std::string_view name, std::string_view help, std::string_view label,
              std::initializer_list<std::string_view> all, std::string_view present);
  /// A family of one histogram for each entry, told apart by the value of `label`; seconds. An empty label:
  /// there is one entry, without labels.
  void histograms(std::string_view name, std::string_view help, std::string_view label,
                  std::initializer_list<std::pair<std::string_view, const Histogram*>> entries);

  std::string take() { return std::move(text_); }

 private:
  void sample_text(std::string_view suffix, std::initializer_list<Label> labels, std::string_view value);

  std::string name_;
  std::string text_;
};

}  // namespace guard::daemon
