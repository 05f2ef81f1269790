#include "upstream/embedded_store.h"

#include <array>
#include <cassert>
#include <cstring>
#include <utility>

#include "upstream/embedded_identity.h"

namespace guard::upstream {

namespace {

constexpr std::int64_t format_version = 1;
constexpr std::int64_t application_id = 0x78677564;  // "xgud"

constexpr const char* create_tables =
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), store BLOB NOT NULL, devices INTEGER NOT "
    "NULL) "
    "STRICT;"
    "CREATE TABLE device (id INTEGER PRIMARY KEY, vm BLOB NOT NULL, device INTEGER NOT NULL, vtpm BLOB NOT "
    "NULL, "
    "  version INTEGER NOT NULL, digests BLOB NOT NULL, checksum BLOB NOT NULL, UNIQUE (vm, device)) STRICT;"
    "CREATE UNIQUE INDEX device_vtpm ON device (vtpm) WHERE device = 0;"
    "CREATE TABLE value (id INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;"
    "CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), filler BLOB NOT NULL) STRICT;"
    "PRAGMA application_id = 2020046180;"
    "PRAGMA user_version = 1;";
static_assert(application_id == 2020046180 && format_version == 1);

std::string_view bytes_of(const Uuid& uuid) {
  return {reinterpret_cast<const char*>(uuid.bytes.data()), uuid.bytes.size()};
}

std::string bytes_of(const Digest& digest) {
  std::string bytes(16, '\0');
  for (std::size_t i = 0; i < 8; ++i) {
    bytes[i] = static_cast<char>(digest.low >> 8 * i);
    bytes[8 + i] = static_cast<char>(digest.high >> 8 * i);
  }
  return bytes;
}

std::optional<Uuid> uuid_from(std::string_view bytes) {
  Uuid uuid;
  if (bytes.size() != uuid.bytes.size()) return std::nullopt;
  std::memcpy(uuid.bytes.data(), bytes.data(), bytes.size());
  return uuid;
}

Error damaged(std::string what) { return Error::corrupt("the store is damaged: " + std::move(what)); }

/// The values of a device have ids of their own, derived from that of the device.
std::int64_t value_id(std::int64_t device, Slot slot) {
  return device * static_cast<std::int64_t>(slot_count) + static_cast<std::int64_t>(slot);
}

}  // namespace

/// One row of `device`.
struct EmbeddedStore::Row {
  std::int64_t id = 0;
  Owner owner;
  Uuid vtpm;
  std::int64_t version = 0;
  std::string digests;  ///< 16 bytes for each slot, in their order

  /// Over every column, so that no flipped bit makes one device of another or hides a value.
  std::string checksum() const {
    std::string all(bytes_of(owner.vm));
    all += bytes_of(vtpm);
    all += digests;
    for (const std::int64_t number : {id, static_cast<std::int64_t>(owner.device), version}) {
      for (int i = 0; i < 8; ++i) all.push_back(static_cast<char>(number >> 8 * i));
    }
    return bytes_of(digest_of(all));
  }
  std::string_view digest(Slot slot) const {
    return std::string_view(digests).substr(16 * static_cast<std::size_t>(slot), 16);
  }
  void set_digest(Slot slot, const Digest& digest) {
    digests.replace(16 * static_cast<std::size_t>(slot), 16, bytes_of(digest));
  }

  /// From the columns id, vm, device, vtpm, version, digests, checksum; nullopt when they do not fit
  /// together.
  static std::optional<Row> from(const SqlStatement& columns) {
    Row row;
    row.id = columns.integer(0);
    const auto vm = uuid_from(columns.blob(1));
    const auto vtpm = uuid_from(columns.blob(3));
    if (!vm || !vtpm) return std::nullopt;
    row.owner = {*vm, columns.integer(2) == 0 ? Device::vtpm : Device::uefi};
    row.vtpm = *vtpm;
    row.version = columns.integer(4);
    row.digests = columns.blob(5);
    if (row.digests.size() != 16 * slot_count || row.checksum() != columns.blob(6)) return std::nullopt;
    return row;
  }
};

struct EmbeddedStore::Statements {
  SqlStatement begin_read, begin_write, commit, roll_back;
  SqlStatement find_device, all_devices, count_devices, find_vtpm;
  SqlStatement insert_device, count_up, update_device;
  SqlStatement find_value, put_value, delete_value, put_probe;

