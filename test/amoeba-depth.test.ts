/** The dynamic programme over blocks, on metrics that are made up. */
import { describe, expect, test } from '@jest/globals'
import { type Cell, costOf, type DepthSearch, searchDepths } from '../lib/workflows/amoeba/depth.js'

/** `depths`: the mask for each number of removed blocks, as bits, with its metric. */
async function found(search: Partial<DepthSearch>, metric: (mask: boolean[], cell: Cell) => number) {
  const whole = { layers: 4, keepLast: 0, most: 2, order: 'deepest', metric: 'accuracy', ...search } as const
  const tried: Cell[] = []
  const dense = metric(
    Array.from({ length: whole.layers }, () => true),
    { n: 0, m: 0, mask: [] },
  )
  const table = await searchDepths(whole, dense, async (cells) => {
    tried.push(...cells)
    return cells.map((cell) => metric(cell.mask, cell))
  })
  const bits = (mask: boolean[]) => mask.map(Number).join('')
  const depths = table.masks.at(-1)!.map((mask, m) => [bits(mask), table.values.at(-1)![m]])
  return { search: whole, table, tried, depths }
}

/** 10 less the importances of what is removed, and 3 less where both of a pair are. */
const toy = (importance: number[], pair: [number, number]) => (mask: boolean[]) =>
  10 -
  importance.reduce((sum, own, block) => sum + (mask[block] ? 0 : own), 0) -
  (mask[pair[0]] || mask[pair[1]] ? 0 : 3)

describe('the search for depths', () => {
  test('finds the masks of the toy, which are not the best ones, with seven evaluations', async () => {
    const { depths, tried } = await found({}, toy([5, 1, 2, 4], [1, 2]))
    expect(depths).toEqual([
      ['1111', 10],
      ['1011', 9],
      ['1100', 4],
    ])
    expect(tried).toHaveLength(7)
  })

  test('from the other end finds the mirrored masks of the mirrored toy', async () => {
    const { depths, tried } = await found({ order: 'shallowest' }, toy([4, 2, 1, 5], [1, 2]))
    expect(depths.map(([mask]) => mask)).toEqual(['1111', '1101', '0011'])
    expect(tried).toHaveLength(7)
  })

  test('keeps the block where both are equal', async () => {
    const { depths } = await found({ layers: 5, keepLast: 1 }, () => 0.5)
    // The deepest block goes first, and what comes later is no better.
    expect(depths.map(([mask]) => mask)).toEqual(['11111', '11101', '11001'])
    const losses = await found({ layers: 5, keepLast: 1, metric: 'nll' }, () => 0)
    expect(losses.depths).toEqual(depths.map(([mask]) => [mask, 0]))
  })

  test('takes the smaller loss and the larger accuracy', async () => {
    const only = (block: number) => (mask: boolean[]) => (mask[block] ? 2 : 1)
    expect((await found({ most: 1, metric: 'nll' }, only(2))).depths[1]).toEqual(['1101', 1])
    expect((await found({ most: 1, metric: 'accuracy' }, only(3))).depths[1]).toEqual(['1101', 2])
  })

  test.each(['nll', 'accuracy'] as const)('takes nothing for better that is not a number (%s)', async (metric) => {
    // Only masks with block 1 removed have a metric: what was decided about before has none.
    const { table, tried, depths } = await found({ metric }, (mask) => (mask[1] ? Number.NaN : 3))
    expect(table.values.map((row) => row.slice(1))).toEqual([
      [],
      [Number.NaN],
      [Number.NaN, Number.NaN],
      [3, Number.NaN],
      [3, 3],
    ])
    expect(depths.slice(1)).toEqual([
      ['1011', 3],
      ['0011', 3],
    ])
    // There is nothing to remove another block from where no mask has a metric.
    expect(tried.map(({ n, m }) => [n, m])).toEqual([
      ...[
        [1, 1],
        [2, 1],
        [3, 1],
        [4, 1],
        [4, 2],
      ],
    ])
    expect(table.masks[2]![1]).toEqual([false, false, false, false])
  })

  test('never removes the last blocks, and tries as many masks as it says', async () => {
    for (const [layers, keepLast, most] of [
      [32, 1, 12],
      [8, 1, 4],
      [6, 2, 4],
      [5, 0, 4],
      [4, 4, 0],
    ] as const) {
      for (const order of ['deepest', 'shallowest'] as const) {
        let seed = 1
        const random = () => {
          seed = (seed * 48271) % 2147483647
          return seed
        }
        const { search, tried, depths } = await found({ layers, keepLast, most, order, metric: 'nll' }, random)
        expect(depths).toHaveLength(most + 1)
        for (const [m, [mask]] of depths.entries()) {
          expect(String(mask).split('0')).toHaveLength(m + 1)
          expect(String(mask).slice(layers - keepLast)).toBe('1'.repeat(keepLast))
        }
        const passes = tried.map(({ mask }) => mask.slice(mask.indexOf(false)).filter((stays) => stays).length)
        const total = passes.reduce((sum, own) => sum + own, layers)
        const cost = costOf(search)
        expect(cost.cells).toBe(tried.length)
        if (order === 'deepest') expect(cost.blockPasses).toBe(total)
        else expect(cost.blockPasses).toBeGreaterThanOrEqual(total)
      }
    }
    expect(costOf({ layers: 32, keepLast: 1, most: 12, order: 'deepest', metric: 'nll' }).cells).toBe(306)
  })
})
