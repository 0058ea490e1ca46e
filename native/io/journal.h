// The journal of a run: which of its jobs are finished, on disk beside the output, so that a later run can go on from
// there. Records are only ever added; a tail that a crash tore, or anything else that is not ours, is cut off.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/file.h"

namespace weightsmith {

struct JournalRecord {
  /// `variant` of a record that says: the job is finished. Other records come before it.
  static constexpr uint32_t kFinished = 0xFFFFFFFF;

  uint32_t job = 0;
  uint32_t variant = kFinished;
  /// Counted among the elements that the variant stored; see Counts in plan/plan.h.
  uint64_t nonFinite = 0, changed = 0, swallowed = 0;
};

struct JournalText {
  std::vector<JournalRecord> records;
  /// Bytes that are sound; 0 where this is not a journal of that run.
  size_t sound = 0;
};

/// What bytes that nobody vouches for say about `run` (a hash of everything that decides about the output).
JournalText parseJournal(std::string_view bytes, std::string_view run);

class Journal {
 public:
  /// Begins a journal; with `resume`, goes on with the one that is there if it is of the same run.
  Journal(const std::string& path, std::string run, bool resume);

  /// Records of earlier runs.
  const std::vector<JournalRecord>& earlier() const { return earlier_; }

  /// Forgets all records.
  void clear();

  /// What the records speak of has to be on disk already. They survive the process once this returns.
  void append(const std::vector<JournalRecord>& records);

 private:
  std::string run_;
  std::vector<JournalRecord> earlier_;
  File file_;
  uint64_t end_ = 0;
  uint64_t check_ = 0;
};

}  // namespace weightsmith
