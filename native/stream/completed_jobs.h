// Tracks which jobs are durably on disk and journals them in batches, because waiting for the disk costs time: counts
// what writers have written, and notes a finished job once its bytes are synced.
#pragma once
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "io/journal.h"
#include "plan/plan.h"
#include "stream/store.h"

namespace weightsmith {

class CompletedJobs {
 public:
  // Reads the journal of an earlier run, if the plan says so.
  explicit CompletedJobs(const Plan& plan);

  // Whether an earlier run has left anything to go on from.
  bool resumes() const { return !journal_.earlier().empty(); }
  // The files of the earlier run are gone.
  void startOver() { journal_.clear(); }
  // By job; and what the report has to say of those.
  std::vector<bool> finished() const;
  std::vector<Counts> counts() const;

  // Elements so counted are on their way to the disk; said before they are written.
  void found(const Counts& counts);
  // From any thread, after a write of that job returned.
  void wrote(uint32_t job, uint64_t bytes);
  // Whether it is time for a note; true for one caller, who then calls `note`.
  bool due();
  // Waits for the disk (if the plan syncs), then notes what was finished before.
  void note(const std::vector<std::unique_ptr<Output>>& outputs);

 private:
  const Plan& plan_;
  Journal journal_;
  std::vector<std::atomic<uint64_t>> left_;  // bytes a job has still to write
  std::atomic<uint64_t> since_{0};           // bytes written since the last note
  std::mutex mutex_;
  std::map<uint32_t, std::vector<JournalRecord>> counts_;  // of jobs that are not finished
  std::vector<JournalRecord> finished_;                    // not noted yet
  std::chrono::steady_clock::time_point last_;
  bool noting_ = false;
  bool broken_ = false;  // from the start of a note to its good end
};

}  // namespace weightsmith
