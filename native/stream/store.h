// Where a run reads and writes: files, or memory of the caller. An output hashes itself while it is written, in the
// order of its bytes: from memory where what comes before is written already or under way, else read back later.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/sha256.h"
#include "base/thread_pool.h"
#include "io/direct.h"
#include "io/file.h"
#include "plan/plan.h"

namespace weightsmith {

class Input {
 public:
  explicit Input(const Place& place);
  void read(uint64_t offset, void* data, uint64_t size) const;

 private:
  std::unique_ptr<File> file_;
  const uint8_t* memory_;
  uint64_t size_;
};

class Output {
 public:
  // Creates the file and writes its header; `keep`: goes on with the file of an earlier run; `sync`: the run waits for
  // the disk in the end. `hashers`: null where no checksum is asked for.
  Output(const Place& place, ThreadPool* hashers, bool keep, bool sync);
  // Whether the file of an earlier run was there.
  bool kept() const { return file_ && file_->kept(); }
  // An earlier run has written this range.
  void known(uint64_t offset, uint64_t size);
  // From any thread, each byte once.
  void write(uint64_t offset, const uint8_t* data, uint64_t size);
  // Waits until what was written is on the disk.
  void sync();
  void syncData();
  // SHA-256 (hex) once every byte has been written; empty where no checksum is asked for.
  std::string checksum();
  // Lets hashing end early and waits for it; for runs that fail.
  void abandon() noexcept;

 private:
  void store(uint64_t offset, const uint8_t* data, uint64_t size);
  // Ends a write; hashes its bytes from `data`, or leaves them to be read back.
  void written(uint64_t offset, const uint8_t* data, uint64_t size);
  bool reaches(uint64_t offset) const;
  void hashOn();

  std::unique_ptr<File> file_;
  std::unique_ptr<DirectFile> direct_;  // null where writes go through the page cache
  uint8_t* memory_;
  uint64_t size_;
  ThreadPool* hashers_;
  std::mutex mutex_;
  std::map<uint64_t, uint64_t> early_;  // start and end of what was written beyond `prefix_`
  uint64_t prefix_ = 0;                 // bytes from the start that are all written
  uint64_t hashed_ = 0;
  bool hashing_ = false;                 // one thread at a time has the hash
  std::map<uint64_t, uint64_t> inside_;  // start and end of writes that hash what they wrote, if their turn comes
  std::condition_variable turn_;
  std::atomic<bool> abandoned_{false};
  Sha256 hash_;
  Completion hashes_;
};

}  // namespace weightsmith
