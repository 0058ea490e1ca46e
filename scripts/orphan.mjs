/**
 * Loaded by every process of a test run: a worker ends when the process that started it is gone. Without this, one that
 * polls for a file that never comes outlives a run that was killed, and keeps a core busy. The parent is asked for by a
 * timer, because a listener for `disconnect` would keep workers alive that are done.
 */
const parent = process.ppid
if (process.send !== undefined) {
  setInterval(() => {
    if (process.ppid !== parent) process.exit(1)
  }, 1000).unref()
}
