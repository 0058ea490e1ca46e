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

std::vector<NonFinite> CompletedJobs::nonFinite() const {
  // A job's records stand right before the one that finishes it, or a crash cut it off; the last ones are true.
  std::map<uint32_t, std::vector<NonFinite>> byJob;
  std::vector<NonFinite> open;
  for (const JournalRecord& record : journal_.earlier()) {
    if (record.variant != JournalRecord::kFinished) {
      open.push_back({record.job, record.variant, record.nonFinite});
      continue;
    }
    std::erase_if(open, [&](const NonFinite& values) { return values.job != record.job; });
    byJob[record.job] = std::exchange(open, {});
  }
  const std::vector<bool> done = finished();
  std::vector<NonFinite> found;
  for (const auto& [job, values] : byJob) {
    if (job < done.size() && done[job]) found.insert(found.end(), values.begin(), values.end());
  }
  return found;
}

void CompletedJobs::found(const NonFinite& values) {
  const std::lock_guard lock(mutex_);
  nonFinite_[values.job].push_back({values.job, values.variant, values.count});
}

void CompletedJobs::wrote(uint32_t job, uint64_t bytes) {
  since_ += bytes;
  if (left_[job].fetch_sub(bytes) != bytes) return;
  const std::lock_guard lock(mutex_);
  if (const auto known = nonFinite_.find(job); known != nonFinite_.end()) {
    finished_.insert(finished_.end(), known->second.begin(), known->second.end());
    nonFinite_.erase(known);
  }
  finished_.push_back({job, JournalRecord::kFinished, 0});
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
