#include "stream/completed_jobs.h"

#include <map>
#include <set>
#include <utility>

#include "stream/tiling.h"

namespace weightsmith {

namespace {
constexpr auto kLongestWait = std::chrono::seconds(2);
}  // namespace

CompletedJobs::CompletedJobs(const Plan& plan)
    : plan_(plan),
      journal_(plan.journal->path, plan.journal->run, plan.journal->resume),
      left_(plan.jobs.size()),
      last_(std::chrono::steady_clock::now()) {
  for (size_t i = 0; i < plan.jobs.size(); i++) {
    for (const Variant& variant : plan.jobs[i].variants) {
      if (variant.output) left_[i] += bytesOf(variant.output->dtype, plan.jobs[i].elements);
    }
  }
}

std::vector<bool> CompletedJobs::finished() const {
  std::vector<bool> finished(plan_.jobs.size());
  for (const JournalRecord& record : journal_.earlier()) {
    if (record.variant == JournalRecord::kFinished && record.job < finished.size()) finished[record.job] = true;
  }
  // Jobs that know each other are computed together or not at all.
  std::set<int32_t> open;
  const auto shared = [this](size_t job) {
    const int32_t program = plan_.jobs[job].program;
    return program >= 0 && plan_.programs[program].shared;
  };
  for (size_t i = 0; i < finished.size(); i++) {
    if (!finished[i] && shared(i)) open.insert(plan_.jobs[i].program);
  }
  for (size_t i = 0; i < finished.size(); i++) {
    if (open.count(plan_.jobs[i].program)) finished[i] = false;
  }
  return finished;
}

std::vector<Counts> CompletedJobs::counts() const {
  // A job's records stand right before the one that finishes it, or a crash cut it off; the last ones are true.
  std::map<uint32_t, std::vector<Counts>> byJob;
  std::vector<Counts> open;
  for (const JournalRecord& record : journal_.earlier()) {
    if (record.variant != JournalRecord::kFinished) {
      open.push_back({record.job, record.variant, record.nonFinite, record.changed, record.swallowed});
      continue;
    }
    std::erase_if(open, [&](const Counts& counts) { return counts.job != record.job; });
    byJob[record.job] = std::exchange(open, {});
  }
  const std::vector<bool> done = finished();
  std::vector<Counts> all;
  for (const auto& [job, counts] : byJob) {
    if (job < done.size() && done[job]) all.insert(all.end(), counts.begin(), counts.end());
  }
  return all;
}

void CompletedJobs::found(const Counts& counts) {
  const std::lock_guard lock(mutex_);
  counts_[counts.job].push_back({counts.job, counts.variant, counts.nonFinite, counts.changed, counts.swallowed});
}

void CompletedJobs::wrote(uint32_t job, uint64_t bytes) {
  since_ += bytes;
  if (left_[job].fetch_sub(bytes) != bytes) return;
  const std::lock_guard lock(mutex_);
  if (const auto known = counts_.find(job); known != counts_.end()) {
    finished_.insert(finished_.end(), known->second.begin(), known->second.end());
    counts_.erase(known);
  }
  finished_.push_back({job});
}

bool CompletedJobs::due() {
  const std::lock_guard lock(mutex_);
  if (noting_ || finished_.empty()) return false;
  const bool late = std::chrono::steady_clock::now() - last_ >= kLongestWait;
  if (!late && since_ < plan_.journal->every) return false;
  noting_ = true;
  return true;
}

void CompletedJobs::note(const std::vector<std::unique_ptr<Output>>& outputs) {
  std::vector<JournalRecord> records;
  {
    const std::lock_guard lock(mutex_);
    records = std::exchange(finished_, {});
    since_ = 0;
    // A disk that failed once may have lost bytes that it does not speak of again.
    if (broken_) return;
    broken_ = true;
  }
  if (!records.empty()) {
    if (plan_.sync) {
      for (const auto& output : outputs) output->syncData();
    }
    journal_.append(records);
  }
  const std::lock_guard lock(mutex_);
  broken_ = false;
  last_ = std::chrono::steady_clock::now();
  noting_ = false;
}

}  // namespace weightsmith
