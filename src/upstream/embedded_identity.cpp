#include "upstream/embedded_identity.h"

#include <array>
#include <memory>
#include <random>
#include <span>
#include <utility>

#include "guard/env.h"

namespace guard::upstream {

namespace {

struct Place {
  std::unique_ptr<Directory> directory;
  std::string name;
};

/// Creates the directory if it is missing.
Result<Place> place_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash + 1 == path.size()) {
    return std::unexpected(Error::invalid(path + " is no absolute path of a file"));
  }
  auto directory = open_directory(slash == 0 ? "/" : path.substr(0, slash));
  if (!directory) return std::unexpected(std::move(directory.error()));
  return Place{std::move(*directory), path.substr(slash + 1)};
}

}  // namespace

Uuid random_uuid() {
  std::random_device device;
  Uuid uuid;
  for (auto& byte : uuid.bytes) byte = static_cast<std::uint8_t>(device());
  uuid.bytes[6] = static_cast<std::uint8_t>((uuid.bytes[6] & 0x0f) | 0x40);
  uuid.bytes[8] = static_cast<std::uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
  return uuid;
}

Result<std::optional<Uuid>> read_identity(const std::string& path) {
  auto place = place_of(path);
  if (!place) return std::unexpected(std::move(place.error()));
  auto file = place->directory->open_for_read(place->name);
  if (!file) {
    if (file.error().code == Errc::not_found) return std::nullopt;
    return std::unexpected(std::move(file.error()));
  }
  std::array<char, 64> text{};
  const auto size = (*file)->read_at(0, std::as_writable_bytes(std::span(text)));
  if (!size) return std::unexpected(size.error());
  // The uuid and a newline.
  const auto uuid = *size == 37 && text[36] == '\n' ? Uuid::parse({text.data(), 36}) : std::nullopt;
  if (!uuid) return std::unexpected(Error::corrupt(path + " does not name a store"));
  return uuid;
}

Result<> write_identity(const std::string& path, const Uuid& store) {
  auto place = place_of(path);
  if (!place) return std::unexpected(std::move(place.error()));
  return replace_file(*place->directory, place->name, store.str() + "\n");
}

Result<> create_database_file(const std::string& path) {
  auto place = place_of(path);
  if (!place) return std::unexpected(std::move(place.error()));
  auto file = place->directory->open_file(place->name, Directory::Mode::open_or_create);
  if (!file) return std::unexpected(std::move(file.error()));
  return place->directory->sync();
}

Result<> sync_log_file(const std::string& database) {
  auto place = place_of(database + "-wal");
  if (!place) return std::unexpected(std::move(place.error()));
  auto file = place->directory->open_for_read(place->name);
  if (!file) {
    if (file.error().code == Errc::not_found) return {};
    return std::unexpected(std::move(file.error()));
  }
  if (auto synced = (*file)->sync_all(); !synced) return synced;
  return place->directory->sync();
}

}  // namespace guard::upstream
