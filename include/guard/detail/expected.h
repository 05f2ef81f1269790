// For programs that are compiled as C++20: the part of std::expected that the public headers need. Included
// by guard/result.h only, and only where the standard library has no std::expected.
//
// Its own type on purpose, under a name of its own: what was compiled with one of the two can never be linked
// by mistake with what was compiled with the other. No function of the library that a program links has
// either in its signature (the members of guard::Buffer that have are inline).
#pragma once

#include <utility>
#include <variant>

namespace guard::detail {

template <class E>
class Unexpected {
 public:
  explicit Unexpected(E error) : error_(std::move(error)) {}
  E& error() & { return error_; }
  const E& error() const& { return error_; }
  E&& error() && { return std::move(error_); }

 private:
  E error_;
};

/// A value or an error. Taking the value of an error, or the error of a value, throws
/// std::bad_variant_access.
template <class T, class E>
class Expected {
 public:
  Expected() : held_(std::in_place_index<0>) {}
  Expected(T value) : held_(std::in_place_index<0>, std::move(value)) {}
  Expected(Unexpected<E> error) : held_(std::in_place_index<1>, std::move(error).error()) {}

  bool has_value() const { return held_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  T& value() & { return std::get<0>(held_); }
  const T& value() const& { return std::get<0>(held_); }
  T&& value() && { return std::get<0>(std::move(held_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  E& error() & { return std::get<1>(held_); }
  const E& error() const& { return std::get<1>(held_); }
  E&& error() && { return std::get<1>(std::move(held_)); }

 private:
  std::variant<T, E> held_;
};

template <class E>
class Expected<void, E> {
 public:
  Expected() = default;
  Expected(Unexpected<E> error) : held_(std::in_place_index<1>, std::move(error).error()) {}

  bool has_value() const { return held_.index() == 0; }
  explicit operator bool() const { return has_value(); }
  void value() const { (void)std::get<0>(held_); }
  E& error() & { return std::get<1>(held_); }
  const E& error() const& { return std::get<1>(held_); }
  E&& error() && { return std::get<1>(std::move(held_)); }

 private:
  std::variant<std::monostate, E> held_;
};

}  // namespace guard::detail