  static Result<std::unique_ptr<Statements>> prepare(SqlConnection& connection) {
#define GUARD_COLUMNS "id, vm, device, vtpm, version, digests, checksum"
    constexpr std::array<const char*, 15> texts{
        "BEGIN",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "ROLLBACK",
        "SELECT " GUARD_COLUMNS " FROM device WHERE vm = ?1 AND device = ?2",
        "SELECT " GUARD_COLUMNS " FROM device NOT INDEXED ORDER BY id",
        "SELECT devices FROM meta WHERE id = 1",
        "SELECT " GUARD_COLUMNS " FROM device WHERE device = 0 AND vtpm = ?1",
        "INSERT INTO device (vm, device, vtpm, version, digests, checksum) VALUES (?1, ?2, ?3, 0, ?4, x'')",
        "UPDATE meta SET devices = devices + 1 WHERE id = 1",
        "UPDATE device SET version = ?2, digests = ?3, checksum = ?4 WHERE id = ?1",
        "SELECT bytes FROM value WHERE id = ?1",
        "INSERT OR REPLACE INTO value (id, bytes) VALUES (?1, ?2)",
        "DELETE FROM value WHERE id = ?1",
        "INSERT OR REPLACE INTO probe (id, filler) VALUES (1, ?1)"};
#undef GUARD_COLUMNS
    std::vector<SqlStatement> ready;
    for (const char* text : texts) {
      auto statement = connection.prepare(text);
      if (!statement) return std::unexpected(std::move(statement.error()));
      ready.push_back(std::move(*statement));
    }
    auto next = ready.begin();
    const auto take = [&next] { return std::move(*next++); };
    // Braces evaluate from left to right.
    return std::unique_ptr<Statements>(new Statements{take(), take(), take(), take(), take(), take(), take(),
                                                      take(), take(), take(), take(), take(), take(), take(),
                                                      take()});
  }
};

EmbeddedStore::EmbeddedStore(EmbeddedOptions options) : options_(std::move(options)) {}

EmbeddedStore::~EmbeddedStore() = default;

bool EmbeddedStore::is_open() const { return connection_ != nullptr; }

bool EmbeddedStore::has_moved() const { return connection_->has_moved(); }

// --- Reading and writing ----------------------------------------------------------------------------------

Result<> EmbeddedStore::begin_read() {
  if (auto begun = statements_->begin_read.run(); !begun) return begun;
  // BEGIN alone takes no lock and looks at nothing.
  const SqlScope scope(statements_->count_devices);
  const auto row = statements_->count_devices.step();
  if (row) return {};
  statements_->count_devices.reset();
  roll_back();
  return std::unexpected(row.error());
}

void EmbeddedStore::forget_pages() { connection_->forget_pages(); }

Result<> EmbeddedStore::begin_write() { return statements_->begin_write.run(); }

Result<> EmbeddedStore::commit() { return statements_->commit.run(); }

void EmbeddedStore::roll_back() {
  // SQLite has rolled back by itself after some errors.
  if (connection_->in_transaction()) (void)statements_->roll_back.run();
}

Result<Contents> EmbeddedStore::read(const Owner& owner) {
  const auto row = find(owner);
  if (!row) return std::unexpected(row.error());
  Contents contents;
  if (!*row) return contents;
  contents.vtpm = (*row)->vtpm;
  const std::string nothing = bytes_of(digest_of(""));
  for (std::size_t i = 0; i < slot_count; ++i) {
    const auto slot = static_cast<Slot>(i);
    if ((*row)->digest(slot) == nothing) continue;
    SqlStatement& find_value = statements_->find_value;
    const SqlScope scope(find_value);
    const auto found = find_value.bind(1, value_id((*row)->id, slot)).step();
    if (!found) return std::unexpected(found.error());
    if (!*found) return std::unexpected(damaged("a value is missing"));
    contents[slot] = Value(std::string(find_value.blob(0)));
    if (bytes_of(contents[slot].digest()) != (*row)->digest(slot)) {
      return std::unexpected(damaged("a value is not what was stored"));
    }
  }
  return contents;
}

Result<std::optional<EmbeddedStore::Row>> EmbeddedStore::find(const Owner& owner) {
  {
    SqlStatement& find_device = statements_->find_device;
    const SqlScope scope(find_device);
    const auto found =
        find_device.bind(1, bytes_of(owner.vm)).bind(2, static_cast<std::int64_t>(owner.device)).step();
    if (!found) return std::unexpected(found.error());
    if (*found) {
      auto row = Row::from(find_device);
      if (!row || row->owner != owner) return std::unexpected(damaged("the entry of this device"));
      return row;
    }
  }
  if (auto absent = confirm_absence(owner); !absent) return std::unexpected(std::move(absent.error()));
  return std::nullopt;
}

