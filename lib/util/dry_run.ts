/** What a dry run gives: every verb that computes has the option, and they all answer in one shape. */

/** Everything was checked, and nothing was computed for good or written. */
export interface DryRun<Forecast> {
  forecast: Forecast
}
