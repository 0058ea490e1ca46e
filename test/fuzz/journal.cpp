// Any bytes as a journal: what is sound of it is a prefix that reads the same on its own.
#include "io/journal.h"

#include <string>

#include "check.h"

using namespace weightsmith;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string run(64, 'a');
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const JournalText text = parseJournal(bytes, run);
  check(text.sound <= size);
  const JournalText again = parseJournal(bytes.substr(0, text.sound), run);
  check(again.sound == text.sound && again.records.size() == text.records.size());
  check(parseJournal(bytes, std::string(64, 'b')).records.empty() || text.sound == 0);
  return 0;
}