/// A look-up that finds nothing may have been led astray. See the head of the header.
Result<> EmbeddedStore::confirm_absence(const Owner& owner) {
  std::int64_t seen = 0;
  {
    SqlStatement& all = statements_->all_devices;
    const SqlScope scope(all);
    for (;;) {
      const auto found = all.step();
      if (!found) return std::unexpected(found.error());
      if (!*found) break;
      const auto row = Row::from(all);
      if (!row) return std::unexpected(damaged("the entry of some device"));
      if (row->owner == owner) return std::unexpected(damaged("the index of devices"));
      ++seen;
    }
  }
  SqlStatement& count = statements_->count_devices;
  const SqlScope scope(count);
  const auto found = count.step();
  if (!found) return std::unexpected(found.error());
  if (!*found || count.integer(0) != seen) return std::unexpected(damaged("devices are missing"));
  return {};
}

Result<Uuid> EmbeddedStore::write(const Owner& owner, std::span<const SlotWrite> writes) {
  auto found = find(owner);
  if (!found) return std::unexpected(std::move(found.error()));
  if (!*found) {
    auto inserted = insert(owner, writes);
    if (!inserted) return std::unexpected(std::move(inserted.error()));
    *found = std::move(*inserted);
  }
  Row& row = **found;
  for (const SlotWrite& write : writes) {
    if (auto done = put(row, write); !done) return std::unexpected(std::move(done.error()));
    row.set_digest(write.slot, write.value.digest());
  }
  ++row.version;
  const std::string checksum = row.checksum();
  const auto updated = statements_->update_device.bind(1, row.id)
                           .bind(2, row.version)
                           .bind(3, std::string_view(row.digests))
                           .bind(4, std::string_view(checksum))
                           .run();
  if (!updated) return std::unexpected(updated.error());
  return row.vtpm;
}

Result<EmbeddedStore::Row> EmbeddedStore::insert(const Owner& owner, std::span<const SlotWrite> writes) {
  Row row;
  row.owner = owner;
  if (owner.device == Device::vtpm) {
    // A store that went back to before this vTPM was first written: it is the same vTPM still.
    for (const SlotWrite& write : writes) {
      if (row.vtpm.is_nil()) row.vtpm = write.vtpm;
    }
    if (row.vtpm.is_nil()) row.vtpm = random_uuid();
  }
  row.digests.assign(16 * slot_count, '\0');
  for (std::size_t i = 0; i < slot_count; ++i) row.set_digest(static_cast<Slot>(i), digest_of(""));
  const auto inserted = statements_->insert_device.bind(1, bytes_of(owner.vm))
                            .bind(2, static_cast<std::int64_t>(owner.device))
                            .bind(3, bytes_of(row.vtpm))
                            .bind(4, std::string_view(row.digests))
                            .run();
  if (!inserted) return std::unexpected(inserted.error());
  if (auto counted = statements_->count_up.run(); !counted)
    return std::unexpected(std::move(counted.error()));
  row.id = connection_->last_row();
  return row;
}

Result<> EmbeddedStore::put(const Row& row, const SlotWrite& write) {
  assert(device_of(write.slot) == row.owner.device);
  const std::int64_t id = value_id(row.id, write.slot);
  if (write.value.empty()) return statements_->delete_value.bind(1, id).run();
  return statements_->put_value.bind(1, id).bind(2, write.value.view()).run();
}

Result<std::optional<Uuid>> EmbeddedStore::vm_of(const Uuid& vtpm) {
  SqlStatement& find_vtpm = statements_->find_vtpm;
  const SqlScope scope(find_vtpm);
  const auto found = find_vtpm.bind(1, bytes_of(vtpm)).step();
  if (!found) return std::unexpected(found.error());
  if (!*found) return std::nullopt;
  const auto row = Row::from(find_vtpm);
  if (!row || row->vtpm != vtpm) return std::unexpected(damaged("the entry of this vTPM"));
  return row->owner.vm;
}

Result<> EmbeddedStore::write_probe(std::size_t bytes) {
  return statements_->put_probe.bind_zeroes(1, bytes).run();
}

void EmbeddedStore::tidy() {
  if (connection_ && connection_->log_pages() >= limits::embedded_log_pages) {
    (void)connection_->checkpoint(false);
  }
}

// --- Opening ----------------------------------------------------------------------------------------------

