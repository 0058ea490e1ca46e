/**
 * Timing of asynchronous calls by the `benchmark` package: it finds how many calls a sample needs to be longer than the
 * clock's resolution, and collects samples.
 */
import Benchmark from 'benchmark'

/**
 * Milliseconds a call, one number a sample. With `single`, a sample is one call; otherwise as many as take 50 ms.
 */
export async function timeCalls(call, { samples, single = false }) {
  let failure
  const bench = new Benchmark({
    defer: true,
    minSamples: samples,
    maxTime: 0,
    minTime: single ? 1e-9 : 0.05,
    fn: (deferred) => {
      call().then(
        () => deferred.resolve(),
        (error) => {
          failure = error
          bench.abort()
          deferred.resolve()
        },
      )
    },
  })
  await new Promise((done) => bench.on('complete', done).run({ async: true }))
  if (failure !== undefined) throw failure
  return bench.stats.sample.map((seconds) => 1e3 * seconds)
}
