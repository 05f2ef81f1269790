// The worked example of docs/JOURNAL_FORMAT.md is what the code writes, byte for byte, and what it reads.
#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <map>
#include <sstream>

#include "journal/scan.h"
#include "testing/journal_model.h"

namespace guard::journal {
namespace {

using testing::SimDisk;
using Bytes = std::vector<std::byte>;

/// The journal of the example. Salts count up from 0x1122334455667701.
void write_example(SimDisk& disk) {
  std::uint64_t salt = 0x1122334455667700;
  auto store = Store::open(disk.root(), small_options(16), [&] { return ++salt; }, null_logger()).value();
  Entry entry;
  entry.owner.vm = *Uuid::parse("3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
  entry.vtpm = *Uuid::parse("c2a5a3f0-7b1d-4e8e-8f2a-0d9c8b7a6f51");
  entry.slot = Slot::savestate;
  entry.sequence = 1;
  entry.wall_ms = 1'700'000'000'000;
  entry.known = {digest_of("")};
  entry.value = Value("aGVsbG8gdHBtCg==");
  EXPECT_TRUE(run_one(*store, entry).result);
  Removal removal;
  removal.owner = entry.owner;
  removal.slot = entry.slot;
  removal.up_to = 1;
  removal.delivered = entry.value.digest();
  EXPECT_TRUE(run_one(*store, removal).result);
  store->seal();
}

/// The files in the document: each block of lines "OFFSET  bytes  words" that begins "```hex FILE SIZE".
std::map<std::string, Bytes> documented() {
  std::map<std::string, Bytes> files;
  std::ifstream document(GUARD_DOCS "/JOURNAL_FORMAT.md");
  Bytes* file = nullptr;
  for (std::string line; std::getline(document, line);) {
    if (line.starts_with("```hex ")) {
      std::istringstream words(line.substr(7));
      std::string name;
      std::size_t size = 0;
      words >> name >> size;
      file = &files[name];
      file->resize(size);
    } else if (line.starts_with("```")) {
      file = nullptr;
    } else if (file != nullptr && !line.empty()) {
      const std::string_view text = line;
      const auto number = [](std::string_view digits) {
        std::size_t value = 0;
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
        EXPECT_TRUE(error == std::errc() && end == digits.data() + digits.size()) << digits;
        return value;
      };
      std::size_t at = number(text.substr(0, text.find(' ')));
      std::string_view rest = text.substr(text.find("  ") + 2);
      rest = rest.substr(0, rest.find("  "));
      for (; !rest.empty(); rest.remove_prefix(std::min<std::size_t>(3, rest.size()))) {
        if (at >= file->size()) ADD_FAILURE() << "behind the end of the file: " << line;
        if (at < file->size()) (*file)[at++] = static_cast<std::byte>(number(rest.substr(0, 2)));
      }
    }
  }
  return files;
}

// --- How the document shows what the code writes, for when the format changes ------------------------------

struct Part {
  std::size_t size;
  const char* name;
};

std::string lines_of(const Bytes& file, std::size_t& at, std::initializer_list<Part> parts) {
  std::string out;
  for (const Part& part : parts) {
    for (std::size_t done = 0; done < part.size; done += 16) {
      std::string hex;
      for (std::size_t i = done; i < std::min(done + 16, part.size); ++i) {
        hex += fmt::format("{}{:02x}", hex.empty() ? "" : " ", std::to_integer<unsigned>(file[at + i]));
      }
      out += fmt::format("{:08x}  {:<47}  {}\n", at + done, hex, done == 0 ? part.name : "");
    }
    at += part.size;
  }
  return out;
}

/// Field by field; zeros are left out.
std::string shown(const Bytes& file) {
  std::string out;
  const auto header = decode_file_header(file);
  for (std::size_t at = 0; at < data_start;) {
    out += lines_of(file, at,
                    {{8, "magic"},
                     {4, "version"},
                     {4, "block size"},
                     {8, "generation"},
                     {8, "salt"},
                     {8, "highest sequence"},
                     {8, "size of the file"}});
    at += block - 56;
    out += lines_of(file, at, {{8, "checksum"}}) + "\n";
  }
  for (std::size_t at = data_start; at < file.size();) {
    const auto record = decode_record(std::span(file).subspan(at), at, header ? header->salt : 0);
    if (!record) {
      at += 8;
      continue;
    }
    out += lines_of(file, at,
                    {{8, "magic"},
                     {8, "checksum"},
                     {4, "payload size"},
                     {4, "type, device, slot, flags"},
                     {4, "marks, known digests, zeros"},
                     {4, "position / 8"},
                     {4, "batch start / 4096"},
                     {4, "batch length / 8"},
                     {8, "sequence"},
                     {8, "time"},
                     {16, "VM"},
                     {16, "vTPM"},
                     {16, "digest"},
                     {record->known_count * 16u, "known digest"},
                     {record->payload_size, "payload"}}) +
           "\n";
    at = round_up(at, 8);
  }
  return out;
}

TEST(FormatExample, TheDocumentShowsWhatTheCodeWrites) {
  SimDisk disk(1);
  write_example(disk);
  const auto files = documented();
  ASSERT_EQ(files.size(), 2u) << "no example in the document";
  for (const char* name : {"a", "b"}) {
    const Bytes written = disk.contents(name);
    ASSERT_TRUE(files.contains(name));
    EXPECT_TRUE(files.at(name) == written)
        << "the document should say:\n```hex " << name << " " << written.size() << "\n"
        << shown(written) << "```";
  }
}

TEST(FormatExample, TheScannerReadsTheDocument) {
  const auto files = documented();
  ASSERT_TRUE(files.contains("a"));
  SimDisk disk(1);
  auto root = disk.root();
  for (const auto& [name, bytes] : files) {
    const std::span<const std::byte> part = bytes;
    EXPECT_TRUE(root->open_file(name, Directory::Mode::create_new).value()->write_at(0, {&part, 1}));
  }
  auto file = root->open_for_read("a").value();
  const Headers headers = read_headers(*file).value();
  ASSERT_NE(headers.best(), nullptr);
  EXPECT_EQ(headers.best()->generation, 1u);
  EXPECT_EQ(headers.best()->salt, 0x1122334455667701u);
  std::vector<RecordType> types;
  const auto scan =
      scan_file(*file, *headers.best(), [&](const Record& r, std::span<const std::byte> payload) {
        types.push_back(r.type);
        if (r.type != RecordType::write) return;
        EXPECT_EQ(as_text(payload), "aGVsbG8gdHBtCg==");
        EXPECT_EQ(r.owner.vm.str(), "3f1c0e5a-8f5b-4c0e-9d2b-6a1e5b7c9d10");
        EXPECT_EQ(r.vtpm.str(), "c2a5a3f0-7b1d-4e8e-8f2a-0d9c8b7a6f51");
        EXPECT_EQ(r.slot, Slot::savestate);
      });
  ASSERT_TRUE(scan);
  EXPECT_TRUE(scan->complete);
  EXPECT_TRUE(scan->damage.empty());
  EXPECT_EQ(scan->unproven_from, 0u) << "the last batch is sealed";
  EXPECT_EQ(types, (std::vector{RecordType::complete, RecordType::complete, RecordType::write,
                                RecordType::removed, RecordType::complete}));
}

}  // namespace
}  // namespace guard::journal
