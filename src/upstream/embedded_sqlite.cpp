#include "upstream/embedded_sqlite.h"

#include <sqlite3.h>

#include <utility>

namespace guard::upstream {

namespace {

Errc class_of(int code) {
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Errc::busy;
    case SQLITE_FULL:
      return Errc::no_space;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Errc::corrupt;
    case SQLITE_CANTOPEN:
      return Errc::not_found;
    default:
      return Errc::io;
  }
}

/// Must be called before anything else is done with the connection. SQLite's text names no bound values.
Error error_of(sqlite3* database) {
  const int code = sqlite3_extended_errcode(database);
  return {class_of(code), sqlite3_system_errno(database),
          std::string(sqlite3_errmsg(database)) + " (SQLite " + std::to_string(code) + ")"};
}

}  // namespace

void SqlStatement::Finalize::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

SqlStatement::SqlStatement(sqlite3_stmt* statement) : statement_(statement) {}

SqlStatement& SqlStatement::bind(int parameter, std::int64_t value) {
  sqlite3_bind_int64(statement_.get(), parameter, value);
  return *this;
}

SqlStatement& SqlStatement::bind(int parameter, std::string_view blob) {
  // A null pointer would be NULL, not an empty blob.
  sqlite3_bind_blob64(statement_.get(), parameter, blob.empty() ? "" : blob.data(), blob.size(),
                      SQLITE_STATIC);
  return *this;
}

SqlStatement& SqlStatement::bind_zeroes(int parameter, std::size_t bytes) {
  sqlite3_bind_zeroblob64(statement_.get(), parameter, bytes);
  return *this;
}

Result<bool> SqlStatement::step() {
  switch (sqlite3_step(statement_.get())) {
    case SQLITE_ROW:
      return true;
    case SQLITE_DONE:
      return false;
    default:
      return std::unexpected(error_of(sqlite3_db_handle(statement_.get())));
  }
}

Result<> SqlStatement::run() {
  const SqlScope scope(*this);
  const auto row = step();
  if (!row) return std::unexpected(row.error());
  return {};
}

void SqlStatement::reset() { sqlite3_reset(statement_.get()); }

std::int64_t SqlStatement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

std::string_view SqlStatement::blob(int column) const {
  const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_.get(), column));
  const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column));
  return bytes == nullptr ? std::string_view() : std::string_view(bytes, size);
}

void SqlConnection::Close::operator()(sqlite3* database) const { sqlite3_close_v2(database); }

Result<std::unique_ptr<SqlConnection>> SqlConnection::open(const std::string& path, const std::string& vfs,
                                                           std::chrono::milliseconds busy) {
  sqlite3* database = nullptr;
  constexpr int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const int code = sqlite3_open_v2(path.c_str(), &database, flags, vfs.empty() ? nullptr : vfs.c_str());
  if (database == nullptr) return std::unexpected(Error{Errc::io, 0, "SQLite has no memory"});
  std::unique_ptr<SqlConnection> connection(new SqlConnection(database));
  if (code != SQLITE_OK) return std::unexpected(error_of(database));
  sqlite3_busy_timeout(database, static_cast<int>(busy.count()));
  // Checkpoints are run when nobody waits for an answer; the hook takes the place of SQLite's own.
  sqlite3_wal_hook(
      database,
      [](void* self, sqlite3*, const char*, int pages) {
        static_cast<SqlConnection*>(self)->log_pages_ = pages;
        return SQLITE_OK;
      },
      connection.get());
  return connection;
}

Result<> SqlConnection::run(const char* sql) {
  if (sqlite3_exec(database_.get(), sql, nullptr, nullptr, nullptr) == SQLITE_OK) return {};
  return std::unexpected(error_of(database_.get()));
}

Result<SqlStatement> SqlConnection::prepare(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v3(database_.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr) !=
      SQLITE_OK) {
    return std::unexpected(error_of(database_.get()));
  }
  return SqlStatement(statement);
}

Result<std::int64_t> SqlConnection::number(const char* sql) {
  auto statement = prepare(sql);
  if (!statement) return std::unexpected(statement.error());
  const auto row = statement->step();
  if (!row) return std::unexpected(row.error());
  if (!*row) return std::unexpected(Error::corrupt("the database lacks a row"));
  return statement->integer(0);
}

Result<std::string> SqlConnection::text(const char* sql) {
  auto statement = prepare(sql);
  if (!statement) return std::unexpected(statement.error());
  const auto row = statement->step();
  if (!row) return std::unexpected(row.error());
  if (!*row) return std::unexpected(Error::corrupt("the database lacks a row"));
  return std::string(statement->blob(0));
}

std::int64_t SqlConnection::last_row() const { return sqlite3_last_insert_rowid(database_.get()); }

bool SqlConnection::in_transaction() const { return sqlite3_get_autocommit(database_.get()) == 0; }

bool SqlConnection::has_moved() const {
  int moved = 0;
  sqlite3_file_control(database_.get(), "main", SQLITE_FCNTL_HAS_MOVED, &moved);
  return moved != 0;
}

void SqlConnection::forget_pages() { sqlite3_db_release_memory(database_.get()); }

Result<> SqlConnection::checkpoint(bool empty_log) {
  const int mode = empty_log ? SQLITE_CHECKPOINT_TRUNCATE : SQLITE_CHECKPOINT_PASSIVE;
  const int code = sqlite3_wal_checkpoint_v2(database_.get(), "main", mode, nullptr, nullptr);
  if (code == SQLITE_OK || (!empty_log && (code & 0xff) == SQLITE_BUSY)) {
    log_pages_ = 0;
    return {};
  }
  return std::unexpected(error_of(database_.get()));
}

void SqlConnection::keep_log_on_close() {
  sqlite3_db_config(database_.get(), SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
}

}  // namespace guard::upstream
