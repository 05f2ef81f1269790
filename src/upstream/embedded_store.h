// The embedded store: the state of all devices in one SQLite file. Blocking; one thread at a time.
//
// Layout, version 1 (PRAGMA user_version; PRAGMA application_id is "xgud"):
//
//   meta    one row: uuid of the store, number of rows in `device`
//   device  a row for each device that was ever written: VM, kind of device, uuid of the vTPM, how often it
//           was written, digests of its four slots, and a checksum over all of these
//   value   a row for each slot that is not empty: device and slot, the bytes
//   probe   at most one row: what a probe has written
//
// Absence is certain (P4) only if the store is whole. So what is found is compared with its digests, and what
// is not found is believed only after all rows of `device` were read, found undamaged, and counted.
//
// What is committed is durable: write-ahead log, synchronous=FULL. What a session finds in the log when it
// opens is made durable before it is trusted, since the process that wrote it may have been killed before
// its sync.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/limits.h"
#include "guard/result.h"
#include "guard/upstream.h"
#include "upstream/embedded_sqlite.h"

namespace guard::upstream {

struct EmbeddedOptions {
  /// Path of the database. It is created, with its directory, when there is none and `identity_file` does not
  /// exist either.
  std::string file;
  /// Path of a small file outside of the database that names the store (its uuid). Once it exists, only that
  /// store is opened and none is created: an empty database in the place of a lost one would tell every TPM
  /// that it has no state.
  std::string identity_file;
  /// How long one statement waits for locks of other processes.
  std::chrono::milliseconds busy_patience = limits::embedded_busy;
  /// fetch() and probe() of the upstream end within these times.
  std::chrono::milliseconds read_patience = limits::read_patience;
  std::chrono::milliseconds probe_timeout = limits::probe_timeout;
  /// One of SQLite's file systems by name; empty for its default. For tests that let the disk fail.
  std::string vfs;
};

class EmbeddedStore {
 public:
  explicit EmbeddedStore(EmbeddedOptions options);
  ~EmbeddedStore();

  /// Opens the store, creating it as EmbeddedOptions says, and makes durable what is in its log. After a
  /// failure it is closed and may be tried again. Errc::not_found when it is gone, corrupt when it is not the
  /// store or damaged, busy, no_space, io.
  Result<> open();
  bool is_open() const;
  /// After `distrusted` the next open() copies the whole log into the database and syncs that before anything
  /// is read: for a commit that failed, since what a failed sync leaves in the cache is not to be believed.
  void close(bool distrusted = false);
  /// Whether the file at the path is another one by now, or gone.
  bool has_moved() const;

  /// One transaction at a time; roll_back() may be called at any time and never fails.
  Result<> begin_read();
  Result<> begin_write();
  /// After Errc::no_space or busy certainly nothing was written; after another error it is not known.
  Result<> commit();
  void roll_back();

  /// Within a transaction: what the store holds of a device; all empty, with a nil vTPM, if it was never
  /// written. Errc::corrupt when its rows are damaged, or when it is not there and the store is not whole.
  Result<Contents> read(const Owner& owner);
  /// Between transactions: what is read next comes from the files, not from memory.
  void forget_pages();
  /// Within a transaction for writing, after read(): puts the values in the place of those of the same slots.
  /// A vTPM that is written for the first time gets the uuid the values were made under, else a new one;
  /// returns it.
  Result<Uuid> write(const Owner& owner, std::span<const SlotWrite> writes);
  /// Within a transaction: the VM whose vTPM has this uuid.
  Result<std::optional<Uuid>> vm_of(const Uuid& vtpm);
  /// Within a transaction for writing: writes so many bytes of no meaning, in the place of those before.
  Result<> write_probe(std::size_t bytes);

  /// Copies the log into the database when it has become long. What fails here is tried again later.
  void tidy();

 private:
  struct Statements;
  struct Row;

  Result<> open_connection();
  Result<> prepare_format(bool may_create);
  Result<> create_format();
  Result<> settle_log();
  Result<std::optional<Row>> find(const Owner& owner);
  Result<> confirm_absence(const Owner& owner);
  Result<Row> insert(const Owner& owner, std::span<const SlotWrite> writes);
  Result<> put(const Row& row, const SlotWrite& write);

  const EmbeddedOptions options_;
  bool distrusted_ = false;
  std::unique_ptr<SqlConnection> connection_;
  std::unique_ptr<Statements> statements_;  ///< after the connection: statements end first
};

}  // namespace guard::upstream