void EmbeddedStore::close(bool distrusted) {
  distrusted_ |= distrusted;
  if (!connection_) return;
  roll_back();
  if (distrusted) connection_->keep_log_on_close();
  if (connection_->has_moved()) {
    // What is in the log belongs to the file that is open, whatever its name is now; and the log's name may
    // soon belong to another.
    (void)connection_->checkpoint(true);
    connection_->keep_log_on_close();
  }
  statements_.reset();
  connection_.reset();
}

Result<> EmbeddedStore::open() {
  if (is_open()) return {};
  auto opened = open_connection();
  if (!opened) {
    statements_.reset();
    connection_.reset();
  }
  return opened;
}

Result<> EmbeddedStore::open_connection() {
  const auto identity = read_identity(options_.identity_file);
  if (!identity) return std::unexpected(identity.error());
  if (!*identity) {
    if (auto created = create_database_file(options_.file); !created) return created;
  }
  auto connection = SqlConnection::open(options_.file, options_.vfs, options_.busy_patience);
  if (!connection) {
    if (connection.error().code == Errc::not_found && *identity) {
      connection.error().message += ": the store that this guard has used is gone; it is expected at " +
                                    options_.file + ", and none is begun while " + options_.identity_file +
                                    " names it";
    }
    return std::unexpected(std::move(connection.error()));
  }
  connection_ = std::move(*connection);
  if (auto ready = prepare_format(!*identity); !ready) return ready;
  const auto found = connection_->text("SELECT store FROM meta WHERE id = 1");
  if (!found) return std::unexpected(found.error());
  const auto store = uuid_from(*found);
  if (!store) return std::unexpected(damaged("its uuid"));
  if (*identity && **identity != *store) {
    return std::unexpected(Error::corrupt("another store stands there: its uuid is " + store->str() +
                                          ", and " + options_.identity_file + " names " +
                                          (*identity)->str()));
  }
  if (auto settled = settle_log(); !settled) return settled;
  auto statements = Statements::prepare(*connection_);
  if (!statements) return std::unexpected(std::move(statements.error()));
  statements_ = std::move(*statements);
  if (!*identity) return write_identity(options_.identity_file, *store);
  return {};
}

/// Leaves a database of our format in the right modes, or says why it is none.
Result<> EmbeddedStore::prepare_format(bool may_create) {
  // Damage is looked for in every cell; what the file itself defines is not run; freed pages that are
  // written anyway do not keep secrets.
  if (auto set = connection_->run("PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; "
                                  "PRAGMA secure_delete = FAST; PRAGMA synchronous = FULL");
      !set) {
    return set;
  }
  const auto version = connection_->number("PRAGMA user_version");
  if (!version) return std::unexpected(version.error());
  const auto application = connection_->number("PRAGMA application_id");
  if (!application) return std::unexpected(application.error());
  const auto tables = connection_->number("SELECT count(*) FROM sqlite_schema");
  if (!tables) return std::unexpected(tables.error());
  const bool fresh = *version == 0 && *application == 0 && *tables == 0;
  if (!fresh && *application != application_id) {
    return std::unexpected(Error::corrupt("the file is a database of another program"));
  }
  if (!fresh && *version != format_version) {
    return std::unexpected(Error::corrupt("the store has format " + std::to_string(*version) +
                                          ", and this version knows " + std::to_string(format_version)));
  }
  if (fresh && !may_create) {
    return std::unexpected(
        Error::corrupt("the store is empty, and " + options_.identity_file + " names one"));
  }
  const auto mode = connection_->text("PRAGMA journal_mode = WAL");
  if (!mode) return std::unexpected(mode.error());
  if (*mode != "wal") {
    return std::unexpected(Error{Errc::io, 0, "no write-ahead log is possible there, only " + *mode});
  }
  if (!fresh) return {};
  return create_format();
}

Result<> EmbeddedStore::create_format() {
  if (auto begun = connection_->run("BEGIN IMMEDIATE"); !begun) return begun;
  auto done = connection_->run(create_tables);
  if (done) {
    const Uuid store = random_uuid();
    auto insert = connection_->prepare("INSERT INTO meta (id, store, devices) VALUES (1, ?1, 0)");
    done = insert ? insert->bind(1, bytes_of(store)).run() : std::unexpected(insert.error());
  }
  if (done) done = connection_->run("COMMIT");
  if (!done && connection_->in_transaction()) (void)connection_->run("ROLLBACK");
  return done;
}

/// See the head of the header, and close().
Result<> EmbeddedStore::settle_log() {
  if (!distrusted_) return sync_log_file(options_.file);
  if (auto copied = connection_->checkpoint(true); !copied) return copied;
  distrusted_ = false;
  return {};
}

}  // namespace guard::upstream
