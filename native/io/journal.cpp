// Layout: one line that names format and run, then records of 40 bytes, little-endian: job u32, variant u32,
// three counts u64, check u64. A check is the FNV-1a-64 of the first 32 bytes, continued from the check before it, so a
// record is sound only where all before it are.
#include "io/journal.h"

#include <utility>

#include "base/fnv.h"

namespace weightsmith {

namespace {

constexpr size_t kRecord = 40;
constexpr size_t kChecked = 32;
// A million tensors with a non-finite value each; more than that is no journal.
constexpr uint64_t kLargest = uint64_t{64} << 20;

std::string headLine(std::string_view run) { return "weightsmith journal 2 " + std::string(run) + "\n"; }

uint64_t fnvOn(uint64_t hash, std::string_view bytes) {
  for (const char c : bytes) hash = fnvByte(hash, static_cast<uint8_t>(c));
  return hash;
}

void put(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) out += static_cast<char>(value >> (8 * i));
}

uint64_t get(std::string_view bytes, size_t at, int count) {
  uint64_t value = 0;
  for (int i = 0; i < count; i++) value |= uint64_t{static_cast<uint8_t>(bytes[at + i])} << (8 * i);
  return value;
}

uint64_t lastCheck(std::string_view bytes, const JournalText& text, std::string_view head) {
  return text.records.empty() ? fnv1a(head) : get(bytes, text.sound - 8, 8);
}

}  // namespace

JournalText parseJournal(std::string_view bytes, std::string_view run) {
  JournalText text;
  const std::string head = headLine(run);
  if (bytes.substr(0, head.size()) != head) return text;
  text.sound = head.size();
  uint64_t check = fnv1a(head);
  for (size_t at = head.size(); bytes.size() - at >= kRecord; at += kRecord) {
    check = fnvOn(check, bytes.substr(at, kChecked));
    if (check != get(bytes, at + kChecked, 8)) break;
    text.records.push_back({static_cast<uint32_t>(get(bytes, at, 4)), static_cast<uint32_t>(get(bytes, at + 4, 4)),
                            get(bytes, at + 8, 8), get(bytes, at + 16, 8), get(bytes, at + 24, 8)});
    text.sound = at + kRecord;
  }
  return text;
}

Journal::Journal(const std::string& path, std::string run, bool resume)
    : run_(std::move(run)), file_(File::append(path)) {
  if (resume && file_.size() > 0 && file_.size() <= kLargest) {
    std::string bytes(static_cast<size_t>(file_.size()), '\0');
    file_.readAt(0, bytes.data(), bytes.size());
    JournalText text = parseJournal(bytes, run_);
    if (text.sound > 0) {
      check_ = lastCheck(bytes, text, headLine(run_));
      end_ = text.sound;
      file_.resize(end_);
      earlier_ = std::move(text.records);
      return;
    }
  }
  clear();
}

void Journal::clear() {
  const std::string head = headLine(run_);
  file_.resize(0);
  file_.writeAt(0, head.data(), head.size());
  earlier_.clear();
  end_ = head.size();
  check_ = fnv1a(head);
}

void Journal::append(const std::vector<JournalRecord>& records) {
  std::string bytes;
  uint64_t check = check_;
  for (const JournalRecord& record : records) {
    const size_t start = bytes.size();
    put(bytes, record.job, 4);
    put(bytes, record.variant, 4);
    put(bytes, record.nonFinite, 8);
    put(bytes, record.changed, 8);
    put(bytes, record.swallowed, 8);
    check = fnvOn(check, std::string_view(bytes).substr(start, kChecked));
    put(bytes, check, 8);
  }
  file_.writeAt(end_, bytes.data(), bytes.size());
  end_ += bytes.size();
  check_ = check;
}

}  // namespace weightsmith
