// SQLite as this project uses it: errors as values, statements that clean up after themselves. Knows nothing
// of what is stored. Everything here may block; one thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "guard/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace guard::upstream {

/// A prepared statement. Parameters and columns count as in SQLite: parameters from 1, columns from 0. What
/// is bound must outlive the statement's next reset().
class SqlStatement {
 public:
  explicit SqlStatement(sqlite3_stmt* statement);

  SqlStatement& bind(int parameter, std::int64_t value);
  SqlStatement& bind(int parameter, std::string_view blob);
  SqlStatement& bind_zeroes(int parameter, std::size_t bytes);
  /// True when there is a row, false after the last one.
  Result<bool> step();
  /// For statements without rows: step() to the end, then reset().
  Result<> run();
  /// Ends the statement, so that it holds no lock and no row, and may be bound anew.
  void reset();

  std::int64_t integer(int column) const;
  /// Valid until the next step() or reset().
  std::string_view blob(int column) const;

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

/// Resets a statement at the end of a scope, whatever happens in it.
class SqlScope {
 public:
  explicit SqlScope(SqlStatement& statement) : statement_(statement) {}
  ~SqlScope() { statement_.reset(); }
  SqlScope(const SqlScope&) = delete;

 private:
  SqlStatement& statement_;
};

/// An open database. Errors: Errc::busy somebody else holds a lock, no_space the disk is full, corrupt the
/// file is no database or damaged, not_found it cannot be opened, io anything else.
class SqlConnection {
 public:
  /// Opens an existing file for reading and writing; never creates one. `busy` is how long a statement waits
  /// for the locks of others. `vfs` names one of SQLite's file systems, empty for its default.
  static Result<std::unique_ptr<SqlConnection>> open(const std::string& path, const std::string& vfs,
                                                     std::chrono::milliseconds busy);

  /// Statements without parameters and rows, separated by semicolons.
  Result<> run(const char* sql);
  /// The first column of the first row as a number; Errc::corrupt when there is no row.
  Result<std::int64_t> number(const char* sql);
  Result<std::string> text(const char* sql);
  Result<SqlStatement> prepare(const char* sql);

  /// The id that the last INSERT gave out.
  std::int64_t last_row() const;
  bool in_transaction() const;
  /// Whether the file at the path is another one than the one that is open, or none.
  bool has_moved() const;
  /// Pages in the write-ahead log after the last commit of this connection.
  int log_pages() const { return log_pages_; }
  /// Forgets pages in memory: what is read next comes from the files.
  void forget_pages();
  /// Copies the log into the database. With `empty_log` also truncates the log; Errc::busy when a reader
  /// keeps it from being emptied. Without, does as much as it can and reports no readers.
  Result<> checkpoint(bool empty_log);
  /// When this connection is closed, the log is left as it is: for a database that is not at its path any
  /// more, where a log of that name may belong to somebody else.
  void keep_log_on_close();

 private:
  struct Close {
    void operator()(sqlite3* database) const;
  };
  explicit SqlConnection(sqlite3* database) : database_(database) {}

  std::unique_ptr<sqlite3, Close> database_;
  int log_pages_ = 0;
};

}  // namespace guard::upstream
