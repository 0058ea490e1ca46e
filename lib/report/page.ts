/** A report as data: what a verb found, in sections with a figure each. `renderPage` makes one HTML file of it. */

export interface Page {
  title: string
  /** What was done and what came out, in a sentence or two. */
  summary?: string | undefined
  /** Names and values under the title: models, method, device. */
  facts?: readonly (readonly [name: string, value: string])[] | undefined
  sections: readonly PageSection[]
}

export interface PageSection {
  title: string
  text?: string | undefined
  figure?: PageFigure | undefined
}

export type PageFigure = PageTable | PageHeatMap | PageCurves | PageHistogram | PageKeptMap

export interface PageTable {
  kind: 'table'
  head: readonly string[]
  /** Columns of numbers stand to the right. */
  rows: readonly (readonly (string | number)[])[]
}

/**
 * Rows downward, columns across, a colour a cell. Every colour is for as many values, so that one large cell leaves the
 * others apart.
 */
export interface PageHeatMap {
  kind: 'heat'
  /** What the values are: `‖Δ‖ / ‖A‖`. */
  label: string
  rows: readonly string[]
  columns: readonly string[]
  /** `note` is added to what a cell says when pointed at. A value of null is shown as unknown. */
  cells: readonly { row: string; column: string; value: number | null; note?: string | undefined }[]
  /** Values of all maps, where several share one scale. Defaults to those of the cells. */
  among?: readonly number[] | undefined
}

/** Lines over one axis, in panels one above the other, each with a scale of its own. */
export interface PageCurves {
  kind: 'curves'
  /** What the axis is: `layer`. */
  x: string
  panels: readonly {
    label: string
    curves: readonly { name: string; points: readonly (readonly [x: number, y: number])[] }[]
  }[]
}

/** How values are distributed: the share of them in each of equal bins. */
export interface PageHistogram {
  kind: 'histogram'
  label: string
  series: readonly { name: string; values: ArrayLike<number> }[]
  /** Bins of equal ratios; values that are not positive are left out, and counted beside the series' name. */
  log?: boolean | undefined
  /** Where a decision was made. */
  threshold?: number | undefined
}

/** What of each row was kept: heads or neurons of a layer. Rows of many units show the share kept of neighbours. */
export interface PageKeptMap {
  kind: 'map'
  /** What a unit is: `neuron`. */
  unit: string
  rows: readonly { name: string; kept: ArrayLike<number | boolean> }[]
}
