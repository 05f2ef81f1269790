#include "daemon/options.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <fstream>
#include <vector>

namespace guard::daemon {
namespace {

Parsed parse(std::vector<const char*> words) {
  words.insert(words.begin(), "xapi-guard");
  return parse_options(static_cast<int>(words.size()), words.data());
}

/// A configuration file that disappears with the object.
class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text) {
    const int fd = ::mkstemp(path_);
    ::close(fd);
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { ::unlink(path_); }
  const char* path() const { return path_; }

 private:
  char path_[32] = "/tmp/guard-options-XXXXXX";
};

TEST(Options, HaveTheDocumentedDefaults) {
  const Parsed parsed = parse({});
  ASSERT_TRUE(parsed.options);
  EXPECT_EQ(parsed.options->upstream, "unix:/var/lib/xcp/xapi");
  EXPECT_EQ(parsed.options->state_dir, "/var/lib/xapi-guard");
  EXPECT_EQ(parsed.options->control_socket_path(), "/run/xapi-guard/control.sock");
  EXPECT_EQ(parsed.options->switch_socket, "/var/run/message-switch/sock");
  EXPECT_TRUE(parsed.options->uses_switch());
  EXPECT_EQ(parsed.options->direct_timeout, std::chrono::milliseconds(500));
  EXPECT_EQ(parsed.options->queue_capacity, 512u);
  EXPECT_EQ(parsed.options->retain, std::chrono::minutes(15));
  EXPECT_EQ(parsed.options->doubt_window, std::chrono::minutes(2));
  EXPECT_EQ(parsed.options->runtime_dir, "/run/xapi-guard");
  EXPECT_EQ(parsed.options->journal_size, 32u << 20);
  EXPECT_EQ(parsed.options->journal_max, 1u << 30);
  EXPECT_EQ(parsed.options->varstored_patience, std::chrono::seconds(20));
}

TEST(Options, BoundThePatienceOfVarstored) {
  EXPECT_EQ(parse({"--varstored-patience", "10min"}).options->varstored_patience, std::chrono::minutes(10));
  EXPECT_FALSE(parse({"--varstored-patience", "11min"}).options);
  EXPECT_FALSE(parse({"--varstored-patience", "20"}).options);
}

TEST(Options, AreReadFromTheCommandLine) {
  const Parsed parsed =
      parse({"--upstream", "unix:/tmp/x", "--direct-timeout", "2s", "--journal-size", "4MiB", "--journal-max",
             "8MiB", "--log-level", "debug", "--runtime-dir", "/tmp/run"});
  ASSERT_TRUE(parsed.options);
  EXPECT_EQ(parsed.options->upstream, "unix:/tmp/x");
  EXPECT_EQ(parsed.options->direct_timeout, std::chrono::seconds(2));
  EXPECT_EQ(parsed.options->journal_size, 4u << 20);
  EXPECT_EQ(parsed.options->journal_max, 8u << 20);
  EXPECT_EQ(parsed.options->log_level, LogLevel::debug);
  EXPECT_EQ(parsed.options->control_socket_path(), "/tmp/run/control.sock");
}

TEST(Options, AreReadFromAFileAndTheCommandLineWins) {
  const ConfigFile file(
      "upstream = \"unix:/tmp/file\"\ndoubt-window = \"5s\"\nqueue-capacity = 7\n"
      "journal-max = \"64MiB\"\n");
  const Parsed parsed = parse({"--config", file.path(), "--doubt-window", "6s"});
  ASSERT_TRUE(parsed.options);
  EXPECT_EQ(parsed.options->upstream, "unix:/tmp/file");
  EXPECT_EQ(parsed.options->doubt_window, std::chrono::seconds(6));
  EXPECT_EQ(parsed.options->queue_capacity, 7u);
  EXPECT_EQ(parsed.options->journal_max, 64u << 20);
}

TEST(Options, CanDoWithoutTheMessageSwitch) {
  EXPECT_FALSE(parse({"--switch-socket", "none"}).options->uses_switch());
  EXPECT_TRUE(parse({"--switch-socket", "/tmp/switch"}).options->uses_switch());
  EXPECT_FALSE(parse({"--switch-socket", "relative"}).options);
  EXPECT_FALSE(parse({"--switch-socket", ""}).options);
}

TEST(Options, TakeTheUuidOfTheHostFromItsInventoryUnlessItIsGiven) {
  const std::string uuid = "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10";
  const ConfigFile inventory("PRODUCT_BRAND='x'\nINSTALLATION_UUID='" + uuid + "'\nMORE='y'\n");
  const ConfigFile broken("INSTALLATION_UUID='nonsense'\n");
  const auto host = [](std::vector<const char*> words, const char* path) {
    words.insert(words.begin(), "xapi-guard");
    return parse_options(static_cast<int>(words.size()), words.data(), path).options->host_uuid;
  };
  EXPECT_EQ(host({}, inventory.path()).str(), uuid);
  EXPECT_TRUE(host({}, broken.path()).is_nil());
  EXPECT_TRUE(host({}, "/nonexistent").is_nil()) << "then nobody asks where a VM runs";
  const char* other = "00000000-0000-4000-8000-000000000001";
  EXPECT_EQ(host({"--host-uuid", other}, inventory.path()).str(), other);
}

TEST(Options, ServeMetricsOnALoopbackAddressOnly) {
  EXPECT_FALSE(parse({}).options->metrics_address());
  EXPECT_FALSE(parse({"--metrics", "none"}).options->metrics_address());
  EXPECT_TRUE(parse({"--metrics", "127.0.0.1:9101"}).options->metrics_address()->is_v4);
  EXPECT_TRUE(parse({"--metrics", "127.1.2.3:65535"}).options);
  EXPECT_FALSE(parse({"--metrics", "[::1]:9101"}).options->metrics_address()->is_v4);
  for (const char* wrong :
       {"", "9101", ":9101", "0.0.0.0:9101", "128.0.0.1:9101", "192.0.2.1:9101", "[::]:9101", "::1:9101",
        "localhost:9101", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:http", "127.1:9101"}) {
    EXPECT_FALSE(parse({"--metrics", wrong}).options) << wrong;
  }
}

TEST(Options, SwitchRetentionOffWithZero) {
  EXPECT_EQ(parse({"--retain", "0s"}).options->retain.count(), 0);
  EXPECT_EQ(parse({"--retain", "30s"}).options->retain, std::chrono::seconds(30));
  const ConfigFile file("retain = \"1min\"\nhost-uuid = \"00000000-0000-4000-8000-000000000001\"\n");
  EXPECT_EQ(parse({"--config", file.path()}).options->retain, std::chrono::minutes(1));
}

TEST(Options, NameAStoreOfOurOwn) {
  const Parsed parsed = parse({"--upstream", "embedded:/var/lib/xapi-guard/state.db"});
  ASSERT_TRUE(parsed.options);
  EXPECT_EQ(parsed.options->embedded_file(), "/var/lib/xapi-guard/state.db");
  EXPECT_EQ(parse({}).options->embedded_file(), std::nullopt);
}

/// The example with its comment marks taken away from the keys.
std::string example_of_a_file() {
  std::ifstream file(GUARD_SOURCE_DIR "/packaging/xapi-guard.toml");
  std::string text;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#') && line.find(" = ") != line.npos && !line.starts_with("# ")) line.erase(0, 1);
    text += line + "\n";
  }
  return text;
}

TEST(Options, StandInTheExampleOfAFileWithTheirDefaults) {
  const ConfigFile file(example_of_a_file());
  const Parsed parsed = parse({"--config", file.path()});
  ASSERT_TRUE(parsed.options);
  Options expected = *parse({}).options;
  expected.control_socket = expected.control_socket_path();
  expected.host_uuid = parsed.options->host_uuid;
  EXPECT_EQ(*parsed.options, expected);
}

TEST(Options, RefuseAnUnknownKeyInTheFile) {
  const ConfigFile file("upstreem = \"unix:/tmp/file\"\n");
  const Parsed parsed = parse({"--config", file.path()});
  EXPECT_FALSE(parsed.options);
  EXPECT_EQ(parsed.exit_status, 2);
}

TEST(Options, RefuseAFileThatIsMissing) {
  const Parsed parsed = parse({"--config", "/nonexistent/file.toml"});
  EXPECT_FALSE(parsed.options);
  EXPECT_EQ(parsed.exit_status, 2);
}

TEST(Options, RefuseWhatMakesNoSense) {
  const std::vector<std::vector<const char*>> wrong = {{"--direct-timeout", "500"},
                                                       {"--direct-timeout", "0ms"},
                                                       {"--doubt-window", "0s"},
                                                       {"--retain", "15"},
                                                       {"--host-uuid", "here"},
                                                       {"--runtime-dir", "relative"},
                                                       {"--journal-size", "32"},
                                                       {"--journal-size", "4099KiB"},
                                                       {"--journal-size", "1MiB"},
                                                       {"--journal-size", "2GiB"},
                                                       {"--journal-max", "16MiB"},
                                                       {"--journal-max", "2GiB"},
                                                       {"--journal-max", "65537KiB"},
                                                       {"--journal-max", "1"},
                                                       {"--upstream", "tcp:1"},
                                                       {"--upstream", "embedded:state.db"},
                                                       {"--upstream", "embedded:/var/lib/"},
                                                       {"--upstream", "embedded:"},
                                                       {"--state-dir", "relative"},
                                                       {"--queue-capacity", "0"},
                                                       {"--queue-capacity", "-1"},
                                                       {"--delivery-concurrency", "99"},
                                                       {"--max-body", "1GiB"},
                                                       {"--log-level", "loud"},
                                                       {"--no-such-option"},
                                                       {"stray"}};
  for (const auto& words : wrong) {
    const Parsed parsed = parse(words);
    EXPECT_FALSE(parsed.options) << words.front() << (words.size() > 1 ? words[1] : "");
    EXPECT_EQ(parsed.exit_status, 2) << words.front();
  }
}

TEST(Options, PrintHelpAndVersionAndEndWell) {
  EXPECT_EQ(parse({"--help"}).exit_status, 0);
  EXPECT_FALSE(parse({"--help"}).options);
  EXPECT_EQ(parse({"--version"}).exit_status, 0);
}

}  // namespace
}  // namespace guard::daemon
